"""make demo: an untrusted program analyses a data file in a sandbox; what it could reach there, and what outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import ramet

HERE = Path(__file__).parent
PROGRAM, DATA = HERE / "analyse.py", HERE / "weather.csv"
WIDTH = 80
SHOWN_STEPS = (
    r'setresuid|sethostname|user_namespaces"|"weather\.csv|"job/weather\.csv|pivot_root|NO_NEW_PRIVS'
    r'|execve\("/usr/bin/python3'
)


def main() -> int:
    """Run it inside, run it outside, compare."""
    rows = len(DATA.read_text().splitlines()) - 1
    say(f"examples/demo/analyse.py is somebody else's program. Its job: {DATA.name}, {rows} rows.")
    with Host() as host:
        box = ramet.Sandbox(
            mounts=[ramet.Bind(PROGRAM, "/job/analyse.py"), ramet.Bind(DATA, "/job/weather.csv")], timeout=10
        )
        argv = ["python3", "/job/analyse.py", "/job/weather.csv", host.targets(reckless=True)]
        inside = ramet.run(argv, box, text=True)
        outside = subprocess.run(
            [sys.executable, PROGRAM, DATA, host.targets(reckless=False)], capture_output=True, text=True
        )
    if not inside.ok or outside.returncode:
        print(inside, inside.stderr, outside.stderr, sep="\n", file=sys.stderr)
        return 1
    report, found = split(inside.stdout)
    _, control = split(outside.stdout)

    heading("In Python")
    print('ramet.run(["python3", "/job/analyse.py", "/job/weather.csv"], timeout=10,')
    print('          mounts=[Bind("analyse.py", "/job/analyse.py"),')
    print('                  Bind("weather.csv", "/job/weather.csv")])')

    heading("What it was asked for")
    print(report)
    seconds = inside.usage.cpu_user + inside.usage.cpu_system if inside.usage else 0
    spent = f"{inside.duration:.2f} s, {seconds:.2f} s of processor time"
    print(f"\nverdict: {inside.status} with {inside.exit_code}, {spent}")

    heading("What it could do                     outside               in the sandbox")
    table(control, found)
    escaped = [name for name, needed, could, _ in found if could and not needed]
    say(f"Of what it had no business with, this was possible in the sandbox: {', '.join(escaped) or 'nothing'}.")

    heading("A program that never ends")
    endless = ramet.run(["python3", "-c", "while True: pass"], timeout=0.5)
    print(f"verdict: {endless.status} after {endless.duration:.2f} s; nothing of it is left")

    heading("The system calls that made the sandbox, before they ran (an excerpt)")
    excerpt(argv, box)
    return 1 if escaped else 0


class Host:
    """What there is to reach on this host: a private file, a secret, two servers, a caller."""

    def __enter__(self) -> Host:
        os.environ["API_TOKEN"] = "hunter2"
        self.directory = tempfile.TemporaryDirectory(prefix="demo-home-")
        self.private = Path(self.directory.name, "diary.txt")
        self.private.touch(mode=0o600)
        self.private.write_text("dear diary")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0ramet-demo-{os.getpid()}")
        self.abstract.listen()
        return self

    def targets(self, *, reckless: bool) -> str:
        """Where they are, as the program takes it."""
        return json.dumps(
            {
                "private": str(self.private),
                "caller": os.getpid(),
                "port": self.server.getsockname()[1],
                "abstract": f"ramet-demo-{os.getpid()}",
                "reckless": reckless,
            }
        )

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self.abstract.close()
        self.directory.cleanup()


def split(output: str) -> tuple[str, list[tuple[str, bool, bool, str]]]:
    """The program's report, and (what, needed?, could it?, in words) of each attempt."""
    report, _, attempts = output.partition("--\n")
    return report.rstrip(), [tuple(attempt) for attempt in json.loads(attempts)]


def table(control: list[tuple[str, bool, bool, str]], found: list[tuple[str, bool, bool, str]]) -> None:
    """The same attempts side by side; first those it needs."""
    needed = True
    for (name, wanted, could_outside, outside), (_, _, could, inside) in zip(control, found, strict=True):
        if needed and not wanted:
            print()
            needed = False
        print(f"  {name:<33}  {verdict(could_outside, outside):<20}  {verdict(could, inside)}".rstrip())


def verdict(could: bool, words: str) -> str:
    """yes: ..., or no: ..., in what a column holds."""
    if words == "not tried":
        return words
    short = {
        "no such file or directory": "not there",
        "operation not permitted": "not permitted",
        "no space left on device": "none is allowed",  # what the kernel says to one namespace more than the limit
        "invalid argument": "no such user here",
    }
    return f"{'yes' if could else 'no'}: {short.get(words.lower(), words)}"


def excerpt(argv: list[str], box: ramet.Sandbox) -> None:
    """The clone, and some of the steps, by their numbers."""
    process = ramet.Popen([*argv[:3], "{...}"], box, stdout=ramet.DEVNULL, stderr=ramet.DEVNULL)
    lines = str(process.plan).replace(f"{HERE}/", "").splitlines()
    steps = len(process.plan)
    process.close()
    print("\n".join(lines[: lines.index("") - 1]))
    for line in lines:
        if re.search(SHOWN_STEPS, line):
            number, call = re.split(r" +", line.strip(), maxsplit=1)
            call = re.split(r" {2,}", call)[0]
            print(f"{number:>6}  {call if len(call) <= WIDTH - 8 else call[: WIDTH - 11] + '...'}")
    say(f"{steps} steps in all. `ramet plan` prints them, each with the option it comes from.")


def heading(text: str) -> None:
    """A line above a part."""
    print(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    """A sentence."""
    print(textwrap.fill(text, WIDTH))


if __name__ == "__main__":
    sys.exit(main())
