"""Record: the base of every part of a spec."""

import copy
import pickle

import pytest

from ramet import (
    Bind,
    File,
    IdMapping,
    Join,
    Namespace,
    Overlay,
    Rootfs,
    Sandbox,
    SpecError,
    SpecTypeError,
    TimeOffsets,
    Tmpfs,
)

FULL = Sandbox(
    namespaces={"user", "mount", "pid", "time", "uts"},
    time_offsets=TimeOffsets(1, 2),
    uid=3,
    uid_mappings=[IdMapping(0, 100, 50)],
    rootfs=Rootfs("/srv", writes="discarded"),
    mounts=[Bind("/etc"), Tmpfs("/t", size="1M"), Overlay("/o", ["/a", "/b"]), File("/f", "x")],
    hostname="h",
    env={"A": "b", "LANG": None},
    capabilities={"net_raw"},
    rlimits={"NOFILE": 5},
    timeout="1m",
)


@pytest.mark.parametrize("value", [Sandbox(), FULL, *FULL.mounts, FULL.rootfs, FULL.time_offsets, Join("net", pid=1)])
def test_values(value):
    """A record equals and hashes like its equal, survives pickling and copying, and its repr builds it again."""
    import ramet

    for again in (
        pickle.loads(pickle.dumps(value)),
        copy.copy(value),
        copy.deepcopy(value),
        value.replace(),
        type(value)(**value.to_mapping()),
    ):
        assert again == value and hash(again) == hash(value)
    if not isinstance(value, (Sandbox, Join)):
        assert eval(repr(value), vars(ramet).copy()) == value


def test_immutable():
    """No field can be set or deleted, nor a mapping in it changed."""
    for name in ("hostname", "nonsense"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(FULL, name, "x")
        with pytest.raises(AttributeError, match="immutable"):
            delattr(FULL, name)
    for change in (
        lambda: FULL.env.update(A="c"),
        lambda: FULL.env.__setitem__("A", "c"),
        lambda: FULL.env.pop("A"),
        lambda: FULL.env.clear(),
        lambda: FULL.env.setdefault("Z", ""),
        lambda: FULL.env.__delitem__("A"),
        lambda: FULL.env.popitem(),
        lambda: FULL.env.__ior__({"A": "c"}),
    ):
        with pytest.raises(TypeError, match="immutable"):
            change()
    assert dict(FULL.env) == {"A": "b", "LANG": None}


def test_what_was_given_may_change_afterwards():
    """A record keeps its own copy of what it was given."""
    env, mounts = {"A": "b"}, [Tmpfs("/a")]
    box = Sandbox(env=env, mounts=mounts)
    env["A"] = "changed"
    mounts.append(Tmpfs("/b"))
    assert (dict(box.env), len(box.mounts)) == ({"A": "b"}, 1)


def test_replace():
    """replace() gives another one with some fields changed, checked again as a whole."""
    other = FULL.replace(hostname="other", timeout=None)
    assert (other.hostname, other.timeout, other.mounts) == ("other", None, FULL.mounts)
    assert FULL.hostname == "h"
    with pytest.raises(SpecError, match="UTS"):
        FULL.replace(namespaces={Namespace.USER, Namespace.MOUNT, Namespace.TIME, Namespace.PID})


def test_different_records_differ():
    """Records of other types or with other values are not equal."""
    assert Sandbox() != Sandbox(hostname="x")
    assert Sandbox() != object()
    assert Bind("/etc") != Tmpfs("/etc")
    assert len({Sandbox(), Sandbox(), Sandbox(hostname="x")}) == 2


def test_env_order_does_not_matter():
    """Two sandboxes whose environments hold the same are equal, and hash the same."""
    one, two = Sandbox(env={"A": "1", "B": "2"}), Sandbox(env={"B": "2", "A": "1"})
    assert one == two
    assert hash(one) == hash(two)


def test_arguments():
    """Too many values, one given twice, one missing, an unknown one: TypeErrors that name the field."""
    for call, field in (
        (lambda: IdMapping(1, 2, 3, 4), "IdMapping"),
        (lambda: IdMapping(1, inside=1, outside=1), "IdMapping.inside"),
        (lambda: IdMapping(1), "IdMapping.outside"),
        (lambda: IdMapping(1, 2, sise=3), "IdMapping.sise"),
    ):
        with pytest.raises(SpecTypeError) as caught:
            call()
        assert caught.value.field == field
    assert "did you mean 'size'" in caught.value.hint


def test_repr_shows_what_differs_from_the_default():
    """repr shows only what was said."""
    assert repr(Sandbox()) == "Sandbox()"
    assert repr(Tmpfs("/a", mode=0o700)) == "Tmpfs(destination='/a', mode=448)"


def test_names_of_namespaces():
    """Kinds may be named by their members, kernel names, or OCI's."""
    assert Sandbox(namespaces=["user", "mount", "network", "PID"]).namespaces == {
        Namespace.USER,
        Namespace.MOUNT,
        Namespace.NET,
        Namespace.PID,
    }
