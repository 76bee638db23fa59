"""Result: how a run ended."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ramet.run.control import Message

CLD_EXITED = 1


class Usage:
    """What the payload and everything it started cost.

    cpu_user, cpu_system: seconds; memory_peak: bytes of the largest single process; None where not known.
    No less than the caller's own peak: the kernel counts the memory that the payload's process shared before its exec.
    """

    __slots__ = ("cpu_system", "cpu_user", "major_faults", "memory_peak", "minor_faults")

    def __init__(self, cpu_user: float, cpu_system: float, memory_peak: int, minor: int, major: int) -> None:
        self.cpu_user, self.cpu_system, self.memory_peak = cpu_user, cpu_system, memory_peak
        self.minor_faults, self.major_faults = minor, major

    def __repr__(self) -> str:
        return f"Usage(cpu_user={self.cpu_user}, cpu_system={self.cpu_system}, memory_peak={self.memory_peak})"

    def to_mapping(self) -> Mapping[str, float | int]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


class Ending:
    """The kernel's own words for the end: exit code or signal, and usage where init could ask."""

    __slots__ = ("exit_code", "signal", "usage")

    def __init__(self, exit_code: int | None, signal: int | None, usage: Usage | None) -> None:
        self.exit_code, self.signal, self.usage = exit_code, signal, usage

    @classmethod
    def from_init(cls, message: Message) -> Ending:
        """From init's report: a status as wait4(2) gives it."""
        usage = Usage(
            message.user_usec / 1e6,
            message.system_usec / 1e6,
            message.max_rss_kib * 1024,
            message.minor_faults,
            message.major_faults,
        )
        signal = message.status & 0x7F
        return cls(None if signal else message.status >> 8 & 0xFF, signal or None, usage)

    @classmethod
    def from_wait(cls, found: tuple[int, int] | None, *, init: bool) -> Ending:
        """From waitid(2): (si_code, si_status). None: nobody could tell, so it was killed with its namespace. init: it is
        the end of an init that has not reported; its own exit code would say nothing of the payload."""
        if found is None:
            return cls(None, 9, None)
        code, status = found
        if init and code == CLD_EXITED:
            return cls(None, 9, None)
        return cls(status, None, None) if code == CLD_EXITED else cls(None, status & 0x7F, None)


class Result:
    """How a run ended, and what it left.

    status: "exited", "signaled" or "timed-out". exit_code: of the payload, None if a signal ended it;
    signal: its number, or None. stdout, stderr: what was captured (bytes, or text if asked for), None if not captured;
    truncated: names of the streams that had more than `output` allows. duration: wall-clock seconds.
    usage: a `Usage`, or None without init.
    """

    __slots__ = ("argv", "duration", "exit_code", "signal", "status", "stderr", "stdout", "truncated", "usage")

    def __init__(
        self,
        *,
        argv: tuple[str, ...],
        ending: Ending,
        timed_out: bool,
        stdout: bytes | str | None,
        stderr: bytes | str | None,
        truncated: tuple[str, ...],
        duration: float,
    ) -> None:
        self.argv = argv
        self.exit_code, self.signal, self.usage = ending.exit_code, ending.signal, ending.usage
        self.status = "timed-out" if timed_out else "exited" if ending.signal is None else "signaled"
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
        how = {
            "exited": f"exited with {self.exit_code}",
            "signaled": f"was ended by {signal_name(self.signal or 0)}",
            "timed-out": f"ran out of time after {self.duration:.3g} s",
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
            "truncated": list(self.truncated),
            "duration": round(self.duration, 6),
            "usage": dict(self.usage.to_mapping()) if self.usage else None,
        }


def signal_name(number: int) -> str:
    """SIGKILL for 9; "signal 42" for one without a name."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
