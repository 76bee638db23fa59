"""What a clone does and what processes have, in words: `ramet explain`.

`explain` looks at a subject as a person types it, and asks the host for what that needs; the others take what
they speak of and ask nothing. Text fits 80 columns; `as_dict` is for JSON.
"""

from ramet.explain.call import CallExplanation, explain_call
from ramet.explain.config import ConfigExplanation, explain_config
from ramet.explain.flags import FlagsExplanation, explain_flags
from ramet.explain.pair import PairExplanation, explain_pair
from ramet.explain.process import ProcessExplanation, explain_process
from ramet.explain.subjects import explain, explain_json, explain_text

__all__ = [
    "CallExplanation",
    "ConfigExplanation",
    "FlagsExplanation",
    "PairExplanation",
    "ProcessExplanation",
    "explain",
    "explain_call",
    "explain_config",
    "explain_flags",
    "explain_json",
    "explain_pair",
    "explain_process",
    "explain_text",
]
