"""EBADF, EACCES, EBUSY, EOPNOTSUPP, ENOENT and EAGAIN: what CLONE_INTO_CGROUP and a cgroup's limit can answer.

Every cgroup that is changed here was made here, and is removed again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from ramet import lowlevel
from ramet.errors import errno_name
from ramet.lab.cgroups import name, own_cgroup, parents, remove_tree
from ramet.lab.ground import write_file
from ramet.lab.refusals import Case, NotHere, become_ordinary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ERRORS = "clone(2), ERRORS"
_INTO = "clone3({flags=CLONE_INTO_CGROUP, cgroup=%s})"


def cases() -> Iterator[Case]:
    """All of this kind."""
    yield Case(
        "EBADF",
        _INTO % "999",
        lambda: _into(999),
        why="999 is not an open descriptor",
    )
    yield Case(
        "EBADF",
        _INTO % "/",
        lambda: _into(os.open("/", os.O_RDONLY | os.O_DIRECTORY)),
        why="the descriptor is of something else than a version 2 cgroup",
        situation="with a descriptor of the root directory",
    )
    yield Case(
        "EACCES",
        _INTO % "the root cgroup",
        _not_mine,
        why="the caller may not write to that cgroup's cgroup.procs",
        manual=f"{_ERRORS}, EACCES (clone3() only)",
        situation="as an ordinary user",
    )
    yield Case(
        "EBUSY",
        _INTO % "...",
        _inner,
        why="a cgroup that hands controllers on to its children may not hold processes itself",
        manual=f"{_ERRORS}, EBUSY (clone3() only)",
        situation="into a cgroup with a domain controller enabled in cgroup.subtree_control",
    )
    yield Case(
        "EOPNOTSUPP",
        _INTO % "...",
        _invalid_domain,
        why="beside a threaded cgroup, a domain cgroup is invalid until it is made threaded too",
        manual=f"{_ERRORS}, EOPNOTSUPP (clone3() only)",
        situation='into a cgroup whose cgroup.type is "domain invalid"',
    )
    yield Case(
        "ENOENT",
        _INTO % "...",
        _removed,
        why="the cgroup is no more",
        situation="into a cgroup that was removed while its descriptor was open",
    )
    yield Case(
        "EAGAIN",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _pids_max,
        why="the cgroup may not hold more processes",
        manual="fork(2), ERRORS, EAGAIN: pids.max",
        situation="in a cgroup with pids.max 1",
    )


def _into(fd: int) -> None:
    lowlevel.clone3(cgroup=fd, child=[]).wait()


def _not_mine() -> None:
    path, why_not = own_cgroup()
    if path is None:
        raise NotHere(why_not)
    while os.path.exists(f"{path}/../cgroup.procs"):
        path = os.path.dirname(path)
    become_ordinary()
    _into(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


@contextmanager
def _made(parent: str) -> Iterator[str]:
    """A cgroup below that one, removed afterwards."""
    path = os.path.join(parent, name())
    try:
        os.mkdir(path)
    except OSError as error:
        raise NotHere(f"no cgroup can be made in {parent}: {errno_name(error.errno or 0)}") from None
    try:
        yield path
    finally:
        remove_tree(path)


def _own() -> str:
    path, why_not = own_cgroup()
    if path is None:
        raise NotHere(why_not)
    return path.rstrip("/")


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _inner() -> None:
    """In a cgroup of our own, or a sibling of it, whichever is given domain controllers by its parent."""
    why = ""
    for parent in dict.fromkeys((_own(), os.path.dirname(_own()))):
        if not os.path.exists(f"{parent}/cgroup.controllers"):
            continue
        try:
            with _made(parent) as path:
                with open(f"{path}/cgroup.controllers", encoding="ascii") as file:
                    # those that are not threaded: only they keep processes out
                    usable = [one for one in file.read().split() if one in ("memory", "io", "hugetlb", "rdma", "misc")]
                if not usable:
                    why = f"{parent} hands no domain controller on to a cgroup made in it"
                    continue
                write_file(f"{path}/cgroup.subtree_control", f"+{usable[0]}")
                fd = _open(path)
                try:
                    _into(fd)
                finally:
                    os.close(fd)
                return
        except NotHere as not_here:
            why = str(not_here)
    raise NotHere(f"{why}; and what the host's cgroups hand on is not changed here")


def _invalid_domain() -> None:
    with _made(_own()) as path:
        for inner in ("threaded", "invalid"):
            os.mkdir(f"{path}/{inner}")
        write_file(f"{path}/threaded/cgroup.type", "threaded")
        fd = _open(f"{path}/invalid")
        try:
            _into(fd)
        finally:
            os.close(fd)


def _removed() -> None:
    with _made(_own()) as path:
        fd = _open(path)
    _into(fd)


def _pids_max() -> None:
    why = "no pids controller is to be seen here"
    for parent in parents():
        try:
            with _made(parent) as path:
                if not os.path.exists(f"{path}/pids.max"):
                    why = f"{parent} hands no pids controller on to a cgroup made in it"
                    continue
                write_file(f"{path}/pids.max", "1")
                _clone_in(path, parent)
                return
        except NotHere as not_here:
            why = str(not_here)
    raise NotHere(why)


def _clone_in(path: str, parent: str) -> None:
    write_file(f"{path}/cgroup.procs", str(os.getpid()))
    try:
        lowlevel.clone3(child=[]).wait()
    finally:
        write_file(f"{parent}/cgroup.procs", str(os.getpid()))
