"""The lab's page: what is in it, that it is sound HTML, and that nothing read from the machine becomes markup."""

import re
from itertools import pairwise

import html5lib
import pytest

from ramet import lab
from ramet.errors import Error
from ramet.lab.report import gather as gathering
from ramet.lab.report import plot
from ramet.lab.report.code import python
from ramet.lab.report.gather import PARTS, gather, troubles, unsound
from ramet.lab.report.html import element, escape, join
from ramet.lab.report.page import page
from ramet.lab.report.words import manual

EVIL = "</code></pre></style></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&\x1b[31m\0\u202e"


def parsed(text):
    """As a browser reads it; what a browser would have to mend is an error here."""
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    for node in tree.iter():
        node.tag = str(node.tag).rpartition("}")[2]  # of SVG's elements, the name alone
    return tree


@pytest.fixture(scope="module")
def tree(page_text):
    return parsed(page_text)


def text_of(node):
    return "".join(node.itertext())


def by_id(tree, name):
    (found,) = [node for node in tree.iter() if node.get("id") == name]
    return found


# What is there


def test_every_part_is_there(tree):
    """Page, navigation and headings have experiments, namespaces, matrix, comparison, errors and container."""
    ids = [section.get("id") for section in tree.iter("section")]
    assert ["experiments", "namespaces", *PARTS] == ids
    assert [f"#{name}" for name in ids] == [link.get("href") for link in tree.find(".//nav").iter("a")]


@pytest.mark.parametrize("name", lab.NAMES)
def test_an_experiment_shows_its_evidence(tree, everything, name):
    """Question, flags with meanings, program, what each side saw, control, findings, conclusion, claim, manual."""
    evidence = everything[name]
    shown = by_id(tree, f"experiment-{name}")
    assert shown.tag == "details"
    text = text_of(shown)
    parts = [evidence.title, evidence.question, evidence.source, evidence.claimed, evidence.manual, evidence.kernel]
    parts += [each.statement for each in evidence.findings]
    parts += [each.what for each in (*evidence.observations, *evidence.control)]
    parts += [each["meaning"] for each in evidence.as_json()["flags_explained"]]
    parts += [f"needs {evidence.missing}"] if evidence.missing else [evidence.conclusion]
    for part in parts:
        assert part in text
    assert evidence.control_source in text


def test_values_stand_beside_the_controls(tree, everything):
    """In the table of experiment 1, 42 stands under "with CLONE_VM" and 0, marked, under "without it"."""
    row, *_ = [
        row
        for row in by_id(tree, "experiment-memory").iter("tr")
        if text_of(row.find("th")).startswith("the C int") and row.find("td") is not None
    ]
    assert ["42", "≠ differs: 0"] == [text_of(cell) for cell in row.iter("td")]
    assert ["looked at", "with CLONE_VM", "without it"] == [
        text_of(cell) for cell in by_id(tree, "experiment-memory").find(".//thead").iter("th")
    ]


def test_the_diagram_says_who_shares_what(tree, everything):
    """A bar reaches across all who are in one namespace; the child's own pid namespace has a bar by itself."""

    def bars(name):
        lanes = by_id(tree, f"experiment-{name}").iterfind(".//ul[@class='namespaces']/li")
        return {
            text_of(lane.find(".//span[@class='kind']")): [
                bar.get("class") for bar in lane.iter("span") if "bar" in bar.get("class", "").split()
            ]
            for lane in lanes
        }

    assert bars("memory")["pid"] == ["bar from-control to-child shared"]
    assert bars("pid")["pid"] == ["bar from-control to-caller shared", "bar from-child to-child new"]
    assert bars("pid")["net"] == ["bar from-control to-child shared"]
    assert bars("thread")["pid"] == ["bar from-control to-child shared said"]
    numbers = text_of(by_id(tree, "experiment-pid"))
    assert f"new {everything['pid'].namespaces.child['pid']}" in numbers


def test_the_grid_shows_each_cell_of_the_matrix(tree, found):
    """Each cell says its word, draws the word's shape, and tells what was seen; a changed one is marked."""
    rows = {text_of(row.find("th/code")): row for row in by_id(tree, "grid").find("tbody").iter("tr")}
    keys = [resource["key"] for resource in found["matrix"]["resources"]]
    for row in found["matrix"]["rows"]:
        if not row["cells"]:
            continue
        shown = rows[row["flag"].removeprefix("CLONE_") or "no flag"]
        for key, cell in zip(keys, shown.iter("td"), strict=True):
            measured = row["cells"][key]
            assert measured["measured"] in text_of(cell)
            assert f"#shape-{measured['measured']}" == cell.find("svg/use").get("href")
            assert measured["evidence"] in cell.get("title")
    assert "changed" in rows["VM"].find("td").get("class")
    assert "changed" not in rows["FS"].find("td").get("class")


def test_a_difference_from_the_manual_is_marked(found):
    """A cell that is not as the manual says has a mark and a word, and is told below; the control has none of it."""
    odd = found["matrix"] | {"rows": [dict(row) for row in found["matrix"]["rows"]]}
    assert "which is not so here" not in page(found | {"experiments": []})
    row = odd["rows"][1]
    row["cells"] = row["cells"] | {"umask": row["cells"]["umask"] | {"manual": "new", "agrees": False}}
    tree = parsed(page({"host": found["host"], "experiments": [], "matrix": odd}))
    (cell,) = [cell for cell in tree.iter("td") if "odd" in (cell.get("class") or "").split()]
    assert "!" in text_of(cell)
    assert "the manual says new" in text_of(cell)
    assert "umask" in text_of(tree.find(".//ul[@class='differences']"))


def test_errors_and_container_are_complete(tree, found):
    """Each refused call, each step with its code and each way out is on the page."""
    errors, container = text_of(by_id(tree, "errors")), text_of(by_id(tree, "container"))
    for case in found["errors"]["cases"]:
        assert case["call"] in errors
        assert case["not_here"] in errors
    for stage in found["container"]["steps"]["stages"]:
        assert stage["title"] in text_of(by_id(tree, f"step-{stage['key']}"))
        assert stage["code"] in text_of(by_id(tree, f"step-{stage['key']}"))
    for way in found["container"]["escape"]["ways"].values():
        assert way in container


def test_the_host_is_named(tree, found):
    """Kernel, machine, who ran it and when head the page."""
    head = text_of(tree.find(".//header"))
    who = "root" if found["host"]["uid"] == 0 else f"the ordinary user {found['host']['uid']}"
    for fact in (found["host"]["kernel"], found["host"]["machine"], found["host"]["date"], who):
        assert fact in head


def test_what_does_not_hold_is_seen(found):
    """An experiment that fails says so, and makes the exit code 1; the control does neither."""
    broken = {"host": found["host"], "experiments": [lab.run("memory", flags=0)]}
    sound = {"host": found["host"], "experiments": [lab.run("memory")]}
    assert "does not hold" in page(broken)
    assert "does not hold" not in page(sound)
    assert (True, False) == (unsound(broken), unsound(sound))
    answered = {
        "experiments": [],
        "errors": {"cases": [found["errors"]["cases"][0] | {"agrees": False, "answered": "EPERM"}]},
    }
    assert unsound(answered)


def test_what_this_host_cannot_do_is_told(found, monkeypatch):
    """A part that can't be had is on the page as the reason why, and among the troubles; the rest is there."""

    def refuse(*_, **__):
        raise Error("no <namespaces> here")

    monkeypatch.setattr("ramet.lab.matrix.matrix", refuse)
    monkeypatch.setattr("ramet.lab.container.veth.veth", refuse)
    for module, name in (("build", "steps"), ("escape", "escape"), ("kernel", "kernel")):
        monkeypatch.setattr(f"ramet.lab.container.{module}.{module}", lambda name=name: found["container"][name])
    measured = gather([], ("matrix", "container"))
    assert {"error": "no <namespaces> here"} == measured["matrix"]
    assert ["matrix: no <namespaces> here", "veth: no <namespaces> here"] == troubles(measured)
    text = text_of(parsed(page(measured)))
    assert text.count("no <namespaces> here") == 2
    assert "A root of its own" in text


def test_progress_counts_to_the_end(monkeypatch):
    """Progress is told before each job by its name, and at the end that all are done."""
    monkeypatch.setattr(gathering, "_asked", lambda ask: {})
    told = []
    gather(["memory"], ("errors", "container"), progress=lambda *each: told.append(each))
    assert [(0, 6, "memory"), (1, 6, "errors"), (1, 6, "errors"), (2, 6, "steps")] == told[:4]
    assert (6, 6, "") == told[-1]


# Nothing foreign becomes markup


def test_nothing_read_becomes_markup(found):
    """Host names, values, sources, errors and paths with markup in them are text; nothing that steers is left."""
    one = found["experiments"][0].replace(
        source=f"x = 1  # {EVIL}\n{EVIL}", kernel=EVIL, with_is=EVIL, title=EVIL, file=EVIL, missing=""
    )
    one = one.replace(observations=tuple(each._replace(value=EVIL, what=EVIL) for each in one.observations))
    evil = {
        "host": found["host"] | {"name": EVIL, "kernel": EVIL, "build": EVIL},
        "experiments": [one],
        "matrix": {"error": EVIL},
        "container": {
            "veth": {"error": EVIL},
            "kernel": found["container"]["kernel"]
            | {"rows": {"x": dict.fromkeys(("what", "host", "container", "virtual_machine", "same"), EVIL)}},
        },
    }
    text = page(evil)
    tree = parsed(text)
    assert (1, 1) == (len(list(tree.iter("script"))), len(list(tree.iter("style"))))
    assert [] == list(tree.iter("img"))
    assert [] == [name for node in tree.iter() for name in node.keys() if name.startswith("on")]  # noqa: SIM118
    assert text_of(tree).count("<script>alert(1)</script>") > 10
    assert r"\x1b[31m\x00\u202e" in text_of(tree)
    assert [] == [c for c in text if not c.isprintable() and c not in "\n"]


def test_escape():
    """Special characters are references, controls and halves of characters are shown, and markup is not escaped twice."""
    assert escape("<a href=\"x\" b='y'>&") == "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;"
    assert escape("a\nb\tc\x00\x7f\x85") == "a\nb\tc\\x00\\x7f\\x85"
    assert escape("\udcff\ud800é") == "\\xff\\ud800é"
    assert element("b", "<", element("i", "&")) == "<b>&lt;<i>&amp;</i></b>"
    assert join("<", None, ["a", [False, element("br")]], between="&") == "&lt;&amp;a&amp;<br>"
    assert (
        element("a", class_="x", aria_label='"', hidden=True, title=None)
        == '<a class="x" aria-label="&quot;" hidden></a>'
    )


def test_source_keeps_its_words():
    """Highlighting marks words and changes none, whatever the source; what is no Python is shown as it is."""
    source = 'def f(a: int) -> str:  # <b>\n    """A\n    doc."""\n    return f"{a!r}" \\\n        + "&"\n\n\nx = 1'
    shown = parsed(f"<!DOCTYPE html><title>x</title>{python(source, 'it')}")
    assert source == text_of(shown.find(".//pre"))
    marked = {(span.get("class"), span.text) for span in shown.iter("span")}
    assert {("keyword", "def"), ("defined", "f"), ("comment", "# <b>"), ("string", '"&"')} <= marked
    broken = "if (:\n '''"
    assert broken == text_of(parsed(f"<!DOCTYPE html><title>x</title>{python(broken, 'it')}").find(".//pre"))


def test_nothing_is_asked_for(page_text, tree):
    """The page names no other place but man pages, and those only as links to follow; its policy refuses the rest."""
    style, script = tree.find(".//style").text, tree.find(".//script").text
    assert [] == re.findall(r"https?:|url\(|@import|fetch\(|XMLHttp|import\(", style + script)
    for node in tree.iter():
        for name, value in node.items():
            if "//" in value and name != "title":
                assert (node.tag, name) == ("a", "href")
                assert value.startswith("https://man7.org/linux/man-pages/man")
    assert {None, "data:,"} == {node.get("href") for node in tree.iter("link")} | {
        node.get("src") for node in tree.iter()
    }
    (policy,) = [node.get("content") for node in tree.iter("meta") if node.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert [] == [node for node in tree.iter() if node.get("style")]


def test_manual_links():
    """Each man page that is named is a link, section and all; the text around it stays."""
    shown = manual("clone(2), CLONE_PIDFD; pidfd_open(2) & more")
    assert 'href="https://man7.org/linux/man-pages/man2/pidfd_open.2.html"' in shown
    assert "clone(2), CLONE_PIDFD; pidfd_open(2) & more" == text_of(
        parsed(f"<!DOCTYPE html><title>x</title>{shown}").find(".//body")
    )


# Sound HTML, for everybody


def test_it_is_sound(tree):
    """Every id is there once, every reference leads somewhere, and so does every link inside the page."""
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert sorted(set(ids)) == sorted(ids)
    wanted = [word for node in tree.iter() for word in (node.get("aria-labelledby") or "").split()]
    wanted += [node.get("href")[1:] for node in tree.iter() if (node.get("href") or "").startswith("#")]
    assert len(wanted) > 50
    assert set() == set(wanted) - set(ids)


def test_headings_go_down_one_by_one(tree):
    """One h1; no level is left out on the way down; every section, and every experiment, begins with a heading."""
    levels = [int(node.tag[1]) for node in tree.iter() if re.fullmatch("h[1-6]", str(node.tag))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert [] == [(a, b) for a, b in pairwise(levels) if b > a + 1]
    assert all(section.find("h2") is not None for section in tree.iter("section"))


def test_landmarks_and_language(tree):
    """The page has a language, a title, one header, navigation, main and footer, and a link past the navigation."""
    assert tree.get("lang") == "en"
    assert "clone" in tree.find(".//title").text
    for landmark in ("header", "nav", "main", "footer"):
        assert len(list(tree.iter(landmark))) == 1
    assert tree.find(".//nav").get("aria-label")
    assert next(tree.iter("a")).get("href") == "#main"


def test_tables_say_what_heads_what(tree):
    """Every table has a caption, every heading cell a scope, and every body row a heading."""
    tables = list(tree.iter("table"))
    assert len(tables) > 40
    for table in tables:
        assert text_of(table.find("caption")).strip()
        assert all(cell.get("scope") in ("col", "row", "colgroup", "rowgroup") for cell in table.iter("th"))
        assert all(row.find("th") is not None for body in table.iter("tbody") for row in body.iter("tr"))
        assert [] == [cell for cell in table.iter("th") if not text_of(cell).strip()]


def test_what_can_be_used_has_a_name(tree):
    """Buttons, fields, what scrolls, pictures and what can be reached by keyboard say what they are."""
    for node in tree.iter():
        if node.tag in ("button", "summary", "a"):
            assert text_of(node).strip()
        if node.get("tabindex") == "0" or node.get("role") in ("region", "img", "group"):
            assert node.get("aria-label") or node.get("aria-labelledby")
        if node.tag == "svg":
            assert node.get("aria-hidden") == "true" or node.get("role") == "group"
    labelled = [field for label in tree.iter("label") for field in label.iter("input")]
    assert labelled == list(tree.iter("input"))


# The plot


def test_every_time_is_a_point(tree, found):
    """Each time that was measured can be reached, says its numbers, and lies where the axes say; in both pictures."""
    latency = found["compare"]["latency"]
    known = sum(1 for way in latency["ways"] for taken in way["seconds"] if taken)
    for picture in ("wide-plot", "narrow-plot"):
        (drawn,) = [node for node in tree.iter("svg") if node.get("class") == picture]
        points = [node for node in drawn.iter("g") if node.get("tabindex") == "0"]
        assert known == len(points) == len(latency["ways"]) * 3
        for point in points:
            assert re.search(r"caller of .+: [\d.]+ [µm]?s median, [\d.]+ [µm]?s at the least", point.get("aria-label"))
    way = latency["ways"][0]
    assert any(f"fork, 64 MiB{plot.time_words(way['seconds'][2])} median" in text_of(node) for node in tree.iter("g"))


@pytest.fixture
def times():
    """Times of two ways, one of which can't be had."""
    ways = [
        {
            "key": "a",
            "name": "grows",
            "seconds": [1e-4, 1e-3, 1e-2],
            "least": [9e-5, 9e-4, 9e-3],
            "refused": ["", "", ""],
        },
        {"key": "b", "name": "refused", "seconds": [None] * 3, "least": [None] * 3, "refused": ["EPERM"] * 3},
    ]
    return {"sizes": [0, 1 << 28, 1 << 30], "ways": ways, "left_out": [], "rounds": 5}


def test_axes_are_logarithmic(times):
    """Ten times as long is as far up everywhere; four times the memory as far right as any other four times."""
    frame = plot.Frame(times, 860, 470, labels=True)
    heights = [frame.y(10.0**power) for power in (-4, -3, -2)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[0] > heights[1]
    assert frame.x(1 << 28) - frame.x(1 << 26) == pytest.approx(frame.x(1 << 30) - frame.x(1 << 28), abs=0.2)
    assert frame.x(0) < frame.x(1 << 28)


def test_what_was_refused_has_no_point(times):
    """A way that the kernel refused has no point; the table has its errno."""
    assert plot.plot(times).count('class="point') == 2 * 3
    assert plot.numbers(times).count("EPERM") == 3


def test_one_size_is_enough(times):
    """A plot of one size, and one of nothing at all, can be drawn."""
    times["sizes"] = [0]
    for way in times["ways"]:
        way.update({name: way[name][:1] for name in ("seconds", "least", "refused")})
    assert plot.plot(times).count('class="point') == 2
    times["ways"] = times["ways"][1:]
    assert plot.plot(times).count('class="point') == 0


def test_points_do_not_cover_each_other(found):
    """What each point is pointed at by lies around it, and no two of one size overlap, be they ever so near."""
    latency = found["compare"]["latency"]
    zones = plot._zones(latency, plot.Frame(latency, 860, 470, labels=True))
    for size in latency["sizes"]:
        column = sorted(zone for (_, held), zone in zones.items() if held == size)
        assert len(column) == len(latency["ways"])
        assert all(below - above <= 28.01 for above, below in column)
        assert all(above[1] <= below[0] + 1 for above, below in pairwise(column))


def test_names_do_not_cover_each_other():
    """Names stay in order and apart, near where they belong, and inside; the control lies on one spot."""
    places = plot.apart([10.0, 11.0, 12.0, 90.0, 99.0], 17.0, 6.0, 100.0)
    assert sorted(places) == places
    assert min(b - a for a, b in pairwise(places)) >= 17
    assert (places[0] >= 6, places[-1] <= 100) == (True, True)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1.2e-7, "120 ns"),
        (3.4567e-5, "34.6 µs"),
        (9.996e-4, "1 ms"),
        (0.1234, "123 ms"),
        (2.0, "2 s"),
        (9.9996e-5, "100 µs"),
    ],
)
def test_time_words(seconds, said):
    """Times are told in three digits, in the unit that fits."""
    assert said == plot.time_words(seconds)
