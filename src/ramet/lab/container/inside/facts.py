"""What this machine looks like from here, as JSON; None for what can't be seen."""

from __future__ import annotations

import hashlib
import json
import os
import socket


def read(path: str) -> str | None:
    """The file's text, or None."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def line(path: str, start: str) -> str | None:
    """What follows on the first line that starts so."""
    found = [row for row in (read(path) or "").splitlines() if row.startswith(start)]
    return found[0][len(start) :].strip(" \t:") if found else None


def names(path: str, column: int) -> str:
    """One column of a table of /proc, as a list."""
    rows = [row.split() for row in (read(path) or "").splitlines()]
    return " ".join(sorted(row[column] for row in rows if len(row) > column and row[column] != "name"))


def short(text: str) -> str:
    """How many words, and a few digits that tell one list from another."""
    words = text.split()
    return f"{len(words)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})" if words else "none"


def interfaces() -> str:
    """Their names."""
    return " ".join(interface for _, interface in socket.if_nameindex())


def root() -> str:
    """Which file system, and which directory of it."""
    found = os.stat("/")
    return f"{os.major(found.st_dev)}:{os.minor(found.st_dev)} inode {found.st_ino}"


if __name__ == "__main__":
    name = os.uname()
    processor = line("/proc/cpuinfo", "model name") or line("/proc/cpuinfo", "CPU part") or "unknown"
    print(
        json.dumps(
            {
                "release": name.release,
                "build": name.version,
                "boot_id": read("/proc/sys/kernel/random/boot_id"),
                "boot_time": line("/proc/stat", "btime"),
                "processor": f"{os.cpu_count()} x {processor}",
                "memory": line("/proc/meminfo", "MemTotal"),
                "disks": names("/proc/partitions", 3) or "none",
                "modules": short(names("/proc/modules", 0)),
                "panic": read("/proc/sys/kernel/panic"),
                "hostname": name.nodename,
                "init": read("/proc/1/comm"),
                "processes": sum(entry.isdigit() for entry in os.listdir("/proc")),
                "interfaces": f"{interfaces()} in {os.readlink('/proc/self/ns/net')}",
                "root": root(),
                "uids": " ".join((read("/proc/self/uid_map") or "").split()),
                "hypervisor": " hypervisor" in (line("/proc/cpuinfo", "flags") or ""),
            }
        )
    )
