"""The lab's page in a browser, as its readers meet it: by mouse, by keyboard, light, dark, and on a phone."""

import re
import time

import pytest
from webdriver import Browser, missing

from needs import need

pytestmark = pytest.mark.timeout(200)  # the first of them waits for all measurements, and for a browser to start

#: For each text that is shown: what it says, its contrast with the ground it is on, and how large it is.
CONTRASTS = """
const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = numbers(getComputedStyle(at).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found;
  }
  return [255, 255, 255];
};
const found = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || node.closest('svg, script, .sr, .skip') || !node.checkVisibility()) continue;
  const style = getComputedStyle(node);
  const [high, low] = [light(numbers(style.color)), light(ground(node))].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < (large ? 3 : 4.5)) found.set(`${style.color} on ${ground(node)}`, `${ratio.toFixed(2)} ${text.slice(0, 30)}`);
}
return [...found];
"""
#: What is shown in letters smaller than 12 pixels on the screen; a picture's are drawn smaller or larger than they say.
SMALL = """
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || node.closest('script, .sr, .skip') || !node.checkVisibility()) continue;
  const drawn = node.getScreenCTM ? node.getScreenCTM().a : 1;
  const size = parseFloat(getComputedStyle(node).fontSize) * drawn;
  if (size < 11.99) found.push(`${size.toFixed(1)} ${walker.currentNode.textContent.slice(0, 30)}`);
}
return found;
"""
#: What scrolls, and neither has the focus when Tab comes to it nor holds anything that has.
UNREACHED = """
return [...document.querySelectorAll('*')].filter(e => e.checkVisibility()
  && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1
  && e.getAttribute('tabindex') === null && !e.querySelector('a, button, input, summary, [tabindex="0"]')).map(e => e.outerHTML.slice(0, 60));
"""
OPEN = "return [...document.querySelectorAll('.experiment')].filter(e => e.open).map(e => e.id)"
FOCUS = "document.querySelector(arguments[0]).focus({focusVisible: true})"
TIPS = "return [...document.querySelectorAll('.tip')].filter(e => e.checkVisibility({visibilityProperty: true})).map(e => e.textContent)"


@pytest.fixture(scope="session")
def url(page_text, tmp_path_factory):
    """Where the page is: a file."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page_text, "utf-8")
    return file.as_uri()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    need(not missing(), missing())
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser, url):
    """The page, just loaded, on a wide light screen."""
    browser.screen(1280)
    browser.open(url)
    return browser


def test_nothing_is_said_and_nobody_asked(page, url):
    """Loaded, opened, used in both themes: the console stays empty, and nothing but the file itself is asked for."""
    page.click("#open-all")
    page.click("#theme")
    page.point_at("#grid tbody td")
    page.type("#find", "pid")
    page.run("localStorage.clear(); console.info('the last word')")
    assert len(page.expect_said("the last word")) == 1, "whatever came before it is there by then"
    assert {url} == {address for address in page.requests() if not address.startswith("data:")}


def test_it_would_have_been_seen(page, tmp_path):
    """The control: of another page, an error and a request for a picture elsewhere are both seen."""
    bad = tmp_path / "bad.html"
    bad.write_text("<!DOCTYPE html><title>x</title><img src='http://127.0.0.1:9/x.png'><script>nowhere()</script>")
    page.open(bad.as_uri())
    said, asked = [], []
    deadline = time.monotonic() + 20
    while not (said and asked) and time.monotonic() < deadline:
        said += [message for message in page.console() if "nowhere is not defined" in message]
        asked += [address for address in page.requests() if address == "http://127.0.0.1:9/x.png"]
    assert (len(said), len(asked)) == (1, 1)


def test_its_policy_holds(page):
    """A script or a picture from elsewhere that got into the page after all is refused by its policy."""
    page.run("""
        const script = document.createElement('script'); script.textContent = 'window.foreign = 1'; document.body.append(script);
        const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
    """)
    assert page.run("return window.foreign ?? null") is None
    page.expect_said("inline script", "img-src")


def test_each_experiment_opens_by_click(page, everything):
    """A click on its line opens each experiment, and what is in it can be seen; another closes it."""
    seen = (
        "return [...document.querySelectorAll('.experiment pre:last-of-type')].filter(e => e.checkVisibility()).length"
    )
    assert page.run(seen) == 0
    for name in everything:
        page.click(f"#experiment-{name} > summary")
    page.expect(OPEN, [f"experiment-{name}" for name in everything])
    assert page.run(seen) >= len(everything)
    page.click("#experiment-pid > summary")
    page.expect(OPEN, [f"experiment-{name}" for name in everything if name != "pid"])


def test_each_experiment_opens_by_keyboard(page, everything):
    """Enter opens the one that has the focus, Tab goes to the next; Space closes it again."""
    names = list(everything)
    page.run(FOCUS, f"#experiment-{names[-1]} > summary")
    for _ in names:  # from the last one up, as what is opened holds links of its own
        page.press("Enter", "Shift+Tab")
    page.expect(OPEN, [f"experiment-{name}" for name in names])
    page.run(FOCUS, f"#experiment-{names[0]} > summary")
    page.press("Space")
    page.expect(OPEN, [f"experiment-{name}" for name in names[1:]])


def test_tab_gets_from_the_top_to_the_experiments(page):
    """The first Tab goes to the link past the navigation, which appears; by Tab alone the first experiment is reached."""
    page.press("Tab")
    page.expect(
        "const at = document.activeElement; return [at.className, at.getBoundingClientRect().x >= 0]", ["skip", True]
    )
    for _ in range(20):
        if page.run("return document.activeElement.parentElement.id") == "experiment-memory":
            break
        page.press("Tab")
    page.press("Enter")
    page.expect(OPEN, ["experiment-memory"])
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("width", "picture"), [(1280, "wide-plot"), (375, "narrow-plot")])
def test_the_plot_shows_its_numbers(page, found, width, picture):
    """A point's numbers appear when it is pointed at and when it has the focus, and else not; Tab goes to the next."""
    page.screen(width)
    way = found["compare"]["latency"]["ways"][0]
    assert [] == page.run(TIPS)
    page.point_at(f".{picture} .point.way-0 .hit")
    page.expect(f"{TIPS}.length", 1)
    (tip,) = page.run(TIPS)
    assert re.fullmatch(r"fork, 0[\d.]+ [µm]s median[\d.]+ [µm]s at the least", tip)
    page.point_at("h2")
    page.expect(TIPS, [])
    page.run(FOCUS, f".{picture} .point.way-0")
    page.expect(TIPS, [tip])
    page.press("Tab")
    page.expect(f"{TIPS}.map(text => text.slice(0, 12))", ["fork, 16 MiB"])
    assert way["name"] in page.run("return document.activeElement.getAttribute('aria-label')")
    assert page.run(
        "const r = document.activeElement.querySelector('.tip rect').getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth"
    )


def test_the_grid_reads_its_cells(page):
    """What was seen in a cell is told when it is pointed at, and when the arrow keys come to it; one Tab leads past it."""
    read = "return document.getElementById('cell').textContent.startsWith(arguments[0])"
    page.point_at("#grid tbody tr:nth-child(2) td")
    page.expect(read, True, "VM, memory: shared; the manual says shared")
    page.run(FOCUS, "#grid tbody td")
    page.press("Right", "Down", "Down")
    page.expect(read, True, "FS, current directory: shared")
    assert page.run("return document.activeElement.textContent").endswith("shared")
    page.press("Tab")
    page.expect("return document.activeElement.closest('#grid')", None)


def test_themes(page):
    """Light or dark as the system is; the button turns it around, says so, and is remembered."""
    ground = "return getComputedStyle(document.body).backgroundColor"
    pressed = "return document.getElementById('theme').getAttribute('aria-pressed')"
    light = page.run(ground)
    assert page.run(pressed) == "false"
    page.screen(1280, dark=True)
    page.expect(pressed, "true")
    assert light != page.run(ground)
    page.click("#theme")
    page.expect(pressed, "false")
    page.expect(ground, light)
    page.ask("POST", "/refresh", {})
    page.expect(ground, light)
    page.run("localStorage.clear()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_all_text_can_be_read(page, width, dark):
    """With all of it open, every text has WCAG AA's contrast with what it is really drawn on."""
    page.screen(width, dark=dark)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert [] == page.run(CONTRASTS)
    page.run(
        "document.querySelector('h1').style.color = 'rgb(140, 140, 140)'; document.querySelector('h1').style.fontSize = '12px'; document.querySelector('h1').style.background = 'rgb(200, 200, 200)'"
    )
    assert len(page.run(CONTRASTS)) == 1, "the control: a grey heading is found"


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_no_text_is_tiny(page, width):
    """With all of it open, no text is drawn in less than 12 pixels, in the plots neither."""
    page.screen(width)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert [] == page.run(SMALL)
    page.run("for (const each of document.querySelectorAll('.plot > svg')) each.style.width = '60px'")
    assert page.run(SMALL), "the control: in a picture made smaller, the letters are too small"


@pytest.mark.parametrize("width", [375, 1280])
def test_what_scrolls_can_be_scrolled_by_keyboard(page, width):
    """With all of it open, whatever is wider than its box can be reached with Tab, from where the arrow keys scroll."""
    page.screen(width)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert [] == page.run(UNREACHED)
    page.run("document.querySelectorAll('pre').forEach(each => each.removeAttribute('tabindex'))")
    assert page.run(UNREACHED), "the control: programs that Tab does not reach are found"


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_no_page_wider_than_the_screen(page, width):
    """From a small phone to a wide screen, all of it open: the page never scrolls sideways; what is wide does by itself."""
    page.screen(width)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    wide, inner = page.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner
    assert inner == width
    page.run(
        "document.querySelector('h1').style.whiteSpace = 'nowrap'; document.querySelector('h1').style.fontSize = '200px'"
    )
    assert page.run("return document.documentElement.scrollWidth") > width, "the control: a wide heading is noticed"


def test_find(page):
    """Words leave the experiments that have them all, and the count is told; without words all are back."""
    shown = "return [...document.querySelectorAll('.experiment')].filter(e => !e.hidden).map(e => e.id)"
    every = page.run(shown)
    page.type("#find", "SO_REUSE nowhere")
    page.expect(shown, [])
    page.run("document.getElementById('find').value = ''")
    page.type("#find", "NSpid")
    page.expect("return document.getElementById('find').value", "NSpid")  # the first letter alone leaves it, too
    page.expect(f"return (() => {{ {shown} }})().includes('experiment-pid')", True)
    assert f"{len(page.run(shown))} of {len(every)}" == page.run("return document.getElementById('found').textContent")
    page.type("#find", "\ue003" * 5)
    page.expect(shown, every)


def test_links_open_what_they_lead_to(page):
    """A link to an experiment, or an address that ends with its name, opens it."""
    page.click("#namespaces a[href='#experiment-pid']")
    page.expect(OPEN, ["experiment-pid"])
    page.run("location.hash = '#experiment-net'")
    page.expect(OPEN, ["experiment-pid", "experiment-net"])


def test_without_script(page, url):
    """Without its script the page still shows all: experiments open, numbers appear; only what needs it is not there."""
    page.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(url)
        page.click("#experiment-memory > summary")
        page.expect(OPEN, ["experiment-memory"])
        assert page.run("return document.getElementById('theme').checkVisibility()") is False
        page.point_at(".wide-plot .point.way-0 .hit")
        page.expect(f"{TIPS}.length", 1)
        assert page.run("return document.querySelector('#grid tbody td').title").startswith("no flag, memory: ")
    finally:
        page.cdp("Emulation.setScriptExecutionDisabled", value=False)


def test_what_is_heard(page):
    """The tree for screen readers has the landmarks, the headings, the experiments' lines as what opens, and the points."""
    nodes = page.cdp("Accessibility.getFullAXTree")["nodes"]
    heard = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {role for role, _ in heard}
    assert {"banner", "navigation", "main", "contentinfo", "region", "table", "columnheader", "rowheader"} <= roles
    assert any(role == "DisclosureTriangle" and "pid 1 of a numbering" in name for role, name in heard)
    assert any(role in ("image", "img") and name.startswith("fork, caller of 64 MiB: ") for role, name in heard)
    assert ("heading", "What clone does on this kernel") in heard
    assert [] == [
        role for role, name in heard if role in ("button", "link", "DisclosureTriangle", "searchbox") and not name
    ]
