"""What teachers know of the task: probes on their features, and which teachers to use."""

from pipeline.probing.assessment import Assessment
from pipeline.probing.probes import Probe, ProbeResult, ProbeSettings, probe
from pipeline.probing.subsets import AssessSettings, assess

__all__ = ["AssessSettings", "Assessment", "Probe", "ProbeResult", "ProbeSettings", "assess", "probe"]
