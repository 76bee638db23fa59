"""What there is to escape to: a caller with everything wrong that a caller can have, and a host with secrets.

Everything is made for one session of tests, by names of our own, and taken away at its end.
"""

import ctypes
import json
import os
import pty
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
libc = ctypes.CDLL(None, use_errno=True)
IPC_CREAT, IPC_RMID = 0o1000, 0
#: A supplementary group that a root caller takes; nobody's.
GROUP = 64123


class World:
    """Secrets in every place that a process may reach, a victim, and a caller to start probes."""

    def __init__(self):
        self.secret = f"secret-{secrets.token_hex(8)}"
        self.environment = f"environment-{secrets.token_hex(8)}"
        self.token = f"token-{secrets.token_hex(8)}"
        self.tag = secrets.token_hex(6)
        self.folder = Path(tempfile.mkdtemp(prefix="escape-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self._undo = [lambda: shutil.rmtree(self.folder)]
        self._answers = {}
        self.facts = {"secret": self.secret, "environment": self.environment, "token": self.token}
        self._make_files()
        self._make_ipc()
        self._start_victim()
        self._know_the_host()
        self._start_caller()

    def _make_files(self):
        (self.folder / "secret").write_text(self.secret)
        (self.folder / "secret").chmod(0o644)
        (self.folder / "own").write_text("a file of the caller's")
        (self.folder / "library").write_text("a file that is shared")
        (self.folder / "open").mkdir()
        (self.folder / "open").chmod(0o777)
        os.mkfifo(self.folder / "fifo")
        (self.folder / "fifo").chmod(0o666)
        temporary = Path(f"/tmp/escape-{self.tag}")
        temporary.write_text(self.secret)
        self._undo.append(temporary.unlink)
        self.facts.update(
            secret_file=str(self.folder / "secret"),
            own_file=str(self.folder / "own"),
            library=str(self.folder / "library"),
            open=str(self.folder / "open"),
            fifo=str(self.folder / "fifo"),
            socket=str(self.folder / "socket"),
            temporary=str(temporary),
            handle=handle_of(str(self.folder / "secret")),
            home=os.path.expanduser("~"),
        )

    def _make_ipc(self):
        key = secrets.randbelow(2**31 - 2) + 1
        libc.shmat.restype = ctypes.c_void_p
        shm = libc.shmget(key, 4096, IPC_CREAT | 0o666)
        at = libc.shmat(shm, None, 0)
        ctypes.memmove(at, self.secret.encode(), len(self.secret))
        libc.shmdt(ctypes.c_void_p(at))
        sem, msg = libc.semget(key, 1, IPC_CREAT | 0o666), libc.msgget(key, IPC_CREAT | 0o666)
        queue = f"escape-{self.tag}"
        umask = os.umask(0)
        opened = ctypes.CDLL("librt.so.1").mq_open(f"/{queue}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        os.umask(umask)
        assert min(shm, sem, msg, opened) >= 0
        os.close(opened)
        shared = Path(f"/dev/shm/escape-{self.tag}")
        shared.write_text(self.secret)
        shared.chmod(0o644)
        self._undo += [
            lambda: libc.shmctl(shm, IPC_RMID, None),
            lambda: libc.semctl(sem, 0, IPC_RMID),
            lambda: libc.msgctl(msg, IPC_RMID, None),
            lambda: ctypes.CDLL("librt.so.1").mq_unlink(f"/{queue}".encode()),
            shared.unlink,
        ]
        self.facts.update(key_number=key, shm=shm, sem=sem, msg=msg, queue=queue, shared=shared.name)

    def _start_victim(self):
        argv = [sys.executable, str(HERE / "victim.py"), self.token]
        given = {"abstract": f"escape-{self.tag}", "socket": self.facts["socket"], "secret": self.secret}
        self.victim = subprocess.Popen(
            [*argv, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "RAMET_ESCAPE": self.environment},
            start_new_session=True,
            cwd="/",
        )
        self._undo.append(lambda: ended(self.victim))
        self.facts.update(json.loads(self.victim.stdout.readline()), pid=self.victim.pid, abstract=given["abstract"])
        os.chmod(self.facts["socket"], 0o777)

    def _know_the_host(self):
        self.facts.update(
            interfaces=[name for _, name in socket.if_nameindex() if name != "lo"],
            hostname=os.uname().nodename,
            user=pwd.getpwall()[-1].pw_name,
            hosts=Path("/etc/hosts").read_text()[:200] or "an empty one",
            group=GROUP,
            key=f"escape-{self.tag}",
        )

    def _start_caller(self):
        self._terminal, slave = pty.openpty()
        self.facts["tty"] = os.ttyname(slave)
        self.caller = subprocess.Popen(
            [sys.executable, str(HERE / "caller.py"), json.dumps(self.facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "RAMET_ESCAPE": self.environment},
            start_new_session=True,
            cwd=self.folder,
            text=True,
        )
        os.close(slave)
        self._undo += [lambda: os.close(self._terminal), lambda: ended(self.caller)]
        assert self.caller.stdout.readline() == "ready\n"

    def ask(self, where, probe, fields=None):
        """Run a probe: "outside", in "ramet" with these fields of Sandbox, or in "bubblewrap"; {"could": ..., "how": ...}. Who
        asks twice gets the first answer.
        """
        asked = (where, probe, json.dumps(fields))
        if asked not in self._answers:
            self._answers[asked] = self._ask(where, probe, fields)
        return self._answers[asked]

    def _ask(self, where, probe, fields):
        self.caller.stdin.write(json.dumps([where, probe, fields or {}]) + "\n")
        self.caller.stdin.flush()
        line = self.caller.stdout.readline()
        assert line, "the caller of the probes has ended"
        return json.loads(line)

    def close(self):
        """The host as it was."""
        for undo in reversed(self._undo):
            undo()


def ended(process):
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def handle_of(path):
    """What open_by_handle_at(2) would take for this file."""

    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    handle, mount = Handle(128), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    return {"size": handle.size, "kind": handle.kind, "data": list(handle.data[: handle.size])}
