"""A browser, driven over WebDriver's HTTP: a request for each command, and nothing stays open in between."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's key for a reference to one
#: How wide the page is (one that is not made for phones is wider than a phone), and the theme it should have.
SCREEN = """
const fits = document.querySelector('meta[name=viewport]') !== null || arguments[0] >= 600;
return [fits ? innerWidth : arguments[0], matchMedia('(prefers-color-scheme: dark)').matches];
"""
KEYS = {"Enter": "\ue007", "Tab": "\ue004", "Shift": "\ue008", "Right": "\ue014", "Down": "\ue015", "Space": " "}


def missing():
    """The first of the programs that it takes that is not there, or ""."""
    return next((name for name in ("chromium", "chromedriver") if not shutil.which(name)), "")


class Browser:
    """A chromium of our own, with nothing of its user's. A context."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __enter__(self):
        env = {**os.environ, "HOME": self.folder}
        self.log = open(os.path.join(self.folder, "chromedriver.log"), "w+")
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=self.log, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        self.base = f"http://127.0.0.1:{self._port()}"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*ARGUMENTS, f"--user-data-dir={self.folder}/profile", "--window-size=1280,900"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        try:
            made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end()
            raise
        self.base += f"/session/{made['sessionId']}"
        # A page of a headless browser has the focus only from its first key on, and that key may come before it.
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=True)
        return self

    def __exit__(self, *_):
        try:
            self.ask("DELETE", "")
        finally:
            self._end()

    def _end(self):
        self.driver.terminate()
        self.driver.wait(20)
        self.log.close()

    def _port(self):
        """The port that it says it has chosen."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.log.seek(0)
            said = self.log.read()
            if "on port " in said.partition("successfully")[2]:
                return int(said.rpartition("on port ")[2].split(".")[0])
            assert self.driver.poll() is None, said
            time.sleep(0.05)  # it tells nobody when it is ready
        raise AssertionError(f"chromedriver names no port: {said}")

    def ask(self, method, path, body=None):
        """One command; the value of its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=50) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {json.load(error)['value']}") from None

    def open(self, url):
        """Load a page; what was logged before is gone."""
        self.ask("POST", "/url", {"url": "about:blank"})
        self.console(), self.requests()
        self.ask("POST", "/url", {"url": url})
        self.expect("return [location.href, document.readyState, document.hasFocus()]", [url, "complete", True])

    def expect(self, script, wanted, *args):
        """Wait until the function body's value is this one. What an event changes is changed a moment after it."""
        deadline = time.monotonic() + 20
        while (found := self.run(script, *args)) != wanted:
            assert time.monotonic() < deadline, f"{script}: {found!r}, and not {wanted!r}"
            time.sleep(0.01)

    def expect_said(self, *texts):
        """Wait until each of these was written to the console; all that was written since last asked."""
        said, deadline = [], time.monotonic() + 20
        while not all(any(text in message for message in said) for text in texts):
            assert time.monotonic() < deadline, f"{texts} not in {said}"
            said += self.console()
        return said

    def run(self, script, *args):
        """The value of a function body in the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def cdp(self, command, **parameters):
        """A command of the browser's own protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        """A reference to the first element that the CSS selector names."""
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})

    def click(self, selector):
        """As a mouse does it, in the middle of the screen."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        self.ask("POST", f"/element/{element[ELEMENT]}/click", {})

    def type(self, selector, text):
        """As a keyboard does it, into this element."""
        self.ask("POST", f"/element/{self.find(selector)[ELEMENT]}/value", {"text": text})

    def press(self, *keys):
        """Press keys one after the other, wherever the focus is; "Shift+Tab" is both at once."""
        actions = []
        for key in keys:
            held, _, last = key.rpartition("+")
            names = [*([held] if held else []), last]
            actions += [{"type": "keyDown", "value": KEYS[name]} for name in names]
            actions += [{"type": "keyUp", "value": KEYS[name]} for name in reversed(names)]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def point_at(self, selector):
        """Move the mouse there."""
        origin = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", origin)
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": origin}
        self.ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def screen(self, width, height=900, *, dark=False):
        """Be a screen of this size, on a system that is dark or light; returns when the page has been told."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[theme])
        self.expect(SCREEN, [width, dark], width)

    def console(self):
        """What has been written to the console since last asked: messages of errors and refusals too."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def requests(self):
        """The addresses that were asked for since last asked."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self.ask("POST", "/se/log", {"type": "performance"})
        ]
        sent = [entry for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return [entry["params"]["request"]["url"] for entry in sent]
