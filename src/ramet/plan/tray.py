"""The file system that trays lie in: in memory, with large pages, which the kernel gives to a file as it gives them to ordinary memory.

A memfd has small ones unless the machine's administrator wants it otherwise (/sys/kernel/mm/transparent_hugepage/shmem_enabled), and
filling those costs four times as much. Who mounts a tmpfs(5) of its own chooses. It is never attached anywhere: the process that
makes it hands the caller a descriptor and ends.
"""

from __future__ import annotations

from ramet.plan.idmap import CONTROL, as_they_are
from ramet.plan.life import die_with_caller, hand_over, keep_only, own_descriptors, wait_for_caller
from ramet.plan.steps import Builder, Stage
from ramet.plan.tree import NODEV, NOEXEC, NOSUID, Tree
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.steps import CallerStep


def flags(facts: Facts) -> int:
    """Of the clone of the process that makes it: an ordinary user may mount in a user namespace of its own only."""
    return 0 if facts.privileged else Namespace.USER.clone_flag | Namespace.MOUNT.clone_flag


def sync(facts: Facts) -> tuple[CallerStep, ...]:
    """What the caller does meanwhile: its files in there are to be its own."""
    return () if facts.privileged else as_they_are(facts)


def making() -> Stage:
    """The steps of that process. Without a limit: what may lie in a tray is limited by its own size."""
    b = Builder()
    die_with_caller(b)
    own_descriptors(b)
    keep_only(b, CONTROL)
    wait_for_caller(b, 0, "wait until the caller has mapped the ids")
    b.about("results", "make a file system with large pages")
    tree = Tree(b, 0, detached=True)
    mount = tree.new_fs("tmpfs", NOSUID | NODEV | NOEXEC, huge="always", mode="0700", size="0", nr_inodes="0")
    hand_over(b, 0, mount, "mnt")
    return Stage("child", tuple(b.steps))
