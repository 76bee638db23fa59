"""Result: how a run ended."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ramet.cgroups.reading import Usage as GroupUsage
    from ramet.plan.limits import Protection
    from ramet.run.control import Message
    from ramet.run.verdict import Verdict

CLD_EXITED = 1
BLOCK = 512  # bytes, of ru_inblock and ru_oublock


class Usage:
    """What the payload and everything it started cost. None where this host, or a sandbox without init or group, can't tell.

    wall: seconds. cpu_user, cpu_system: seconds of CPU time. memory_peak: bytes, as memory_peak_of says: "group": the most at once of
    all of it together; "process": of its largest process; "caller": no process had more than that, which is what the caller had itself,
    whose memory the child has until its exec (the kernel does not tell them apart). processes_peak: threads count, ramet's own init does not. read_bytes,
    written_bytes: from and to devices; where the group does not count them (version 1, without an io limit), writes are what was
    written to files of devices, whether it has arrived there or not. minor_faults, major_faults, voluntary_switches, involuntary_switches: see getrusage(2). pressure:
    seconds in which some or all of it waited for "cpu", "memory", "io" (psi(7)).
    """

    __slots__ = (
        *(
            "wall",
            "cpu_user",
            "cpu_system",
            "memory_peak",
            "memory_peak_of",
            "processes_peak",
            "read_bytes",
            "written_bytes",
        ),
        *("minor_faults", "major_faults", "voluntary_switches", "involuntary_switches", "pressure"),
    )

    def __init__(
        self,
        *,
        wall: float | None = None,
        cpu_user: float | None = None,
        cpu_system: float | None = None,
        memory_peak: int | None = None,
        memory_peak_of: str | None = None,
        processes_peak: int | None = None,
        read_bytes: int | None = None,
        written_bytes: int | None = None,
        minor_faults: int | None = None,
        major_faults: int | None = None,
        voluntary_switches: int | None = None,
        involuntary_switches: int | None = None,
        pressure: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.wall, self.cpu_user, self.cpu_system = wall, cpu_user, cpu_system
        self.memory_peak, self.memory_peak_of, self.processes_peak = memory_peak, memory_peak_of, processes_peak
        self.read_bytes, self.written_bytes = read_bytes, written_bytes
        self.minor_faults, self.major_faults = minor_faults, major_faults
        self.voluntary_switches, self.involuntary_switches = voluntary_switches, involuntary_switches
        self.pressure = pressure

    def __repr__(self) -> str:
        known = ", ".join(f"{name}={value!r}" for name, value in self.to_mapping().items() if value is not None)
        return f"Usage({known})"

    def to_mapping(self) -> Mapping[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def after(self, wall: float) -> Usage:
        """The same, so many seconds after the start."""
        return Usage(**{**self.to_mapping(), "wall": wall})


def usage_of(message: Message | None, group: GroupUsage | None, wall: float) -> Usage:
    """From init's report and the control group's account: the group's where both know, since it has counted everybody."""
    known: dict[str, Any] = {"wall": wall}
    if message is not None:
        known.update(
            cpu_user=message.user_usec / 1e6,
            cpu_system=message.system_usec / 1e6,
            memory_peak=message.max_rss_kib * 1024,
            memory_peak_of="process" if message.max_rss_kib > _own_peak_kib() else "caller",
            minor_faults=message.minor_faults,
            major_faults=message.major_faults,
            read_bytes=message.blocks_in * BLOCK,
            written_bytes=message.blocks_out * BLOCK,
            voluntary_switches=message.voluntary,
            involuntary_switches=message.involuntary,
        )
    if group is not None:
        if group.user is not None:
            known.update(cpu_user=group.user, cpu_system=group.system)
        if group.memory_peak is not None:
            known.update(memory_peak=group.memory_peak, memory_peak_of="group")
        if group.read_bytes is not None:
            known.update(read_bytes=group.read_bytes, written_bytes=group.written_bytes)
        known["processes_peak"] = group.processes_peak
        known["pressure"] = group.pressure or None
    return Usage(**known)


def _own_peak_kib() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Ending:
    """The kernel's own words for the end: exit code or signal. reported: by init, so the payload had ended by then."""

    __slots__ = ("exit_code", "reported", "signal")

    def __init__(self, exit_code: int | None, signal: int | None, *, reported: bool = False) -> None:
        self.exit_code, self.signal, self.reported = exit_code, signal, reported

    @classmethod
    def from_init(cls, message: Message) -> Ending:
        """From init's report: a status as wait4(2) gives it."""
        signal = message.status & 0x7F
        return cls(None if signal else message.status >> 8 & 0xFF, signal or None, reported=True)

    @classmethod
    def from_wait(cls, found: tuple[int, int] | None, *, init: bool) -> Ending:
        """From waitid(2): (si_code, si_status). None: nobody could tell, so it was killed with its namespace. init: it is
        the end of an init that has not reported; its own exit code would say nothing of the payload."""
        if found is None:
            return cls(None, 9)
        code, status = found
        if init and code == CLD_EXITED:
            return cls(None, 9)
        return cls(status, None) if code == CLD_EXITED else cls(None, status & 0x7F)


class Result:
    """How a run ended, and what it left.

    status: "exited", "signaled", "timed-out", "cpu-time", "out-of-memory", "output-limit", "disk-limit", "processes-limit" or
    "syscall-denied" (what could not be set up is an exception); limits_hit: every limit that was hit, the first first; ended_by_limit: was it
    killed for one (or just too late for that), or did it go on with what it was refused. exit_code: of the payload, None if a signal ended it;
    signal: its number, or None. stdout, stderr: what was captured (bytes, or text if asked for), None if not captured;
    truncated: names of the streams that had more than `output` allows. duration: wall-clock seconds.
    usage: a `Usage`. protections: what protected the host, and how each limit was held, as `ramet.plan.limits.Protection`.
    """

    __slots__ = (
        *(
            "argv",
            "duration",
            "ended_by_limit",
            "exit_code",
            "limits_hit",
            "protections",
            "signal",
            "status",
            "stderr",
            "stdout",
        ),
        *("truncated", "usage"),
    )

    def __init__(
        self,
        *,
        argv: tuple[str, ...],
        ending: Ending,
        verdict: Verdict,
        usage: Usage,
        protections: tuple[Protection, ...],
        stdout: bytes | str | None,
        stderr: bytes | str | None,
        truncated: tuple[str, ...],
        duration: float,
    ) -> None:
        self.argv = argv
        self.exit_code, self.signal, self.usage, self.protections = ending.exit_code, ending.signal, usage, protections
        self.status, self.limits_hit, self.ended_by_limit = verdict
        self.stdout, self.stderr, self.truncated, self.duration = stdout, stderr, truncated, duration

    @property
    def returncode(self) -> int:
        """As subprocess has it: the exit code, or minus the signal."""
        return self.exit_code if self.exit_code is not None else -(self.signal or 0)

    @property
    def ok(self) -> bool:
        """Exited by itself, with 0?"""
        return self.status == "exited" and self.exit_code == 0

    def __str__(self) -> str:
        ended = f"exited with {self.exit_code}" if self.signal is None else f"was ended by {signal_name(self.signal)}"
        how = {
            "exited": ended,
            "signaled": ended,
            "timed-out": f"ran out of time after {self.duration:.3g} s",
            "cpu-time": "used up its CPU time",
            "out-of-memory": "ran out of memory",
            "output-limit": "wrote more than it may",
            "disk-limit": f"filled its disk, and {ended}",
            "processes-limit": f"had as many processes as it may, and {ended}",
            "syscall-denied": "made a system call that is denied (SIGSYS)",
        }[self.status]
        return f"{self.argv[0]!r} {how}"

    def __repr__(self) -> str:
        return f"<Result {self}>"

    def to_mapping(self) -> Mapping[str, object]:
        """As plain data; bytes that are no UTF-8 are escaped."""

        def shown(stream: bytes | str | None) -> str | None:
            return stream.decode("utf-8", "backslashreplace") if isinstance(stream, bytes) else stream

        return {
            "argv": [arg.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for arg in self.argv],
            "status": self.status,
            "exit_code": self.exit_code,
            "signal": signal_name(self.signal) if self.signal else None,
            "stdout": shown(self.stdout),
            "stderr": shown(self.stderr),
            "limits_hit": list(self.limits_hit),
            "ended_by_limit": self.ended_by_limit,
            "truncated": list(self.truncated),
            "duration": round(self.duration, 6),
            "usage": dict(self.usage.to_mapping()),
            "protections": [one._asdict() for one in self.protections],
        }


def signal_name(number: int) -> str:
    """SIGKILL for 9; "signal 42" for one without a name."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
