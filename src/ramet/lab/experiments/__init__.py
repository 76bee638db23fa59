"""The experiments, one file each. Their order here is their number."""

from __future__ import annotations

from ramet.errors import SpecError
from ramet.text import choice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.experiment import Experiment

NAMES = (
    *("memory", "directory", "pid", "files", "net", "mount"),
    *("clone3", "answer", "exit-signal", "thread", "vfork", "parent", "words", "tls", "pidfd"),
    *("handlers", "clear-handlers", "user", "uts", "ipc", "semaphores", "cgroup", "into-cgroup", "time"),
    *("join", "set-tid", "io", "ptrace", "untraced", "obsolete"),
    *("autoreap", "nnp", "autokill", "empty-mounts"),
)


def load(name: str) -> Experiment:
    """The experiment of this name."""
    from importlib import import_module

    module = import_module(f"ramet.lab.experiments.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment


def find(wanted: str | int) -> str:
    """The name of an experiment, from its name, its number, or the flag that it is about (``CLONE_NEWPID``).

    Raises SpecError for one that there isn't, with the nearest names.
    """
    text = str(wanted).strip().lower()
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= len(NAMES):
            return NAMES[int(text) - 1]
        raise SpecError(f"there are experiments 1 to {len(NAMES)}", field=f"experiment {text}")
    name = text.replace("_", "-")
    if name in NAMES:
        return name
    about = _about_flag(text)
    if about is not None:
        return about
    near = nearest(name)
    hint = f"did you mean {choice(near)}?" if near else "ramet lab lists them"
    raise SpecError("there is no such experiment", field=f"experiment {str(wanted)!r}", hint=hint)


def nearest(name: str) -> list[str]:
    """The names that this one was probably meant to be, up to three, the nearest first."""
    from difflib import get_close_matches

    begun = [known for known in NAMES if name and (known.startswith(name) or name.startswith(known))]
    close = get_close_matches(name, NAMES, n=3, cutoff=0.5)
    return list(dict.fromkeys([*begun, *close]))[:3]


def _about_flag(text: str) -> str | None:
    """The experiment whose control leaves this flag out, if that is a flag's name."""
    from ramet.flags import CLONE

    flag = CLONE.__members__.get(text.upper().removeprefix("CLONE_"))
    if flag is None:
        return None
    return next((name for name in NAMES if load(name).without & flag), None)
