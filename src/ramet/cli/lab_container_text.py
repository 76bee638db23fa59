"""What `ramet lab container` says of each part, in 80 columns: plain data in, lines out."""

from __future__ import annotations

from ramet.cli.options import WIDTH
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TITLES = {
    "steps": "A container, step by step",
    "escape": "chroot beside pivot_root",
    "veth": "Two network namespaces, joined",
    "kernel": "Beside a virtual machine",
}


def text(part: str, found: dict[str, Any]) -> list[str]:
    """The page of one part; where it could not be done, that."""
    title = TITLES[part]
    lines = [title, "=" * len(title)]
    return [*lines, "", "Not on this host."] if "error" in found else lines + _TELL[part](found)


def errors(part: str, found: dict[str, Any]) -> list[str]:
    """What could not be done, and why: for stderr."""
    if "error" in found:
        return [f"{part}: {found['error']}"]
    stopped = found.get("stopped")
    return [f"{stopped['title']}: {stopped['error']}"] if stopped else []


def _paragraph(text: str, indent: int = 0) -> list[str]:
    return [" " * indent + line for line in wrap(text, WIDTH - indent)]


# The steps


def _steps(found: dict[str, Any]) -> list[str]:
    who = "root" if found["caller_uid"] == 0 else f"an ordinary user, uid {found['caller_uid']}"
    lines = ["", *_paragraph(f"The same program runs at every step, started by {who}, and tries everything below.")]
    lines += ["  host  it reaches the host's own      own  only what belongs to the container"]
    lines += ["  yes   it may                         -    not at all"]
    before: dict[str, Any] | None = None
    for stage in found["stages"]:
        lines += ["", "", *_stage(stage, before, found["labels"])]
        before = stage
    if found["stopped"]:
        lines += ["", f"Here it ends on this host: {found['stopped']['title']}."]
    if found["stages"]:
        lines += ["", "", "All of it", "---------", *_table(found)]
    if found["default"]:
        lines += ["", *_beside_default(found["default"])]
    return lines


def _stage(stage: dict[str, Any], before: dict[str, Any] | None, labels: dict[str, str]) -> list[str]:
    title = f"{stage['number']}  {stage['title']}"
    lines = [title, "-" * len(title), *_paragraph(stage["why"]), "", *_code(stage["code"])]
    if stage["new_calls"]:
        lines += _calls(stage["new_calls"])
    lines.append("")
    if before is None:
        return lines + [_row(labels[key], cell["cell"], cell["saw"]) for key, cell in stage["cells"].items()]
    lines += _identity(stage["who"], before["who"])
    for key in stage["changed"]:
        was, now = before["cells"][key]["cell"], stage["cells"][key]
        lines.append(_row(labels[key], f"{was:>4} -> {now['cell']}", now["saw"], wide=True))
    return lines


def _row(label: str, cell: str, saw: str, *, wide: bool = False) -> str:
    head = f"  {label:<23}{cell:<{13 if wide else 6}}"
    room = WIDTH - len(head)
    return head + (saw if len(saw) <= room else saw[: room - 3] + "...")


def _code(code: str) -> list[str]:
    lines = []
    for line in code.split("\n"):
        first, *rest = wrap(line, WIDTH - 8)
        more = "    # " if first.startswith("#") else "        "
        lines += [f"    {first}", *(more + part for part in rest)]
    return lines


def _calls(new: list[dict[str, Any]]) -> list[str]:
    total = sum(len(group["calls"]) for group in new)
    names = list(dict.fromkeys(name for group in new for name in group["calls"]))
    what = f"{total} system call{'s' if total > 1 else ''}"
    first, *rest = wrap(f"{what}: {', '.join(names)}", WIDTH - 8)
    return [f"    # {first}", *(f"    #   {line}" for line in rest)]


def _identity(who: dict[str, int], before: dict[str, int]) -> list[str]:
    """Only what the step has changed; a pid is another one each time."""
    lines = []
    if (who["uid_inside"], who["uid_outside"]) != (before["uid_inside"], before["uid_outside"]):
        lines.append(f"  it is uid {who['uid_inside']} inside, and {who['uid_outside']} outside")
    if (before["pid_inside"] == before["pid_outside"]) != (who["pid_inside"] == who["pid_outside"]):
        lines.append(f"  it is process {who['pid_inside']} inside, and {who['pid_outside']} outside")
    if who["capabilities"] != before["capabilities"]:
        lines.append(f"  it has {who['capabilities']} capabilities; before, it had {before['capabilities']}")
    return lines


def _table(found: dict[str, Any]) -> list[str]:
    stages = found["stages"]
    lines = [f"{'':<23}" + "".join(f"{stage['number']:>5}" for stage in stages)]
    for title, keys in found["groups"].items():
        lines += ["", title]
        for key in keys:
            cells = "".join(f"{stage['cells'][key]['cell']:>5}" for stage in stages)
            lines.append(f"  {found['labels'][key]:<21}{cells}")
    lines += ["", "Who it is"]
    for label, key in (("uid inside", "uid_inside"), ("uid outside", "uid_outside"), ("capabilities", "capabilities")):
        lines.append(f"  {label:<22}{_runs([stage['who'][key] for stage in stages])}")
    lines += ["", *(f"  {stage['number']}  {stage['title']}" for stage in stages)]
    return lines


def _runs(values: list[int]) -> str:
    """Each value with the steps at which it holds: these numbers are too long for the columns."""
    from itertools import groupby

    parts: list[str] = []
    for value, steps in groupby(range(len(values)), key=lambda step: values[step]):
        first, *more = steps
        at = "at" if parts else "at step"
        parts.append(f"{value} {at} {first}" + (f"-{more[-1]}" if more else ""))
    return ", ".join(parts)


def _beside_default(default: dict[str, Any]) -> list[str]:
    lines = ["With no field at all, ramet.run(argv) does what the last step does, except:"]
    own = [f"uid {default['uid_there']} inside, not {default['uid_here']}", *default["only_there"]]
    for label, doings in (("it lacks", default["only_here"]), ("it has", own)):
        body = wrap("; ".join(doings), WIDTH - 12)
        lines += [f"  {label:<10}{body[0]}", *(" " * 12 + line for line in body[1:])]
    return lines


# chroot beside pivot_root


def _escape(found: dict[str, Any]) -> list[str]:
    jails, ways = list(found["jails"]), found["ways"]
    lines = [""]
    lines += _paragraph(
        "A jail is made in a sandbox that has the rights to make one; outside the jail lies a file. Each way out is"
        " tried by a process in the jail, with the same rights. OUT: it read the file."
    )
    lines += ["", *(f"  {letter}  {found['jails'][jail]}" for letter, jail in zip("ABCDE", jails, strict=True)), ""]
    lines.append(f"{'':<34}" + "".join(f"{letter:>8}" for letter in "ABCDE"))
    for way, about in ways.items():
        body = wrap(about, 34)
        cells = [found["tries"][jail][way] for jail in jails]
        row = "".join(f"{'OUT' if cell['escaped'] else cell['saw'][:7]:>8}" for cell in cells)
        lines += [f"{body[0]:<34}{row}", *(f"  {line}" for line in body[1:])]
    lines.append("")
    lines += _paragraph(
        "chroot changes where this process begins to look up names, and nothing else: one whose working directory is"
        " outside its root is stopped by nothing on its way up. pivot_root changes the root of the mount namespace"
        " itself: there is no way up from it, once the old root is unmounted (C is what forgetting that costs)."
    )
    if found["tries"]["pivot_root, unmounted"]["left_open"]["escaped"]:
        lines += _paragraph(
            "A directory left open leads out of each, for a descriptor needs no name. So a plan ends with close_range,"
            " and ramet.run passes on what you name (pass_fds) and nothing else."
        )
    return lines


# Two network namespaces joined


def _veth(found: dict[str, Any]) -> list[str]:
    caller, child = found["caller"], found["child"]
    lines = ["", *_paragraph("Neither side is the host's network: both namespaces were made for this.")]
    lines += ["", f"  {'':<10}{'network namespace':<20}{'address':<14}before   joined"]
    lines.append(f"  {'host':<10}{found['host']['namespace']:<20}(left alone)")
    for name, side in (("caller", caller), ("child", child)):
        before, joined = " ".join(side["before"]), " ".join(side["joined"])
        lines.append(f"  {name:<10}{side['namespace']:<20}{side['address']:<14}{before:<9}{joined}")
    lines += [
        "",
        "  The caller's side connects to the child's listener, over TCP:",
        f"    before     {found['reached_before']}",
        f'    joined     "{found["reached"]}"',
        f"               and the child saw a connection from {found['seen_by_child']}",
        f"    parted     {found['reached_after']}",
        "",
    ]
    return lines + _paragraph(
        "A veth pair is a cable: what goes in at one end comes out at the other, and each end can be in a namespace of"
        " its own. With pyroute2: ip.link('add', ifname='veth-caller', kind='veth', peer={'ifname': 'veth-child',"
        " 'net_ns_pid': child.pid}). Where one end goes, so goes the other: the last line is after it was deleted."
    )


# One kernel


def _kernel(found: dict[str, Any]) -> list[str]:
    rows = list(found["rows"].values())
    lines = ["", *_paragraph("The same script looked, outside and in a sandbox with ramet's defaults.")]
    shared = [row for row in rows if row["same"]]
    lines += ["", "The same in both: the kernel, and what only it knows"]
    for row in shared:
        lines += _fact(row["what"], [row["host"]])
    lines += ["", "Different: what namespaces are made for"]
    for row in rows:
        if not row["same"]:
            lines += _fact(row["what"], [f"host       {row['host']}", f"container  {row['container']}"])
    lines += ["", "A virtual machine has of its own (by construction; none was started)"]
    instead: dict[str, list[str]] = {}
    for row in shared:
        instead.setdefault(row["virtual_machine"], []).append(row["what"].partition(" (")[0])
    for what, names in instead.items():
        lines += _fact(what, wrap(", ".join(names), WIDTH - 31))
    lines.append("")
    lines += _paragraph(
        "So a hole in the kernel is a hole in every container on it, and the one in a virtual machine is that machine's."
        " Fewer system calls (seccomp), no capabilities and no user namespaces inside make that hole harder to reach."
    )
    if found["host_is_virtual"]:
        lines += _paragraph(
            "This host says that it is a virtual machine itself: that is the kernel meant by host here."
        )
    return lines


def _fact(what: str, values: list[Any]) -> list[str]:
    texts = [str(value) if value is not None else "not to be seen" for value in values]
    cut = [text if len(text) <= WIDTH - 31 else text[: WIDTH - 34] + "..." for text in texts]
    return [f"  {what:<29}{cut[0]}", *(" " * 31 + line for line in cut[1:])]


_TELL: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "steps": _steps,
    "escape": _escape,
    "veth": _veth,
    "kernel": _kernel,
}
