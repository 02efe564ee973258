"""aft: transfer what large frozen models know into small ones, through a feature store on disk."""

__version__ = "0.1.0"
