"""The process in which one experiment runs: what it changes of itself ends with it.

``python -m ramet.lab.worker REQUEST``, started by `ramet.lab.runner`: REQUEST is JSON with a name and, if wanted,
other flags; the evidence is written to stdout as JSON. It has one thread, so that it can be copied by fork.
"""

from __future__ import annotations

import errno
import inspect
import json
import os
import sys
import textwrap
import time

from ramet import lowlevel
from ramet.errors import Error, UnsupportedError, errno_name
from ramet.flags import CLONE, MS, NAMESPACE_FILES, format_clone, kernel_name
from ramet.lab.evidence import Evidence, Finding, Namespaces, Notes, namespaces_of
from ramet.lab.experiments import load
from ramet.lab.kernel import CAP_SYS_ADMIN, has_capability, mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.experiment import Experiment, Run

MENDED_BY = "ramet doctor says what mends it"


class Ground:
    """Where an experiment stands: the namespaces made for it, or why there are none."""

    __slots__ = ("made", "missing")

    def __init__(self, made: CLONE, missing: str = "") -> None:
        self.made, self.missing = made, missing


def main() -> int:
    """Run the experiment that the first argument names."""
    request = json.loads(sys.argv[1])
    stdout = os.dup(1)
    with open("/dev/null", "wb") as nowhere:  # what a child prints is no evidence
        os.dup2(nowhere.fileno(), 1)
    experiment = load(request["name"])
    flags = experiment.flags if request["flags"] is None else CLONE(request["flags"])
    evidence = examine(experiment, flags)
    with open(stdout, "wb") as pipe:
        pipe.write(json.dumps(evidence.as_json()).encode())
    return 0


def examine(experiment: Experiment, flags: CLONE) -> Evidence:
    """Run it, run its control, and conclude. This process is no good for anything else afterwards."""
    uid, start = os.geteuid(), time.monotonic()
    ground = stand_on(experiment)
    here = namespaces_of("self")
    grounded = not ground.missing
    notes, control = Notes(grounded=grounded), Notes(grounded=grounded)
    missing = ground.missing
    if missing and not experiment.ground_optional:
        try_the_clone(flags, notes)
        if not experiment.ground:
            run_control(experiment, control)
    else:
        missing = attempt(experiment.run, flags, notes, experiment)
        run_control(experiment, control)
    findings = () if missing else findings_of(experiment, notes, control)
    holds = bool(findings) and all(finding.holds for finding in findings)
    return Evidence(
        number=experiment.number,
        name=experiment.name,
        title=experiment.title,
        question=experiment.question,
        flags=int(flags),
        flag_names=format_clone(flags, experiment.exit_signal),
        exit_signal=experiment.exit_signal,
        control_flags=int(experiment.control_flags),
        with_is=experiment.with_is,
        control_is=experiment.control_is,
        file=os.path.basename(inspect.getfile(experiment.run)),
        source=textwrap.dedent(inspect.getsource(experiment.run)),
        control_source=textwrap.dedent(inspect.getsource(experiment.control)) if experiment.control else "",
        observations=tuple(notes.observations),
        control=tuple(control.observations),
        findings=findings,
        holds=holds,
        conclusion=conclusion_of(experiment, findings, missing),
        claimed=experiment.claimed,
        verdict=experiment.verdict,
        page=experiment.page,
        manual=experiment.manual,
        needs=experiment.needs,
        missing=missing,
        kernel=os.uname().release,
        uid=uid,
        ground=tuple(NAMESPACE_FILES[flag] for flag in NAMESPACE_FILES if flag & ground.made),
        namespaces=Namespaces(here, notes.namespaces, control.namespaces),
        seconds=time.monotonic() - start,
    )


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
    refused = f"unshare({format_clone(wanted)}) answers {errno_name(error.errno or 0)}"
    needs = experiment.needs or "a namespace of its own"
    return f"{needs}, or user namespaces: {refused}; {MENDED_BY}"


def try_the_clone(flags: CLONE, notes: Notes) -> None:
    """The part that still runs without privilege: the clone itself, with a child that does nothing."""
    if has_capability(CAP_SYS_ADMIN):
        return  # it would succeed, outside the namespaces that keep the host as it is
    answer = "a child"
    try:
        with lowlevel.clone3(flags & ~CLONE.FS, child=[]) as made:
            made.wait()
    except OSError as error:
        answer = errno_name(error.errno or 0)
    notes.caller("clone3 answers", answer)


def attempt(run: Run, flags: CLONE, notes: Notes, experiment: Experiment) -> str:
    """Run it. What this kernel or this user can't do is noted as seen, and returned as what is missing."""
    try:
        run(flags, notes)
    except UnsupportedError as error:
        return f"{error.needs}: {error.fact}"
    except OSError as error:
        if isinstance(error, Error) or error.errno not in (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSPC):
            raise
        notes.caller(f"{error.filename or 'the call'} answers", errno_name(error.errno))
        return unmet(experiment, flags, error)
    return ""


def unmet(experiment: Experiment, flags: CLONE, error: OSError) -> str:
    """Why the kernel has refused: it is too old, or this user may not. Raises the error again where it is neither."""
    from ramet.host.namespaces import kernel_version

    kernel = kernel_version()
    for flag in flags:
        if flag.since > kernel and error.errno == errno.EINVAL:
            version = ".".join(map(str, flag.since))
            return f"Linux {version}, which brought {kernel_name(flag)}; this is Linux {os.uname().release}"
    if not experiment.needs or error.errno == errno.EINVAL:
        raise error
    return f"{experiment.needs}: {error.filename or 'a call'} answers {errno_name(error.errno or 0)}"


def run_control(experiment: Experiment, notes: Notes) -> None:
    """The same without what the experiment is about."""
    attempt(experiment.control or experiment.run, experiment.control_flags, notes, experiment)


def findings_of(experiment: Experiment, notes: Notes, control: Notes) -> tuple[Finding, ...]:
    """What follows from what was seen."""
    return tuple(Finding(text, bool(holds)) for text, holds in experiment.conclude(notes.seen(), control.seen()))


def conclusion_of(experiment: Experiment, findings: tuple[Finding, ...], missing: str) -> str:
    """The answer where every finding is true; else which are not."""
    if missing:
        return f"Not settled here: this needs {missing}."
    wrong = [finding.statement for finding in findings if not finding.holds]
    if wrong:
        return "Not so here. It is not true that " + ", nor that ".join(wrong) + "."
    return experiment.answer


if __name__ == "__main__":
    sys.exit(main())
