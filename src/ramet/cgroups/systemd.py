"""A transient scope of systemd's, with Delegate=yes: the way to a place where systemd manages the tree of groups.

systemd wants nobody to make groups in what it hasn't delegated (https://systemd.io/CGROUP_DELEGATION), and hands a scope
only to a process in it. So a keeper is started that does nothing but wait for our end, and the scope is made around it: nobody
else is moved, and when the caller and its sandboxes are gone the scope is empty, and systemd removes it.

Needs jeepney (D-Bus in pure Python: signatures, marshalling and authentication are not for us to write), loaded here alone.
"""

from __future__ import annotations

import os
from time import monotonic, sleep

from ramet import proc
from ramet.cgroups import files, owners, spots
from ramet.cgroups.hierarchy import hierarchies
from ramet.errors import errno_name

ANSWER_AT_MOST = 5.0  # s
BY_HAND = "or start it as: systemd-run --user --scope -p Delegate=yes COMMAND (without --user as root)"
BOOTED = "/run/systemd/system"  # sd_booted(3)
SH_KEEPER = "read _ <&3 >/dev/null 2>&1 & echo $!"


def running() -> bool:
    """Is systemd the manager of this host's groups?"""
    return os.path.isdir(BOOTED)


def delegated(path: str) -> bool:
    """Has systemd marked this group as delegated? It sets these since 251 and 236."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue  # not set; or trusted ones can't be seen by ordinary users
    return False


class Scope:
    """A scope of ours, for as long as its keeper lives. path: where groups can be made in it."""

    __slots__ = ("keeper", "leash", "path")

    def __init__(self) -> None:
        self.path = ""
        self.keeper, self.leash = _start_keeper()

    def end(self) -> None:
        """Let go: the keeper ends, and systemd removes the scope once nothing is in it."""
        if self.leash >= 0:
            fd, self.leash = self.leash, -1
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "leash", -1) >= 0:
            self.end()


def scope(mount: str) -> Scope:
    """Ask systemd for a scope, and make it fit for groups. mount: of version 2. Raises spots.Refused."""
    made = Scope()
    try:
        _ask(made.keeper)
        made.path = _moved_to(made.keeper, mount)
        # "No internal processes": the keeper goes into a leaf, so that the scope can hand its controllers down.
        fd = os.open(made.path, files.CLOEXEC_DIRECTORY)
        try:
            os.mkdir("ramet-keeper", 0o755, dir_fd=fd)
            files.put(fd, "ramet-keeper/cgroup.procs", str(made.keeper))
        finally:
            os.close(fd)
    except OSError as error:
        made.end()
        raise spots.Refused(f"the scope {made.path}: {errno_name(error.errno or 0)}", BY_HAND) from None
    except BaseException:
        made.end()
        raise
    return made


def _start_keeper() -> tuple[int, int]:
    """(pid, the descriptor whose end ends it). It is no child of ours: a caller's own wait() would find that."""
    leash_end, leash = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, leash_end, 3), (os.POSIX_SPAWN_DUP2, tell, 1)]
        shell = os.posix_spawn("/bin/sh", ["sh", "-c", SH_KEEPER], {}, file_actions=actions, setsid=True, setsigmask=[])
        os.close(tell)
        tell = -1
        answer = os.read(told, 64)
        try:
            os.waitpid(shell, 0)
        except ChildProcessError:
            pass  # the caller ignores SIGCHLD, and the kernel has reaped it
        if not answer.strip().isdigit():
            raise spots.Refused("/bin/sh did not start a keeper for the scope", BY_HAND)
        return int(answer), leash
    except BaseException:
        os.close(leash)
        raise
    finally:
        for fd in (leash_end, told, tell):
            if fd >= 0:
                os.close(fd)


def _address() -> str:
    """Of the bus on which the caller's systemd listens: the system's for root, else the user's."""
    if os.geteuid() == 0:
        return "SYSTEM"
    if os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return "SESSION"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"unix:path={runtime}/bus"


def _ask(keeper: int) -> None:
    """StartTransientUnit: see org.freedesktop.systemd1(5). Raises Refused."""
    try:
        from jeepney import DBusAddress, DBusErrorResponse, new_method_call
        from jeepney.io.blocking import open_dbus_connection
    except ImportError:
        raise spots.Refused(
            "systemd manages the groups here, and the Python package jeepney, to ask it for one, is not installed",
            f"pip install jeepney; {BY_HAND}",
        ) from None
    manager = DBusAddress(
        "/org/freedesktop/systemd1", bus_name="org.freedesktop.systemd1", interface="org.freedesktop.systemd1.Manager"
    )
    properties = [
        ("Description", ("s", f"sandboxes of process {os.getpid()} (ramet)")),
        ("PIDs", ("au", [keeper])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    own_slice = _own_slice()
    if own_slice:
        properties.append(("Slice", ("s", own_slice)))
    name = owners.new_name().replace(".", "_") + ".scope"
    call = new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, []))
    bus = _address()
    try:
        with open_dbus_connection(bus) as connection:
            reply = connection.send_and_get_reply(call, timeout=ANSWER_AT_MOST)
        if reply.header.message_type.name == "error":
            raise DBusErrorResponse(reply)
    except (OSError, RuntimeError, DBusErrorResponse, KeyError, ValueError) as error:
        said = errno_name(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        where = {"SYSTEM": "the system's bus", "SESSION": "the session's bus"}.get(bus, bus)
        fix = "log in so that there is one (loginctl enable-linger USER)"
        raise spots.Refused(
            f"systemd gives no scope: {where}: {said or type(error).__name__}", f"{fix}; {BY_HAND}"
        ) from None


def _own_slice() -> str:
    """The slice that the caller is in, so that what limits it limits its sandboxes. A user's manager has slices of its own."""
    if os.geteuid() != 0:
        return ""
    content = proc.read("/proc/self/cgroup") or ""
    own = next((line[3:] for line in content.splitlines() if line.startswith("0::")), "/")
    return next((part for part in reversed(own.split("/")) if part.endswith(".slice")), "")


def _moved_to(keeper: int, mount: str) -> str:
    """Where the keeper is, once systemd has put it into its scope. Raises Refused."""
    until = monotonic() + ANSWER_AT_MOST
    mountinfo = proc.read("/proc/self/mountinfo") or ""
    while monotonic() < until:
        groups = proc.read(f"/proc/{keeper}/cgroup") or ""
        found = next((one.own for one in hierarchies(mountinfo, groups) if one.version == 2), None)
        if found and found.endswith(".scope") and os.path.basename(found).startswith(owners.PREFIX):
            return found
        sleep(0.002)
    raise spots.Refused(f"systemd did not move the keeper {keeper} into its scope within {ANSWER_AT_MOST:g} s", BY_HAND)
