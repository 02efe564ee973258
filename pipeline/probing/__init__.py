"""How useful sources are for the task: probes on their features, and which sources to use."""

from pipeline.probing.labels import probe_once, probed
from pipeline.probing.probe import Probe, ProbeKind
from pipeline.probing.probes import ProbeResult, ProbeSettings, probe
from pipeline.probing.saved import OutputKind, SavedProbe
from pipeline.probing.subsets import AssessSettings, assess

__all__ = [
    "AssessSettings",
    "OutputKind",
    "Probe",
    "ProbeKind",
    "ProbeResult",
    "ProbeSettings",
    "SavedProbe",
    "assess",
    "probe",
    "probe_once",
    "probed",
]
