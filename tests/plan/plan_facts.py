"""Hosts made by hand: what compile is given instead of the machine that the tests happen to run on."""

from ramet.host.facts import Facts, IdRange, Path
from ramet.spec import Bind, Overlay, Rootfs, Sandbox
from ramet.spec.record import FrozenMap

LAYOUT = FrozenMap(
    {
        "/usr": Path("dir", real="/usr"),
        "/bin": Path("link", target="usr/bin"),
        "/etc/ld.so.cache": Path("file", real="/etc/ld.so.cache"),
        "/etc/resolv.conf": Path("file", real="/run/resolv.conf"),
    }
)

ROOT = Facts(
    kernel=(6, 12),
    machine="x86_64",
    uid=0,
    gid=0,
    capabilities=(1 << 41) - 1,
    last_cap=40,
    subuids=(),
    subgids=(),
    newuidmap=None,
    newgidmap=None,
    layout=LAYOUT,
    python=(),
)
USER = ROOT.replace(uid=1001, gid=1002, capabilities=0)
USER_WITH_RANGES = USER.replace(
    subuids=(IdRange(100000, 65536),),
    subgids=(IdRange(200000, 65536),),
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
)
OLD_ROOT, OLD_USER = ROOT.replace(kernel=(5, 14)), USER.replace(kernel=(5, 14))
NEW_USER = USER.replace(kernel=(7, 1), autokill=True)
ARM_USER = USER.replace(machine="aarch64")
#: root of a container: no CAP_SYS_ADMIN, but CAP_SETUID and CAP_SETGID
CONTAINER_ROOT = ROOT.replace(capabilities=1 << 6 | 1 << 7)
OUT_OF_TREE_PYTHON = USER.replace(python=(("/opt/python", "/opt/python-3.12"),))

HOSTS = {
    "root": ROOT,
    "user": USER,
    "user with subordinate ids": USER_WITH_RANGES,
    "root of an old kernel": OLD_ROOT,
    "user of an old kernel": OLD_USER,
    "user of a new kernel": NEW_USER,
    "user of an aarch64 machine": ARM_USER,
    "root without CAP_SYS_ADMIN": CONTAINER_ROOT,
    "user with a Python of their own": OUT_OF_TREE_PYTHON,
}

#: What bind sources and the like are on these hosts.
PATHS = {
    "/srv/data": Path("dir", real="/srv/data"),
    "/srv/link": Path("dir", real="/mnt/disk/target"),
    "/srv/file": Path("file", real="/srv/file"),
    "/srv/rootfs": Path("dir", real="/srv/rootfs"),
}


def for_spec(host: Facts, spec: Sandbox) -> Facts:
    """The host's facts with the paths that this spec names, as ramet.host.facts.facts_for adds them."""
    named = set()
    if isinstance(spec.rootfs, Rootfs):
        named.add(spec.rootfs.path)
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            named.add(mount.source)
        elif isinstance(mount, Overlay):
            named.update(mount.lower)
            named.update(path for path in (mount.upper, mount.work) if path)
    found = {path: PATHS[path] for path in sorted(named) if path in PATHS}
    return host.replace(paths=FrozenMap(found)) if found else host
