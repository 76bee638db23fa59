"""What the fuzzers start from: real plans as programs, real messages, and some bytes: corpus.py DIRECTORY."""

import os
import random
import struct
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "plan")]

from plan_facts import HOSTS, for_spec  # noqa: E402  (after the path to it)

from ramet.call import wire  # noqa: E402
from ramet.errors import SpecError, UnsupportedError  # noqa: E402
from ramet.plan.compile import compile  # noqa: E402
from ramet.plan.encode import encodings  # noqa: E402
from ramet.plan.finish import INIT_RUNNING, PAYLOAD_PID  # noqa: E402
from ramet.spec import Bind, Command, Join, Namespace, Overlay, Proc, Sandbox, Tmpfs  # noqa: E402

SPECS = (
    Sandbox(),
    Sandbox(as_pid1=True),
    Sandbox(tty=True),
    Sandbox(namespaces=set(Namespace)),
    Sandbox(namespaces={"user", "mount", "pid"}, rootfs="empty", mounts=[Bind("/srv/data"), Proc()]),
    Sandbox(namespaces={"user", "mount"}, rootfs="host", mounts=[Tmpfs("/mnt"), Overlay("/opt", ("/srv/data",))]),
    Sandbox(namespaces={"pid"}, join=[Join("net", pid=77)]),
    Sandbox(namespaces={"mount"}, join=[Join("uts", pid=77)]),
    Sandbox(uid_mappings="subordinate", gid_mappings="subordinate"),
    Sandbox.without_namespaces("/tmp"),
)
#: csrc/spawn.c's order
STAGES = "child", "join", "payload", "init"
ANSWERS = bytes([1]) * 64 + bytes(400)


def laid(plan):
    """The plan as fuzz_plan.c takes it apart."""
    whole = encodings(plan)
    gate = whole.payload.offsets[INIT_RUNNING] if whole.payload and plan.gated else -1
    text = whole.init.offsets[PAYLOAD_PID] if whole.init else -1
    blobs = [getattr(whole, name).blob if getattr(whole, name) else b"" for name in STAGES]
    return struct.pack("<iiI4H", gate, text, whole.join is None, *map(len, blobs)) + b"".join(blobs) + ANSWERS


def plans():
    """Each spec on each kind of host that can have it."""
    made = 0
    for host in HOSTS.values():
        for spec in SPECS:
            try:
                plan = compile(spec, for_spec(host, spec), Command(("/bin/true", "x")))
            except (SpecError, UnsupportedError):
                continue
            yield laid(plan)
            made += 1
    assert made > len(SPECS) * len(HOSTS) // 2, f"only {made} plans"


def messages():
    for value in (None, [1, -1, 2**40, 1.5, "text", b"bytes", True], {"a": {"b": [1] * 40}}, ["x" * 300] * 3, {1, 2}):
        yield wire.Packer(frozenset()).pack(value)


def noise(count, size):
    chance = random.Random(20261121)
    for _ in range(count):
        yield chance.randbytes(chance.randrange(size))


def many_adopted_at_once():
    """Makers that are killed before they tell of their children, and one that lives and may have made any of those: when it
    ends too, all are adopted. See fuzz_trace.c for how its bytes are taken."""
    count = 96

    def event(what, tid, *rest):
        return struct.pack("<BH", what, tid) + bytes(rest)

    def enters_clone(tid, flags):
        return event(7, tid, 129, 1) + struct.pack("<6Q", flags, 0, 0, 0, 0, 0) + bytes([1])

    last = count
    parent, new_pid = 0x8000, 0x20000000
    story = bytes([0, 1, 1]) + enters_clone(last, parent)
    story += b"".join(enters_clone(tid, new_pid) for tid in range(last - 1, 0, -1))
    story += b"".join(event(64, 128 + tid) for tid in range(count))
    story += event(192, 250) * 14  # until the buffer is drained
    unread = bytes(count)  # /proc can't be opened: asked once for every child
    return story + b"".join(event(192, tid) + unread for tid in range(1, last + 1)) + event(192, 250) * 9


def long_arguments():
    """An execve whose path and arguments never end, when the buffer is just not full."""
    entry = struct.pack("<BHBB6Q", 7, 0, 129, 5, 0x1000, 0x2000, 0, 0, 0, 0)
    return bytes([0, 1, 4, 0]) + entry + b"a" * 16000


def traces():
    yield many_adopted_at_once()
    yield long_arguments()
    yield from noise(40, 3000)


CORPORA = {
    "plan": plans,
    "msgpack": messages,
    "plain": lambda: noise(20, 600),
    "trace": traces,
    "init": lambda: noise(20, 600),
}


def main():
    for name, made in CORPORA.items():
        folder = Path(sys.argv[1], "corpus", name)
        os.makedirs(folder, exist_ok=True)
        for number, data in enumerate(made()):
            (folder / str(number)).write_bytes(data)


if __name__ == "__main__":
    main()
