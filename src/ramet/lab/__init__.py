"""The lab: what clone's flags do, tried on this kernel, each beside its control.

>>> from ramet import lab
>>> evidence = lab.run("memory")
>>> evidence.holds, evidence.conclusion
"""

from ramet.lab.evidence import Evidence, Finding, Namespaces, Observation
from ramet.lab.experiment import Experiment
from ramet.lab.experiments import NAMES, find, load
from ramet.lab.runner import run, run_all

__all__ = [
    "NAMES",
    "Evidence",
    "Experiment",
    "Finding",
    "Namespaces",
    "Observation",
    "find",
    "load",
    "run",
    "run_all",
]
