"""What ramet is compared with: the same job given to others, each in its fastest form.

The other programs are started with posix_spawn and their output is not captured, while ramet.run captures: where
the comparison is not exact, it favours them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ramet.host.facts import facts
from ramet.spec import view

HERE = Path(__file__).parent
COMMAND = "/bin/true"
HOME = "/home/user"


def compile_c(source: str, directory: str) -> str:
    """Build one of the C programs beside this file."""
    program = f"{directory}/{source.removesuffix('.c')}"
    subprocess.run(["cc", "-O2", "-o", program, HERE / source], check=True)
    return program


class Worker:
    """A program that does its job once for every line it is sent, and answers with the nanoseconds."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, what: str = "") -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return int(answer) / 1e9

    def close(self) -> None:
        """End of its input is its end."""
        self.process.communicate()


def spawn(argv: list[str]) -> None:
    """Start a program as cheaply as the C library can, and wait for it."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=null)
    if status := os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{argv[0]} ended with status {status}")


def unshare() -> list[str] | None:
    """The same new namespaces and a fresh /proc, over the host's own files."""
    program = shutil.which("unshare")
    return [program, "--map-root-user", "-mpniuC", "--fork", "--mount-proc", COMMAND] if program else None


def bubblewrap(directory: str) -> list[str] | None:
    """The default sandbox's isolation and view, said in bubblewrap's words."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    options = "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup"
    options += " --disable-userns --new-session --die-with-parent --cap-drop ALL --uid 1000 --gid 1000"
    argv = [program, *options.split(), "--hostname", "ramet", *_files(directory)]
    argv += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--tmpfs", HOME]
    argv += ["--remount-ro", "/", "--chdir", HOME, "--clearenv"]
    for name, value in (("PATH", "/usr/bin:/bin"), ("HOME", HOME), ("LANG", "C.UTF-8"), ("TERM", "dumb")):
        argv += ["--setenv", name, value]
    return [*argv, "--", COMMAND]


def _files(directory: str) -> list[str]:
    """The minimal view: the host's trees and files of /etc, and those that are made for the sandbox."""
    found = []
    for path, fact in facts().layout.items():
        if path not in view.ETC_NETWORK:
            found += ["--symlink", fact.target, path] if fact.kind == "link" else ["--ro-bind", fact.real, path]
    made = {"passwd": view.passwd(1000, HOME), "group": view.group(1000), "hosts": view.HOSTS}
    for name, content in made.items():
        Path(directory, name).write_text(content)
        found += ["--ro-bind", f"{directory}/{name}", f"/etc/{name}"]
    for path, real in facts().python:
        found += ["--ro-bind", real, path]
    return found


def python() -> str:
    """The interpreter itself, without wrappers."""
    return sys.executable
