"""The experiments, one file each. Their order here is their number."""

from __future__ import annotations

from ramet.errors import SpecError

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
    """The name of an experiment, from its name or number. SpecError for one that there isn't, with the nearest."""
    text = str(wanted).strip().lower()
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= len(NAMES):
            return NAMES[int(text) - 1]
        raise SpecError(f"there are experiments 1 to {len(NAMES)}", field=f"experiment {text}")
    name = text.replace("_", "-")
    if name in NAMES:
        return name
    near = nearest(name)
    hint = f"did you mean {' or '.join(near)}?" if near else "ramet lab lists them"
    raise SpecError("there is no such experiment", field=f"experiment {str(wanted)!r}", hint=hint)


def nearest(name: str) -> list[str]:
    """The names that this one was probably meant to be, up to three, the nearest first."""
    from difflib import get_close_matches

    flag = name.removeprefix("clone-").replace("new", "") if name.startswith("clone-") else name
    inside = [known for known in NAMES if flag and (known.startswith(flag) or flag.startswith(known))]
    close = get_close_matches(flag, NAMES, n=3, cutoff=0.5)
    return list(dict.fromkeys([*inside, *close]))[:3]
