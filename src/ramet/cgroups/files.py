"""The files of a group: reading and writing them below the descriptor of the directory that holds the group."""

from __future__ import annotations

import os

CLOEXEC_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def put(fd: int, path: str, value: str) -> None:
    """Write a whole value by one call, as these files want it. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.write(file, value.encode("ascii"))
    finally:
        os.close(file)


def get(fd: int, path: str) -> str:
    """What a file holds. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        found = os.read(file, 65536)
        while len(found) % 4096 == 0 and (more := os.read(file, 65536)):  # a long list comes a page at a time
            found += more
    finally:
        os.close(file)
    return found.decode("ascii", "replace")


def get_if_there(fd: int, path: str) -> str | None:
    """What a file holds; None where this kernel or host has no such file."""
    try:
        return get(fd, path)
    except FileNotFoundError:
        return None


def flat(text: str) -> dict[str, int]:
    """Lines of "key number", as memory.events and cpu.stat have them."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def subgroups(fd: int, name: str) -> list[str]:
    """The groups in a group, as paths below fd; the deepest first."""
    try:
        if os.stat(name, dir_fd=fd, follow_symlinks=False).st_nlink == 2:
            return []
    except FileNotFoundError:
        return []
    found: list[str] = []
    waiting = [name]
    while waiting:
        path = waiting.pop()
        try:
            directory = os.open(path, CLOEXEC_DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            continue  # removed meanwhile
        try:
            if os.fstat(directory).st_nlink == 2:
                continue
            inside = [f"{path}/{entry.name}" for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        finally:
            os.close(directory)
        found += inside
        waiting += inside
    return sorted(found, key=lambda path: -path.count("/"))
