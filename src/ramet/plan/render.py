"""A plan for people: one line a system call in strace's form, its spec field beside it; and as plain data."""

from __future__ import annotations

import os

from ramet.plan.calls import CALLS
from ramet.plan.steps import STAGES, Block, Slot
from ramet.spec.capabilities import NAMES
from ramet.spec.limits import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ramet.plan.prepared import PreparedMount
    from ramet.plan.steps import Arg, CallerStep, Plan, Stage, Step

ALL_BITS = 2**32 - 1
WIDTH = 80


def _bits(*names: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return names


OPEN = _bits(
    ("O_WRONLY", 0o1),
    ("O_RDWR", 0o2),
    ("O_CREAT", 0o100),
    ("O_EXCL", 0o200),
    ("O_NOCTTY", 0o400),
    ("O_NOFOLLOW", os.O_NOFOLLOW),
    ("O_PATH", os.O_PATH),
    ("O_CLOEXEC", 0o2000000),
)
AT = _bits(("AT_SYMLINK_NOFOLLOW", 0x100), ("AT_EMPTY_PATH", 0x1000), ("AT_RECURSIVE", 0x8000))
TREE = _bits(("OPEN_TREE_CLONE", 1), ("OPEN_TREE_CLOEXEC", 0o2000000), *AT)
MOVE = _bits(("MOVE_MOUNT_F_EMPTY_PATH", 0x4), ("MOVE_MOUNT_T_EMPTY_PATH", 0x40))
ATTR = _bits(("MOUNT_ATTR_RDONLY", 1), ("MOUNT_ATTR_NOSUID", 2), ("MOUNT_ATTR_NODEV", 4), ("MOUNT_ATTR_NOEXEC", 8))
MS = _bits(("MS_REC", 0x4000), ("MS_PRIVATE", 0x40000))
UMOUNT = _bits(("MNT_DETACH", 2))
CLONE = _bits(
    ("CLONE_VM", 0x100),
    ("CLONE_FILES", 0x400),
    ("CLONE_VFORK", 0x4000),
    ("CLONE_PIDFD", 0x1000),
    ("CLONE_CHILD_CLEARTID", 0x200000),
    ("CLONE_CLEAR_SIGHAND", 1 << 32),
    ("CLONE_INTO_CGROUP", 1 << 33),
    ("CLONE_AUTOREAP", 1 << 34),
    ("CLONE_NNP", 1 << 35),
    ("CLONE_PIDFD_AUTOKILL", 1 << 36),
    ("CLONE_NEWUSER", 0x10000000),
    ("CLONE_NEWNS", 0x20000),
    ("CLONE_NEWPID", 0x20000000),
    ("CLONE_NEWNET", 0x40000000),
    ("CLONE_NEWIPC", 0x8000000),
    ("CLONE_NEWUTS", 0x4000000),
    ("CLONE_NEWCGROUP", 0x2000000),
    ("CLONE_NEWTIME", 0x80),
)
PRCTL = {
    1: "PR_SET_PDEATHSIG",
    4: "PR_SET_DUMPABLE",
    8: "PR_SET_KEEPCAPS",
    28: "PR_SET_SECUREBITS",
    24: "PR_CAPBSET_DROP",
    36: "PR_SET_CHILD_SUBREAPER",
    38: "PR_SET_NO_NEW_PRIVS",
    47: "PR_CAP_AMBIENT",
}
AMBIENT = {2: "PR_CAP_AMBIENT_RAISE", 4: "PR_CAP_AMBIENT_CLEAR_ALL"}
SECCOMP = {0: "SECCOMP_SET_MODE_STRICT", 1: "SECCOMP_SET_MODE_FILTER"}
FUTEX = {0: "FUTEX_WAIT", 1: "FUTEX_WAKE"}
IOCTL = {
    0x8914: "SIOCSIFFLAGS",
    0x540E: "TIOCSCTTY",
    0x40045431: "TIOCSPTLCK",
    0x5441: "TIOCGPTPEER",
    0x5414: "TIOCSWINSZ",
}
FSCONFIG = {0: "FSCONFIG_SET_FLAG", 1: "FSCONFIG_SET_STRING", 6: "FSCONFIG_CMD_CREATE"}
RLIMIT_NAMES = {number: f"RLIMIT_{name}" for name, number in RLIMITS.items()}


def _flags(value: int, names: Iterable[tuple[str, int]]) -> str:
    found = []
    for name, bit in names:
        if value & bit == bit:
            found.append(name)
            value &= ~bit
    if value or not found:
        found.append(hex(value) if value else "0")
    return "|".join(found)


def quoted(value: str | bytes) -> str:
    """A C string literal; what is not printable ASCII is escaped, and a long one is cut."""
    text = os.fsdecode(value)
    shown = ascii(text if len(text) <= 200 else text[:200])[1:-1].replace('"', '\\"').replace("\\'", "'")
    return f'"{shown}"' + ("" if len(text) <= 200 else "...")


def _number(value: int, kind: str, step: Step) -> str:
    if kind == "fd":
        return {-100: "AT_FDCWD", ALL_BITS: "~0U"}.get(value, str(value))
    if kind in _FLAG_KINDS:
        return _flags(value, _FLAG_KINDS[kind])
    if kind in _ENUM_KINDS:
        return _ENUM_KINDS[kind].get(value, str(value))
    if kind == "mode":
        return f"{value:#o}".replace("0o", "0")
    if kind == "prctlarg":
        first = step.args[0]
        if first == 24:
            return NAMES[value] if value < len(NAMES) else str(value)
        if first == 47:
            return AMBIENT.get(value, str(value)) if value is step.args[1] else NAMES[value]
        return "SIGKILL" if first == 1 and value == 9 else str(value)
    return "NULL" if kind in ("text", "struct") else str(value)


_FLAG_KINDS = {
    "open": OPEN,
    "at": AT,
    "tree": TREE,
    "move": MOVE,
    "attr": ATTR,
    "ms": MS,
    "umount": UMOUNT,
    "clone": CLONE,
}
_ENUM_KINDS = {
    "prctl": PRCTL,
    "ioctl": IOCTL,
    "fsconfig": FSCONFIG,
    "futex": FUTEX,
    "closerange": {0: "0", 2: "CLOSE_RANGE_UNSHARE"},
    "seccomp": SECCOMP,
    "keyctl": {1: "KEYCTL_JOIN_SESSION_KEYRING"},
    "landlock": {1: "LANDLOCK_RULE_PATH_BENEATH", 2: "LANDLOCK_RULE_NET_PORT"},
    "rlimit": RLIMIT_NAMES,
    "sigmask": {2: "SIG_SETMASK"},
}


def _argument(arg: Arg, kind: str, step: Step) -> str:
    if isinstance(arg, int):
        return _number(arg, kind, step)
    if isinstance(arg, Slot):
        return str(arg)
    if isinstance(arg, Block):
        return arg.text
    return quoted(arg)


def step_text(step: Step) -> str:
    """One system call as strace would show it, results by name."""
    kinds = CALLS[step.call][2].split()
    args = [_argument(arg, kind, step) for arg, kind in zip(step.args, kinds, strict=False)]
    if step.call == "prctl":
        while args and args[-1] == "0" and len(args) > 2:
            args.pop()
    tail = f" = {step.result}" if step.result is not None else ""
    return f"{step.call}({', '.join(args)}){tail}"


def clone_text(plan: Plan) -> str:
    """The clone that makes the child."""
    wait = 0x200000 if plan.sync or plan.ahead or plan.gated else 0x4000
    return f"clone3({{flags={_flags(plan.clone_flags | 0x1100 | wait, CLONE)}, exit_signal=0}})"


def prepared_text(bind: PreparedMount) -> str:
    """A mount that the caller prepares."""
    if bind.uid is None:
        attributes = "|".join(name for name, bit in ATTR if bind.attributes & bit)
        return f"mount_setattr(open_tree({quoted(bind.real)}), {attributes}) = {bind.slot}   {bind.origin}"
    return (
        f"mount_setattr(open_tree({quoted(bind.real)}), MOUNT_ATTR_IDMAP, {bind.uid}:{bind.gid} -> "
        f"{bind.outside_uid}:{bind.outside_gid}) = {bind.slot}   {bind.origin}"
    )


def caller_text(step: CallerStep) -> str:
    """What the caller does while the child waits."""
    if step.action == "write":
        name, content = step.args
        return f"write(/proc/CHILD/{name}, {quoted(content)})"
    return "run " + " ".join(step.args).replace("{pid}", "CHILD")


def _repeats(steps: Sequence[Step], start: int) -> int:
    """How many steps from here differ only in the second argument: the 41 drops of capabilities are one line."""
    first, count = steps[start], 1
    while start + count < len(steps):
        other = steps[start + count]
        same = other.call == first.call and other.args[:1] == first.args[:1] and other.args[2:] == first.args[2:]
        if not same or first.args[:1] != (24,):
            break
        count += 1
    return count


def stage_lines(stage: Stage) -> list[str]:
    """The stage's steps, numbered as errors number them, under what they are for and the field they come from."""
    lines: list[str] = []
    number, about = 0, ""
    while number < len(stage.steps):
        step = stage.steps[number]
        if about != f"{step.origin}: {step.doing}":
            about = f"{step.origin}: {step.doing}"
            lines.append(f"  {about}")
        count = _repeats(stage.steps, number)
        call, label = step_text(step), f"{number}"
        if count > 1:
            last = step_text(stage.steps[number + count - 1])
            call = f"{call[:-1]} .. {last.split(', ')[-1]}   {count} calls"
            label = f"{number}-{number + count - 1}"
        lines.append(f"{label:>8}  {call}")
        number += count
    return lines


def clone_lines(plan: Plan) -> list[str]:
    """The clone, its flags folded to the width of a screen, and whether the caller is stopped meanwhile."""
    lines = [""]
    for word in clone_text(plan).replace("|", "| ").split(" "):
        if len(lines[-1]) + len(word) > WIDTH:
            lines.append("        ")
        lines[-1] += word if word.endswith("|") else f"{word} "
    how = "the caller goes on when it has left our memory" if plan.gated else "no sync: vfork-style"
    if plan.sync:
        how = "the caller maps ids while the child waits"
    if plan.ahead:
        *names, last = (kind.value for kind in plan.ahead.kinds)
        how = f"in namespaces that were made ahead of need: {', '.join(names)} and {last}"
    return [*(line.rstrip() for line in lines), f"  {how}"]


def plan_text(plan: Plan) -> str:
    """The whole plan as text."""
    lines = clone_lines(plan)
    titles = {
        "join": "an intermediate process, before the clone:",
        "child": "the child, sharing the caller's memory until it execs:",
        "init": "then the child clones the payload's process, and becomes init:",
        "view": "the payload's process, or one that waits to make it:",
        "payload": "the payload's process, meanwhile:" if plan.gated else "the payload's process, before that:",
    }
    if "view" in plan.stages:
        titles["payload"] = "the payload's process:"
    for name in STAGES:
        if name == "child" and plan.prepared:
            lines += ["", "the caller, before the clone:"]
            lines += [f"          {prepared_text(mount)}" for mount in plan.prepared]
        if name in plan.stages:
            lines += ["", titles[name], *stage_lines(plan.stages[name])]
        if name == "child" and plan.sync:
            lines += ["", "the caller, while the child waits in its first read:"]
            for step in plan.sync:
                lines += [f"  {step.origin}: {step.doing}", f"          {caller_text(step)}"]
    lines += ["", "protections:", *protection_lines(plan)]
    lines += ["", *(f"note: {note}" for note in plan.notes)] if plan.notes else []
    return "\n".join(lines)


def protection_lines(plan: Plan) -> list[str]:
    """One a line; what is enforced first."""
    order = ("enforced", "degraded", "absent")
    found = sorted(plan.protections, key=lambda one: order.index(one.state))
    return [f"  {one.state:<10}{one.name}: {one.fact}" for one in found]


def _plain(step: Step) -> dict[str, object]:
    found: dict[str, object] = {"call": step.call, "text": step_text(step), "from": step.origin, "for": step.doing}
    if step.result is not None:
        found["result"] = str(step.result)
    if step.allow:
        import errno

        found["allowed"] = [errno.errorcode[number] for number in step.allow]
    if step.expect is not None:
        found["expected"] = step.expect
    return found


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as plain data, for json.dumps."""
    return {
        "clone": {"text": clone_text(plan), "flags": plan.clone_flags},
        "sync": [{"text": caller_text(step), "from": step.origin} for step in plan.sync],
        "prepared": [prepared_text(bind) for bind in plan.prepared],
        "stages": {name: [_plain(step) for step in stage.steps] for name, stage in plan.stages.items()},
        "protections": [one._asdict() for one in plan.protections],
        "notes": list(plan.notes),
    }
