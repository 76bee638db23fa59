"""The process in which experiments run: each in a fork of its own, so what it changes of itself ends with it.

Started by `ramet.lab.runner` with a list of requests as JSON: a name each and, if wanted, other flags. Each evidence
is a line of JSON on stdout. It has one thread, so that it can be copied by fork, and has loaded the experiments
once for all of them: that makes each cost a fork, not a start of Python. SIGTERM, or the end of its caller, ends it
with the experiment that runs, and with the files and the cgroup of that.
"""

from __future__ import annotations

import errno
import inspect
import json
import os
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from contextlib import suppress
from tempfile import TemporaryDirectory

from ramet import _core, lowlevel
from ramet.errors import UnsupportedError, errno_name
from ramet.flags import CLONE, MS, NAMESPACE_FILES, format_clone, kernel_name
from ramet.host.namespaces import kernel_version
from ramet.lab.cgroups import remove_left
from ramet.lab.evidence import Evidence, Finding, Namespaces, Notes, own_namespaces
from ramet.lab.experiment import Experiment
from ramet.lab.experiments import load
from ramet.lab.kernel import CAP_SYS_ADMIN, has_capability, mount
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.lab.experiment import Run


PR_SET_PDEATHSIG = 1


class Ground:
    """Where an experiment stands: the namespaces made for it, or why there are none."""

    __slots__ = ("made", "missing")

    def __init__(self, made: CLONE, missing: str = "") -> None:
        self.made, self.missing = made, missing


def main() -> int:
    """Run the experiments that the first argument names, one after the other. The second is the caller's pid."""
    requests, caller = json.loads(sys.argv[1]), int(sys.argv[2])
    _begin_plainly()
    stdout = os.dup(1)
    with open("/dev/null", "wb") as nowhere:  # what a child prints is no evidence
        os.dup2(nowhere.fileno(), 1)
    experiments = [load(request["name"]) for request in requests]
    with TemporaryDirectory(prefix="ramet-lab-") as tempfile.tempdir:  # an experiment that is killed removes no files
        _end_with(caller)
        for experiment, request in zip(experiments, requests, strict=True):
            flags = experiment.flags if request["flags"] is None else CLONE(request["flags"])
            if _forked(experiment, flags, stdout):
                return 1  # its traceback is on stderr
    return 0


def _begin_plainly() -> None:
    """What a caller ignores, blocks or masks comes through exec: an ignored SIGCHLD would leave nothing to wait for.

    SIGTERM waits for `_end_with`.
    """
    for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
    os.umask(0o022)
    os.chdir("/")


def _end_with(caller: int) -> None:
    """From here SIGTERM ends this process in good order; it comes also when the caller has died, however that was."""

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(1)

    signal.signal(signal.SIGTERM, end)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if os.getppid() != caller:
        sys.exit(1)


def _prctl(option: int, value: int) -> None:
    _core.syscall("prctl", NR["prctl"], option, value, 0, 0, 0)


def _forked(experiment: Experiment, flags: CLONE, stdout: int) -> int:
    """Its status. It leads a process group: all of that ends, should this process have to."""
    child = 0
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        child = os.fork()
        if child == 0:
            _run(experiment, flags, stdout)
        os.setpgid(child, child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        status = os.waitpid(child, 0)[1]
    except SystemExit:
        with suppress(ProcessLookupError, ChildProcessError):  # it has ended by itself
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if child:
            remove_left(child)
        raise
    return status


def _run(experiment: Experiment, flags: CLONE, stdout: int) -> None:
    """Run one, tell the evidence, and end: nothing of this process is used any more."""
    status = 1
    try:
        os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        told = json.dumps(examine(experiment, flags).as_json()).encode()
        with open(stdout, "wb") as pipe:
            pipe.write(told + b"\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def examine(experiment: Experiment, flags: CLONE) -> Evidence:
    """Run it, run its control, and conclude. This process is no good for anything else afterwards."""
    uid, start = os.geteuid(), time.monotonic()
    ground = stand_on(experiment)
    here = own_namespaces()
    notes, control = Notes(grounded=not ground.missing), Notes(grounded=not ground.missing)
    missing = observe(experiment, flags, ground, notes, control)
    findings = () if missing else findings_of(experiment, notes, control)
    same: dict[str, Any] = {name: getattr(experiment, name) for name in Experiment._fields if name in Evidence._fields}
    return Evidence(
        **same
        | {
            "flags": int(flags),
            "flag_names": format_clone(flags, experiment.exit_signal),
            "control_flags": int(experiment.control_flags),
            "file": file_of(experiment.run),
            "source": source_of(experiment.run),
            "control_source": source_of(experiment.control) if experiment.control else "",
            "observations": tuple(notes.observations),
            "control": tuple(control.observations),
            "findings": findings,
            "holds": bool(findings) and all(finding.holds for finding in findings),
            "conclusion": conclusion_of(experiment, findings, missing),
            "missing": missing,
            "kernel": os.uname().release,
            "uid": uid,
            "ground": tuple(NAMESPACE_FILES[flag] for flag in NAMESPACE_FILES if flag & ground.made),
            "namespaces": Namespaces(here, notes.namespaces, control.namespaces),
            "seconds": time.monotonic() - start,
        }
    )


def observe(experiment: Experiment, flags: CLONE, ground: Ground, notes: Notes, control: Notes) -> str:
    """The run and its control, or the part that needs no ground. What is missing for all of it."""
    if not ground.missing or experiment.ground_optional:
        missing = attempt(experiment.run, flags, notes, experiment)
        missing_for_control = run_control(experiment, control)
        return missing or missing_for_control
    try_the_clone(flags, notes)
    if not experiment.ground:
        run_control(experiment, control)
    return ground.missing


def source_of(function: Callable[..., object]) -> str:
    """The lines of the function that runs."""
    return textwrap.dedent(inspect.getsource(function))


def file_of(function: Callable[..., object]) -> str:
    """``ramet/lab/experiments/memory.py``: where it is, in the package."""
    return "/".join(inspect.getfile(function).split(os.sep)[-4:])


def stand_on(experiment: Experiment) -> Ground:
    """Make the namespaces that the experiment is to run in; for an ordinary user, a user namespace first."""
    wanted = experiment.ground
    may = has_capability(CAP_SYS_ADMIN)
    if (experiment.needs == "CAP_SYS_ADMIN" or wanted) and not may:
        wanted |= CLONE.NEWUSER
    if not wanted:
        return Ground(CLONE(0))
    uid, gid = os.geteuid(), os.getegid()
    try:
        lowlevel.unshare(wanted)
        if wanted & CLONE.NEWUSER:
            map_to_root(uid, gid)
        if wanted & CLONE.NEWNS:
            mount(None, "/", None, MS.REC | MS.PRIVATE)
    except OSError as error:
        return Ground(CLONE(0), why_not(experiment, wanted, error))
    return Ground(wanted)


def map_to_root(uid: int, gid: int) -> None:
    """Be uid and gid 0 in the new user namespace; outside nothing changes."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def why_not(experiment: Experiment, wanted: CLONE, error: OSError) -> str:
    """What it would take, and what was answered."""
    needs = experiment.needs or "namespaces of its own"
    refused = f"unshare({format_clone(wanted)}) answers {answer_of(error)}"
    return f"{needs}, or user namespaces: {refused}; ramet doctor says what mends it"


def answer_of(error: OSError) -> str:
    """The errno; what its text hides is said."""
    if error.errno == errno.ENOSPC:
        return "ENOSPC (a limit in /proc/sys/user is reached)"
    return errno_name(error.errno or 0)


def try_the_clone(flags: CLONE, notes: Notes) -> None:
    """The part that still runs without privilege: the clone itself, with a child that does nothing."""
    if has_capability(CAP_SYS_ADMIN):
        return  # it would succeed, outside the namespaces that keep the host as it is
    answer = "a child"
    try:
        with lowlevel.clone3(flags & ~CLONE.FS, child=[]) as made:
            made.wait()
    except OSError as error:
        answer = answer_of(error)
    notes.caller("clone3 answers", answer)


REFUSALS = (
    *(errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS, errno.EAGAIN),
    *(errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EROFS, errno.ENOENT),
)
"""What a host answers that is short of something, or does not allow it; other answers are mistakes of the lab."""


def attempt(run: Run, flags: CLONE, notes: Notes, experiment: Experiment) -> str:
    """Run it. What this kernel or this host refuses is noted as seen, and returned as what is missing."""
    try:
        run(flags, notes)
    except UnsupportedError as error:
        return f"{error.needs}: {error.fact}"
    except OSError as error:
        missing = unmet(experiment, flags, error)
        if not missing:
            raise
        notes.caller(f"{call_of(error)} answers"[:22], answer_of(error))
        return missing
    return ""


def unmet(experiment: Experiment, flags: CLONE, error: OSError) -> str:
    """Why the kernel has refused: it is too old, or the host doesn't allow it. "" where it is neither."""
    kernel = kernel_version()
    for flag in flags:
        if flag.since > kernel and error.errno == errno.EINVAL:
            version = ".".join(map(str, flag.since))
            return f"Linux {version}, which brought {kernel_name(flag)}; this is Linux {os.uname().release}"
    if error.errno not in REFUSALS:
        return ""
    if error.errno == errno.ENOSYS:
        return f"{call_of(error)}, for which this kernel, or a container's filter, answers ENOSYS"
    needs = experiment.needs or "a host that allows it"
    return f"{needs}: {call_of(error)} answers {answer_of(error)}"


def call_of(error: OSError) -> str:
    """The call that ramet names in its errors, or the file that Python does."""
    return os.fsdecode(error.filename) if error.filename else error.strerror or "a call"


def run_control(experiment: Experiment, notes: Notes) -> str:
    """The same without what the experiment is about. What is missing for it."""
    return attempt(experiment.control or experiment.run, experiment.control_flags, notes, experiment)


def findings_of(experiment: Experiment, notes: Notes, control: Notes) -> tuple[Finding, ...]:
    """What follows from what was seen."""
    return tuple(Finding(text, bool(holds)) for text, holds in experiment.conclude(notes.seen(), control.seen()))


def conclusion_of(experiment: Experiment, findings: tuple[Finding, ...], missing: str) -> str:
    """The answer where every finding is true; else which are not."""
    if missing:
        return f"Not settled here: this needs {missing}."
    wrong = [finding.statement for finding in findings if not finding.holds]
    if wrong:
        return f"Not so here. Not true: {'; '.join(wrong)}."
    return experiment.answer


if __name__ == "__main__":
    sys.exit(main())
