"""Landlock: which files, TCP ports, sockets and processes a payload may reach, held by the kernel beside namespaces and mounts."""

from __future__ import annotations

from ramet.spec import values
from ramet.spec.record import Record

PORT_MOST = 65535


class Landlock(Record):
    """Rules of landlock(7) besides those that every sandbox gets, since Linux 5.19.

    connect, bind: the TCP ports that it may connect to and listen on; None: any (since Linux 6.7). read, write: paths of the host,
    beneath which a sandbox without a mount namespace may read and execute, or do everything with, files; all it needs to
    run programs it may read anyway.
    """

    connect: tuple[int, ...] | None = None
    bind: tuple[int, ...] | None = None
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    def _settle(self) -> None:
        for name in ("connect", "bind"):
            given = getattr(self, name)
            if given is not None:
                field = f"Landlock.{name}"
                ports = values.several(given, field, "ports")
                self._put(
                    name, tuple(values.integer(one, f"{field}[{n}]", most=PORT_MOST) for n, one in enumerate(ports))
                )
        for name in ("read", "write"):
            field = f"Landlock.{name}"
            paths = values.several(getattr(self, name), field, "paths")
            self._put(name, tuple(values.host_path(one, f"{field}[{n}]") for n, one in enumerate(paths)))
