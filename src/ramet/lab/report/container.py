"""The container, built step by step, and what belongs to it: ways out, a cable between networks, one kernel for all."""

from __future__ import annotations

from ramet.host.namespaces import KINDS
from ramet.lab.report.code import python
from ramet.lab.report.html import Markup, caption, disclosure, element, head_row, hidden, join, scrolling
from ramet.lab.report.words import plural, who
from ramet.lab.words import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REACH = {
    "host": ("●", "it reaches the host's own"),
    "yes": ("✓", "it may"),
    "own": ("□", "only what belongs to the container"),
    "-": ("-", "not at all"),
}
"""What a cell of the table says, its sign, and what that means."""
_STYLES = {"host": "host", "yes": "may", "own": "own", "-": "none"}


def section(found: dict[str, Any]) -> Markup:
    """The part of the page."""
    parts = [_part(name, found[name]) for name in TITLES if name in found]
    return element(
        "section",
        element("h2", "A container, step by step", id="container-title"),
        parts,
        id="container",
        aria_labelledby="container-title",
    )


def _part(name: str, found: dict[str, Any]) -> Markup:
    head = element("h3", TITLES[name], id=f"container-{name}")
    if "error" in found:
        return join(head, element("pre", f"Not on this host: {found['error']}", class_="trouble"))
    return join(head, _PARTS[name](found))


# The steps


def _steps(found: dict[str, Any]) -> Markup:
    stages = found["stages"]
    stopped = found["stopped"]
    ends = None
    if stopped:
        ends = element(
            "pre", f"Here it ends on this host, at: {stopped['title']}\n{stopped['error']}", class_="trouble"
        )
    steps = [_stage(stage, stages[n - 1] if n else None, found["labels"]) for n, stage in enumerate(stages)]
    table = scrolling("What it can reach after each step", _reach(found), class_="wide") if stages else None
    return join(
        element(
            "p",
            f"The same program runs after every step, started by {who(found['caller_uid'])}, and tries all of this. "
            "What it can still see and do becomes less from left to right.",
            class_="lead",
        ),
        element("dl", [_meaning(word) for word in REACH], class_="legend"),
        table,
        element("div", steps, class_="list"),
        ends,
        _beside_default(found["default"]) if found["default"] else None,
    )


def _meaning(word: str) -> Markup:
    sign, what = REACH[word]
    spoken = "" if word == "-" else f" {word}"
    return join(element("dt", sign, spoken, class_=_STYLES[word]), element("dd", what))


def _mark(word: str) -> list[Any]:
    """A sign, and the word beside it or for the ear."""
    if word not in REACH:
        return [word]  # a count
    sign, _ = REACH[word]
    return [element("span", sign, aria_hidden="true"), hidden("not at all") if word == "-" else f" {word}"]


def _reach(found: dict[str, Any]) -> Markup:
    stages = found["stages"]
    heads = [
        element(
            "th", element("a", stage["number"], hidden(f" {stage['title']}"), href=f"#step-{stage['key']}"), scope="col"
        )
        for stage in stages
    ]
    bodies = []
    for title, keys in found["groups"].items():
        over = element("tr", element("th", title, colspan=len(stages) + 1, scope="rowgroup", class_="who"))
        rows = [
            element(
                "tr",
                element("th", found["labels"][key], scope="row"),
                [_reached(stage, key, stages[n - 1] if n else stage) for n, stage in enumerate(stages)],
            )
            for key in keys
        ]
        bodies.append(element("tbody", over, rows))
    return element(
        "table",
        caption("What the process can see and do after each step"),
        element("thead", element("tr", element("th", "after step", scope="col"), heads)),
        bodies,
        _identities(stages),
        class_="reach",
    )


def _reached(stage: dict[str, Any], key: str, before: dict[str, Any]) -> Markup:
    cell = stage["cells"][key]
    classes = [_STYLES.get(cell["cell"], "count")]
    if cell["cell"] != before["cells"][key]["cell"]:
        classes.append("changed")
    return element("td", _mark(cell["cell"]), class_=" ".join(classes), title=cell["saw"])


def _identities(stages: list[dict[str, Any]]) -> Markup:
    over = element("tr", element("th", "Who it is", colspan=len(stages) + 1, scope="rowgroup", class_="who"))
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            [element("td", stage["who"][key], class_="count") for stage in stages],
        )
        for label, key in (
            ("uid inside", "uid_inside"),
            ("uid outside", "uid_outside"),
            ("capabilities", "capabilities"),
        )
    ]
    return element("tbody", over, rows)


def _stage(stage: dict[str, Any], before: dict[str, Any] | None, labels: dict[str, str]) -> Markup:
    keys = stage["changed"] if before else list(stage["cells"])
    told_of = _identity(stage["who"], before["who"]) if before else []
    told = plural(len(keys), "thing changes", "things change") if before else "where it begins"
    summary = join(
        element("span", stage["number"], class_="number"),
        element("h4", stage["title"]),
        element("span", told, class_="about"),
    )
    return disclosure(
        summary,
        element("p", stage["why"]),
        python(stage["code"], "The code of this step"),
        _calls(stage["new_calls"]),
        _spaces(stage["namespaces"]),
        element("ul", [element("li", line) for line in told_of]) if told_of else None,
        _changes(stage, before, keys, labels) if keys else None,
        id=f"step-{stage['key']}",
        class_="stage",
    )


def _calls(new: list[dict[str, Any]]) -> Markup | None:
    if not new:
        return None
    total = sum(len(group["calls"]) for group in new)
    rows = [element("li", group["doing"], ": ", element("code", _counted(group["calls"]))) for group in new]
    return disclosure(plural(total, "system call"), element("ul", rows))


def _counted(calls: list[str]) -> str:
    """``prctl x41, capset``."""
    counts: dict[str, int] = {}
    for call in calls:
        counts[call] = counts.get(call, 0) + 1
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts.items())


def _spaces(found: dict[str, str]) -> Markup:
    """Which namespaces are its own by now."""
    rows = []
    for kind in KINDS:
        if kind in found:
            own = found[kind] != "host"
            sign = "□" if own else "●"
            rows.append(
                element(
                    "li",
                    element("span", sign, aria_hidden="true"),
                    f" {kind}: ",
                    found[kind],
                    class_="own" if own else "host",
                )
            )
    return element("ul", rows, class_="chips", aria_label="Its namespaces")


def _identity(who: dict[str, int], before: dict[str, int]) -> list[str]:
    """Only what the step has changed; a pid is another one each time."""
    lines = []
    if (who["uid_inside"], who["uid_outside"]) != (before["uid_inside"], before["uid_outside"]):
        lines.append(f"it is uid {who['uid_inside']} inside, and {who['uid_outside']} outside")
    if (before["pid_inside"] == before["pid_outside"]) != (who["pid_inside"] == who["pid_outside"]):
        lines.append(f"it is process {who['pid_inside']} inside, and {who['pid_outside']} outside")
    if who["capabilities"] != before["capabilities"]:
        lines.append(f"it has {who['capabilities']} capabilities; before, it had {before['capabilities']}")
    return lines


def _changes(stage: dict[str, Any], before: dict[str, Any] | None, keys: list[str], labels: dict[str, str]) -> Markup:
    rows = []
    for key in keys:
        cell = stage["cells"][key]
        was = element("td", _mark(before["cells"][key]["cell"])) if before else None
        rows.append(
            element(
                "tr",
                element("th", labels[key], scope="row"),
                was,
                element("td", _mark(cell["cell"])),
                element("td", cell["saw"]),
            )
        )
    titles = ("what", "before", "now", "it saw") if before else ("what", "now", "it saw")
    about = f"What changes with step {stage['number']}, {stage['title']}"
    return scrolling(about, element("table", caption(about), head_row(*titles), element("tbody", rows)))


def _beside_default(default: dict[str, Any]) -> Markup:
    own = [f"uid {default['uid_there']} inside, not {default['uid_here']}", *default["only_there"]]
    return element(
        "p",
        "With no field at all, ",
        element("code", "ramet.run(argv)"),
        f" does what the last step does, except: it lacks {'; '.join(default['only_here'])}; it has {'; '.join(own)}.",
    )


# chroot beside pivot_root


def _escape(found: dict[str, Any]) -> Markup:
    heads = [element("th", about, scope="col") for about in found["jails"].values()]
    rows = [
        element("tr", element("th", about, scope="row"), [_try(found["tries"][jail][way]) for jail in found["jails"]])
        for way, about in found["ways"].items()
    ]
    table = element(
        "table",
        caption("Ways out of each jail"),
        element("thead", element("tr", element("th", "way out", scope="col"), heads)),
        element("tbody", rows),
        class_="words",
    )
    return join(
        element(
            "p",
            "A jail is made in a sandbox that has the rights to make one; outside the jail lies a file. Each way out is "
            "tried by a process in the jail, with the same rights.",
        ),
        scrolling("Ways out of each jail", table),
        element(
            "p",
            "chroot changes where this process begins to look up names, and nothing else: one whose working directory is "
            "outside its root is stopped by nothing on its way up. pivot_root changes the root of the mount namespace "
            "itself, and there is no way up from it once the old root is unmounted. A directory left open leads out of "
            "each jail, for a descriptor needs no name: so ramet.run closes what it was not told to pass on.",
        ),
    )


def _try(cell: dict[str, Any]) -> Markup:
    if cell["escaped"]:
        return element("td", element("strong", "✗ out: "), cell["saw"], class_="host changed")
    return element("td", "✓ held: ", cell["saw"], class_="own")


# Two network namespaces, joined


def _veth(found: dict[str, Any]) -> Markup:
    caller, child = found["caller"], found["child"]
    ends = [_end("caller", caller, "veth-caller"), _cable(), _end("child", child, "veth-child")]
    said = element("q", found["reached"])
    rows = [
        ("before", found["reached_before"]),
        ("joined", join(said, f", and the child saw a connection from {found['seen_by_child']}")),
        ("parted", found["reached_after"]),
    ]
    return join(
        element(
            "p",
            "Both network namespaces were made for this; the host's, ",
            element("code", found["host"]["namespace"]),
            ", was left alone.",
        ),
        element("div", ends, class_="veth"),
        element("p", "The caller's side connects to the child's listener, over TCP:"),
        element("dl", [join(element("dt", when), element("dd", what)) for when, what in rows], class_="flags"),
        element(
            "p",
            "A veth pair is a cable: what goes in at one end comes out at the other, and each end can be in a namespace "
            "of its own. Where one end goes, so goes the other: the last line is after it was deleted.",
        ),
    )


def _end(name: str, side: dict[str, Any], device: str) -> Markup:
    return element(
        "div",
        element("strong", name),
        element("code", side["namespace"]),
        element("span", f"before: {' '.join(side['before'])}"),
        element("span", f"joined: {' '.join(side['joined'])}"),
        element("span", f"{device} is {side['address']}", class_="port"),
        class_="end",
    )


def _cable() -> Markup:
    return element("span", "veth pair", class_="cable")


# One kernel


def _kernel(found: dict[str, Any]) -> Markup:
    rows = [
        element(
            "tr",
            element("th", row["what"], scope="row"),
            element("td", "= the same" if row["same"] else "≠ differs", class_="shared" if row["same"] else "new"),
            element("td", show(row["host"])),
            element("td", show(row["container"])),
            element("td", row["virtual_machine"]),
        )
        for row in found["rows"].values()
    ]
    table = element(
        "table",
        caption("What a container shares with its host"),
        head_row("what", "compared", "host", "container", "a virtual machine would have"),
        element("tbody", rows),
        class_="facts",
    )
    note = " This host says that it is a virtual machine itself." if found["host_is_virtual"] else ""
    return join(
        element(
            "p",
            "The same script looked, outside and in a sandbox with ramet's defaults. The last column is by construction; none was started."
            + note,
        ),
        scrolling("What a container shares with its host", table),
        element(
            "p",
            "So a hole in the kernel is a hole in every container on it. Fewer system calls, no capabilities and no user namespaces inside make it harder to reach.",
        ),
    )


TITLES = {
    "steps": "Built up",
    "escape": "chroot beside pivot_root",
    "veth": "Two network namespaces, joined",
    "kernel": "Beside a virtual machine",
}
_PARTS: dict[str, Callable[[dict[str, Any]], Markup]] = {
    "steps": _steps,
    "escape": _escape,
    "veth": _veth,
    "kernel": _kernel,
}
