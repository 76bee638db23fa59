"""strace's list of calls, read back and put in the form in which ours can be compared with it.

Process numbers differ from run to run, so a task is its place in the tree: the calls of each task in order, and in
place of a clone's result the task that it made.
"""

import ast
import re
import subprocess

CALLS = "clone,clone3,fork,vfork,unshare,setns,execve,execveat"
LINE = re.compile(r"^(\d+) +(.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
CALL = re.compile(
    r"^(\w+)\((.*)\) += (-?\d+|\?)(?: ([A-Z]\w+)(?: \(.*\))?)?(?: /\* (\d+) in strace's PID NS \*/)?$", re.S
)
RESTARTED = ("ERESTARTNOINTR", "ERESTARTSYS", "ERESTARTNOHAND")


def run(argv, output, *, options=(), **more):
    """Follow a command with strace; its exit status."""
    command = ["strace", "-f", "-qq", "-e", "signal=none", "-s", "100000", "--decode-pids=pidns", "-o", str(output)]
    command += [*options, "-e", f"trace={CALLS}", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL, **more
    ).returncode


def parsed(text):
    """[(pid, name, arguments as text, result, errno, number in our own namespace)], in order of their ends."""
    begun, found = {}, []
    for line in text.splitlines():
        pid, rest = LINE.match(line).groups()
        unfinished = re.match(r"^(.*)<(?:unfinished|pid changed to \d+) \.\.\.>$", rest)
        if unfinished:
            begun[pid] = unfinished[1]
            continue
        superseded = re.match(r"^\+\+\+ superseded by execve in pid (\d+) \+\+\+$", rest)
        if superseded:
            begun[pid] = begun.pop(superseded[1])
            begun[pid, "by"] = superseded[1]
            continue
        resumed = RESUMED.match(rest)
        if resumed:
            rest = begun.pop(pid) + resumed[2]
            pid = begun.pop((pid, "by"), pid)
        match = CALL.match(rest)
        assert match, f"a line of strace's that is not understood: {line!r}"
        name, arguments, result, errno, translated = match.groups()
        found.append((pid, name, arguments, result, errno, translated))
    return found


def tree(text):
    """The root task: ([call], as `of_ours` gives it)."""
    by_pid, order = {}, []
    for pid, name, arguments, result, errno, translated in parsed(text):
        if errno in RESTARTED:
            continue
        child = translated or result if name in ("clone", "clone3", "fork", "vfork") and errno is None else None
        by_pid.setdefault(pid, []).append((name, _arguments(name, arguments), errno, child))
        order.append(pid)
    root = text.split(None, 1)[0]
    used = set()

    def of(pid):
        used.add(pid)
        return [(name, given, errno, child and of(child)) for name, given, errno, child in by_pid.get(pid, [])]

    found = of(root)
    assert used >= set(by_pid), "calls of a process that nobody has made"
    return found


def _arguments(name, text):
    """What both tools tell of a call's arguments."""
    if name in ("fork", "vfork"):
        return ()
    if name == "clone":
        found = re.search(r"flags=((?: /\* [^*]* \*/|[^,) ])+)", text)[1]
        return _flags(re.sub(r" /\* [^*]* \*/", "", found))
    if name == "clone3":
        flags = _flags(re.search(r"flags=([^,}]+)", text)[1])
        signal = re.search(r"exit_signal=(\w+)", text)[1]
        return flags | ({signal} - {"0"})
    if name == "unshare":
        return _flags(text)
    if name == "setns":
        fd, kinds = text.split(", ")
        return int(fd), _flags(kinds)
    at = text.index('"')
    path = re.match(r'"(?:[^"\\]|\\.)*"', text[at:])[0]
    argv = re.match(r", (\[.*?\])(?:, 0x|, NULL)", text[at + len(path) :], re.S)[1]
    return _string(path), tuple(_string(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"', argv))


def _string(text):
    return ast.literal_eval("b" + text).decode(errors="surrogateescape")


def _flags(text):
    return frozenset(name.strip() for name in text.split("|")) - {"0"}


def of_ours(tasks):
    """The root task of `ramet trace --json`, in the form of `tree`."""

    def of(task):
        found = []
        for call in task["calls"]:
            if call["errno"] in RESTARTED:
                continue
            name = call["call"]
            if name in ("execve", "execveat"):
                given = (call["path"], tuple(call["argv"]))
            elif name in ("fork", "vfork"):
                given = ()
            else:
                given = frozenset(call["flags"]) | ({call.get("exit_signal"), call.get("dropped")} - {None})
            if name == "setns":
                given = (call["fd"], given)
            child = None if call.get("child") is None else of(tasks[call["child"]])
            found.append((name, given, call["errno"], child))
        return found

    return of(tasks[0])
