"""A few whole plans as text, kept beside the tests: documentation that can't go stale.

Only these, since each is read by people and changes with every step added. After a change that is meant:
RAMET_GOLDEN=write python -m pytest tests/plan/test_golden.py, then read the diff.
"""

import os
from pathlib import Path

import pytest
from plan_facts import ROOT, USER, USER_WITH_RANGES, for_spec

from ramet.plan.compile import compile
from ramet.spec import Bind, Command, Join, Namespace, Overlay, Sandbox, Tmpfs

GOLDEN = Path(__file__).parent / "golden"
PLANS = {
    "default-user": (Sandbox(), USER, ["/bin/true"]),
    "default-root": (Sandbox(), ROOT, ["/bin/true"]),
    "rootfs-as-pid1": (
        Sandbox(
            rootfs="/srv/rootfs",
            mounts=[
                Bind("/srv/data", "/data", writable=True),
                Tmpfs("/scratch/deep", size="1M"),
                Overlay("/merged", ["/srv/link"]),
            ],
            readonly_paths=["/proc/sys"],
            masked_paths=["/proc/kcore"],
            uid_mappings="subordinate",
            gid_mappings="subordinate",
            as_pid1=True,
            tty=True,
        ),
        USER_WITH_RANGES,
        ["sh", "-i"],
    ),
    "join": (
        Sandbox(
            namespaces={Namespace.MOUNT},
            join=[Join(Namespace.USER, pid=4711), Join(Namespace.NET, pid=4711)],
            rootfs="host",
        ),
        USER,
        ["/bin/ip", "addr"],
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_golden_plan(name):
    """This spec on this hand-made host is this plan, step for step."""
    spec, host, argv = PLANS[name]
    text = str(compile(spec, for_spec(host, spec), Command(tuple(argv)))) + "\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("RAMET_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()
