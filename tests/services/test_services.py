"""The services of examples/: each is started as its page says, and used and misused over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from needs import need
from ramet import cgroups

pytestmark = pytest.mark.timeout(200)

EXAMPLES = Path(__file__).parents[2] / "examples"


class Service:
    """One that runs. post(code) gives an `Answer`, whose events come as they come."""

    def __init__(self, name, log, *options):
        self.name = name
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(EXAMPLES / f"service_{name}.py"), "--port", "0", *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
            )
        self.port = wait_for(self._port)
        assert self.port, self.log.read_text()

    def _port(self):
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())
        assert self.process.poll() is None, self.log.read_text()
        return int(found[1]) if found else None

    def request(self, method="POST", path="/run", body=b"", headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        # Refused by its head alone, it may be hung up on before all of it is sent: the answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers))
        return connection, connection.getresponse()

    def body_of(self, code):
        if self.name == "fastapi":
            return json.dumps({"code": code}).encode(), [("Content-Type", "application/json")]
        return code.encode(), []

    def post(self, code):
        body, headers = self.body_of(code)
        return Answer(*self.request(body=body, headers=headers))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


class Answer:
    """Of one POST. Iterate for (event, data), each as soon as it has come."""

    def __init__(self, connection, response):
        self.connection, self.response, self.status = connection, response, response.status

    def __iter__(self):
        name = None
        while line := self.response.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def all(self):
        """stdout, stderr, verdict."""
        found = list(self)
        self.close()
        assert [name for name, _ in found].count("verdict") == 1
        assert (found[0][0], found[-1][0]) == ("started", "verdict")
        out, err = ("".join(data for name, data in found if name == which) for which in ("stdout", "stderr"))
        return out, err, found[-1][1]

    def close(self):
        self.response.close()
        self.connection.close()


def wait_for(look, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def running(mark):
    """Processes that have this word in their arguments; not those that post it."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in arguments:
            found.add(int(pid))
    return found


@pytest.fixture(params=["asyncio", "fastapi"])
def kind(request):
    if request.param == "fastapi":
        for library in ("fastapi", "uvicorn"):
            need(importlib.util.find_spec(library), library)
    try:
        need(cgroups.find().facts["memory"].ok, "a control group that limits memory")
    finally:
        cgroups.forget()
    return request.param


@pytest.fixture
def serve(kind, tmp_path):
    """serve(*options): the service, ended with the test."""
    started = []

    def serve(*options):
        started.append(Service(kind, tmp_path / f"log{len(started)}", *options))
        return started[-1]

    yield serve
    for service in started:
        service.end()


def test_output_comes_while_it_runs(serve):
    """What code prints is here while it still runs; when the client goes away, what it runs, and started, ends."""
    service, mark = serve("--timeout", "600"), uuid.uuid4().hex
    answer = service.post(
        f"import time, subprocess; p = subprocess.Popen(['sleep', '1000']); print('first'); time.sleep(600) # {mark}"
    )
    events = iter(answer)
    assert next(events) == ("started", {})
    name, text = next(events)
    assert (name, text.strip()) == ("stdout", "first")
    assert running(mark), "it still runs"
    answer.close()
    assert wait_for(lambda: not running(mark))
    assert service.post("print('next')").all()[0] == "next\n"


def test_verdicts(serve):
    """Each way to end has its verdict, and what was printed until then is there."""
    service = serve("--timeout", "60")
    out, err, verdict = service.post("import sys; print(6 * 7); print('é', file=sys.stderr); sys.exit(3)").all()
    assert (out, err, verdict["status"], verdict["exit_code"]) == ("42\n", "é\n", "exited", 3)
    out, err, verdict = service.post("1/0").all()
    assert (out, verdict["exit_code"]) == ("", 1)
    assert err.endswith("ZeroDivisionError: division by zero\n")
    assert service.post("x = b'x' * (1 << 30)").all()[2]["status"] == "out-of-memory"
    out, _, verdict = service.post("while 1: print('x' * 1000)").all()
    assert verdict["status"] == "output-limit"
    assert 0 < len(out) <= 1 << 20
    assert service.post("import os; os.kill(os.getpid(), 11)").all()[2]["signal"] == 11
    out, _, verdict = serve("--timeout", "4").post("print('on'); x = 1\nwhile x: pass").all()
    assert (out, verdict["status"]) == ("on\n", "timed-out")


def test_it_is_a_sandbox(serve):
    """Code has another uid, no network and none of the service's files, nor its environment."""
    service = serve()
    code = "import os, socket; print(os.getuid(), [n for _, n in socket.if_nameindex()], os.path.exists({!r}), 'PYTHONPATH' in os.environ)"
    assert service.post(code.format(str(EXAMPLES))).all()[0] == "1000 ['lo'] False False\n"


def test_a_bound_on_how_many_run(serve):
    """One runs, one waits, the third is told to come again; the one that waits starts when the first is gone."""
    service, mark = serve("--at-once", "1", "--waiting", "1", "--timeout", "600"), uuid.uuid4().hex
    first = service.post(f"import time; print('on'); time.sleep(600) # {mark}")
    events = iter(first)
    assert [next(events)[0] for _ in range(2)] == ["started", "stdout"]
    second = service.post("print(2)")
    assert second.status == 200
    third = wait_for(lambda: _refused(service))
    assert third.status == 503
    assert third.getheader("Retry-After") == "1"
    first.close()
    assert second.all()[0] == "2\n"
    assert not running(mark)
    assert service.post("print(4)").all()[0] == "4\n"


def _refused(service):
    """An answer that is 503; None as long as there is room. A run that was let in is ended again."""
    body, headers = service.body_of("")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=0.5)
    try:
        connection.request("POST", "/run", body, dict(headers))
        response = connection.getresponse()
    except TimeoutError:
        return None
    finally:
        connection.close()
    return response if response.status == 503 else None


def test_the_bound_holds_for_all_that_come_at_once(serve):
    """Of twenty requests that the service finds there at one moment, one runs, one waits, and eighteen are told to come again."""
    service = serve("--at-once", "1", "--waiting", "1", "--timeout", "600")
    body, headers = service.body_of("import time; time.sleep(600)")
    head = [("Host", "here"), ("Content-Length", str(len(body))), *headers]
    request = b"POST /run HTTP/1.1\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in head) + b"\r\n" + body
    with contextlib.ExitStack() as stack:
        service.process.send_signal(signal.SIGSTOP)
        os.waitpid(service.process.pid, os.WUNTRACED)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 60)) for _ in range(20)]
        for client in clients:
            client.sendall(request)
        service.process.send_signal(signal.SIGCONT)
        statuses = [client.recv(100).split()[1] for client in clients]
    assert sorted(statuses) == [b"200"] * 2 + [b"503"] * 18
    assert wait_for(lambda: _let_in(service)).all()[0] == "4\n", "and there is room again when they have gone"


def _let_in(service):
    """An answer that is no refusal."""
    answer = service.post("print(4)")
    return answer if answer.status == 200 else answer.close()


def test_many_at_once(serve):
    """Twenty clients at once each get what is theirs."""
    service, found = serve("--waiting", "50", "--timeout", "60"), {}

    def client(n):
        found[n] = service.post(f"print({n} * {n})").all()

    clients = [threading.Thread(target=client, args=(n,)) for n in range(20)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    assert {n: out for n, (out, _, _) in found.items()} == {n: f"{n * n}\n" for n in range(20)}


def test_bad_requests(serve):
    """What is no request for a run is refused with its status, and the service goes on."""
    service = serve()
    body, headers = service.body_of("print(1)")
    long, _ = service.body_of("#" * 200_000)
    nul, _ = service.body_of("print('\0')")
    wanted = [
        ("POST", "/nothing", body, {404}),
        ("GET", "/run", b"", {405}),
        ("POST", "/run", long, {413, 422}),
        ("POST", "/run", nul, {400, 422}),
        ("POST", "/run", b"\xff\xfe", {400, 422}),
        ("POST", "/run", b'{"code": "\\ud800"}' if headers else b"\xed\xa0\x80", {400, 422}),
    ]
    for method, path, sent, statuses in wanted:
        connection, response = service.request(method, path, sent, headers)
        assert len(response.read()) < 1000
        connection.close()
        assert response.status in statuses, (method, path, sent[:10])
    assert service.post("print(1)").all()[0] == "1\n"


def test_a_body_without_end(serve):
    """A client that never comes to the end of its request is refused when it has sent more than a request can have."""
    service = serve()
    with socket.create_connection(("127.0.0.1", service.port), 60) as client:
        client.sendall(b"POST /run HTTP/1.1\r\nHost: here\r\nContent-Length: 100000000000\r\n\r\n")
        sent = 0
        try:
            while not select.select([client], [], [], 0)[0]:
                sent += client.send(b" " * 65536)
                assert sent < 100_000_000
            assert client.recv(100).split()[1] == b"413"
        except (BrokenPipeError, ConnectionResetError):
            assert sent < 100_000_000  # it has hung up on us
    assert service.post("print(1)").all()[0] == "1\n"


def test_it_ends_with_what_runs(serve):
    """SIGTERM ends the service, and every run with it; who waits for one has a verdict that says so."""
    service, mark = serve("--timeout", "600", "--at-once", "2"), uuid.uuid4().hex
    answers = [service.post(f"import time; print('on', end=''); time.sleep(600) # {mark}") for _ in range(2)]
    events = [iter(answer) for answer in answers]
    for each in events:
        assert [next(each)[0] for _ in range(2)] == ["started", "stdout"]
    assert running(mark)
    status = service.end()
    assert status in (0, -signal.SIGTERM)
    assert wait_for(lambda: not running(mark))
    assert [list(each) for each in events] == [[("verdict", {"status": "stopped"})]] * 2
    for answer in answers:
        answer.close()
    assert "Traceback" not in service.log.read_text()
