"""Random specs: everything a user can say, in combinations that nobody thought of."""

from hypothesis import strategies as st

from ramet.errors import SpecError
from ramet.spec import (
    Bind,
    Command,
    Dev,
    Directory,
    File,
    IdMapping,
    Join,
    Mqueue,
    Namespace,
    Overlay,
    Proc,
    Rootfs,
    Sandbox,
    Symlink,
    TimeOffsets,
    Tmpfs,
)
from ramet.spec.capabilities import NAMES

ids = st.integers(0, 70000)
places = st.sampled_from(
    [
        "/a",
        "/a/b",
        "/a/b/c",
        "/tmp",
        "/tmp/x",
        "/dev",
        "/dev/null",
        "/proc",
        "/usr",
        "/etc/passwd",
        "/home/user",
    ]
)
sources = st.sampled_from(["/srv/data", "/srv/link", "/srv/file"])
directories = st.sampled_from(["/srv/data", "/srv/link"])
mounts = st.one_of(
    st.builds(Bind, sources, places, writable=st.booleans()),
    st.builds(lambda where: Bind("/srv/missing", where, optional=True), places),
    st.builds(Tmpfs, places, size=st.sampled_from([4096, "1M"]), inodes=st.none() | st.integers(2, 100)),
    st.builds(Proc, places),
    st.builds(Dev, places),
    st.builds(Mqueue, places),
    st.builds(Overlay, places, st.lists(directories, min_size=1, max_size=3).map(tuple)),
    st.builds(lambda where: Overlay(where, ("/srv/data",), upper="/srv/link", work="/srv/data"), places),
    st.builds(Symlink, places, st.sampled_from(["/etc", "../..", "x"])),
    st.builds(File, places, st.binary(max_size=20)),
    st.builds(Directory, places, st.sampled_from([0o700, 0o1777])),
)
texts = st.text(st.characters(blacklist_characters="\0", max_codepoint=0x2000), min_size=1, max_size=12)
fields = {
    "namespaces": st.just(frozenset(Namespace)) | st.frozensets(st.sampled_from(list(Namespace))),
    "join": st.lists(st.builds(Join, st.sampled_from(list(Namespace)), pid=st.just(77)), max_size=2).map(tuple),
    "time_offsets": st.builds(TimeOffsets, st.floats(-1e6, 1e6), st.integers(0, 10**6)),
    "uid": ids,
    "gid": ids,
    "groups": st.lists(ids, max_size=3).map(tuple),
    "uid_mappings": st.just("subordinate")
    | st.lists(st.builds(IdMapping, ids, ids, st.integers(1, 9)), max_size=2).map(tuple),
    "gid_mappings": st.just("subordinate"),
    "rootfs": st.sampled_from(["minimal", "empty", "host", "/srv/rootfs"])
    | st.builds(Rootfs, st.just("/srv/rootfs"), st.sampled_from(["refused", "discarded", "kept"])),
    "mounts": st.lists(mounts, max_size=5).map(tuple),
    "masked_paths": st.lists(places, max_size=2).map(tuple),
    "readonly_paths": st.lists(places, max_size=2).map(tuple),
    "umask": st.integers(0, 0o777),
    "hostname": texts,
    "domainname": texts,
    "env": st.dictionaries(st.sampled_from(["PATH", "A", "\udcff", "HOME"]), st.none() | texts, max_size=3),
    "workdir": places,
    "loopback": st.booleans(),
    "tty": st.booleans(),
    "new_session": st.booleans(),
    "capabilities": st.frozensets(st.sampled_from([*NAMES, "ALL"]), max_size=3),
    "no_new_privs": st.booleans(),
    "nested_namespaces": st.booleans(),
    "rlimits": st.dictionaries(st.sampled_from(["NOFILE", "core", "RLIMIT_AS"]), st.integers(0, 2**20), max_size=2),
    "as_pid1": st.booleans(),
}


@st.composite
def sandboxes(draw: st.DrawFn) -> Sandbox:
    """A Sandbox, or, where the drawn fields contradict each other, the largest part of them that does not."""
    names = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=8))
    spec = Sandbox()
    for name in names:
        try:
            spec = spec.replace(**{name: draw(fields[name])})
        except SpecError:
            continue
    return spec


commands = st.builds(
    Command,
    st.lists(texts, min_size=1, max_size=3).map(tuple),
    pass_fds=st.lists(st.integers(3, 40), max_size=3).map(tuple),
)
