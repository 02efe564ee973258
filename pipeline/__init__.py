"""aft: transfer knowledge of large frozen models into small ones, through a feature store on disk."""

__version__ = "0.1.0"
