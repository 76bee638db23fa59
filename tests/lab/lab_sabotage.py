"""What `ramet.lab.apart` is told to run for the controls: measurements with something broken, in a process of their own."""

import os

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab import effects, ground, measure, refusals
from ramet.lab.resources import kin, namespaces, process

PROBES = {kind.key: kind for kind in (*process.ALL, *kin.ALL, *namespaces.ALL)}


def without_write(resource, flags):
    """What the probe says of a child with these flags that changes nothing."""
    PROBES[resource].write = lambda self, script: setattr(self, "done", script.add("getpid"))
    return ground.on_ground(lambda place: measure.Measurer(place).clone(flags)[resource])


def without_read(resource, flags):
    """What the probe says of a child with these flags that looks for nothing."""

    def read(self, script):
        namespaces.Inode.read(self, script) if isinstance(self, namespaces.Inode) else None
        for name in ("found", "seen", "name", "flags", "map", "clock"):
            setattr(self, name, 9999)  # a call that is never made
        self.opened = script.add("socket", 2, 2, 0)

    PROBES[resource].read = read
    return ground.on_ground(lambda place: measure.Measurer(place).clone(flags)[resource])


def refused_write(resource, flags):
    """What the probe says of a child with these flags whose own change is refused."""
    PROBES[resource].write = lambda self, script: setattr(self, "attempt", script.add("close", 9999))
    return ground.on_ground(lambda place: measure.Measurer(place).clone(flags)[resource])


def broken_probe():
    """A probe that fails in the caller while the child waits for it."""
    PROBES["memory"].change = lambda self: 1 // 0
    return ground.on_ground(lambda place: measure.Measurer(place).clone(0))


def blind_kcmp():
    """The witnesses for a child that shares nothing, where kcmp compares the caller with itself."""
    real = measure.Measurer._compare
    measure.Measurer._compare = lambda self, pid: real(self, os.getpid())
    return ground.on_ground(lambda place: measure.Measurer(place).clone(0))


def without_user_namespaces():
    """A process in a user namespace that may have none below it; what the ground is then, and a row on it."""
    ground.own_user_namespace(os.geteuid(), os.getegid())
    ground.write_file("/proc/sys/user/max_user_namespaces", "0")

    def work(place):
        return {"own": place.own_user_namespace, "row": measure.Measurer(place).clone(CLONE.NEWUTS)}

    return ground.on_ground(work)


def without_user_namespaces_as_ordinary():
    """The same for a uid that is not 0: the ground is bare."""
    uid, gid = os.geteuid(), os.getegid()
    lowlevel.unshare(CLONE.NEWUSER)
    ground.write_file("/proc/self/setgroups", "deny")
    ground.write_file("/proc/self/uid_map", f"1000 {uid} 1")
    ground.write_file("/proc/self/gid_map", f"1000 {gid} 1")
    ground.write_file("/proc/sys/user/max_user_namespaces", "0")
    return ground.on_ground(lambda place: {"bare": place.bare, "row": measure.Measurer(place).clone(CLONE.FS)})


def a_row():
    """The same row on a ground of its own: the control."""
    return ground.on_ground(lambda place: measure.Measurer(place).clone(CLONE.FS))


def broken_effect():
    """An effect that happens with and without its flag, and one that never does."""
    effects.EFFECTS = (
        effects.Effect(CLONE.PIDFD, "always", lambda flags: True),
        effects.Effect(CLONE.PIDFD, "never", lambda flags: False),
    )
    return ground.on_ground(lambda place: effects.measure())


def cases(kind):
    """Refusals told of that are none, or are refused otherwise."""
    made = {
        "a child": refusals.Case(
            "EPERM", "clone3({flags=0})", lambda: lowlevel.clone3(child=[]).wait(), why="it is not"
        ),
        "another errno": refusals.Case("EPERM", "clone3(NULL, 0)", lambda: refusals.raw_clone3(0, 0), why="it is not"),
        "another call": refusals.Case("EPERM", "nothing", lambda: os.close(9999), why="it is not"),
        "the set-up": refusals.Case("ENOENT", "nothing", lambda: os.chroot("/nonexistent"), why="it is not"),
        "dies": refusals.Case("EPERM", "nothing", lambda: os.kill(os.getpid(), 9), why="it is not"),
        "wrong program": refusals.Case("EPERM", "nothing", lambda: 1 // 0, why="it is not"),
    }
    return [refusals._told(made[kind])]


#: What each situation of the real cases comes down to when nothing was done first: the same call makes a child.
UNREFUSED = {
    "flags 0": lambda: lowlevel.clone3(child=[]),
    "a pidfd": lambda: lowlevel.clone3(pidfd=True, child=[]),
    "set_tid [1] of a new namespace": lambda: _inside(CLONE.NEWPID, set_tid=[1]),
    "a brother": lambda: lowlevel.clone3(CLONE.PARENT, child=[]),
    "a thread": lambda: lowlevel.clone3(CLONE.VM | CLONE.SIGHAND | CLONE.THREAD, child=[]),
    "the older call": lambda: lowlevel.clone(child=[]),
    **{flag.name: (lambda flag=flag: _inside(flag)) for flag in effects.CLONE if flag.name.startswith("NEW")},
}


def _inside(flags, **fields):
    refusals.enter_user_namespace()
    return lowlevel.clone3(flags, child=[], **fields)


def unrefused(name):
    """That call, with nothing done first."""

    def make():
        made = UNREFUSED[name]()
        if not made.flags & CLONE.PARENT:
            made.wait()

    return refusals.produce(refusals.Case("", "", make, why=""))


def invented_rule():
    """A rule too many in ramet.rules: CLONE_FILES alone would be EINVAL."""
    import errno

    from ramet import rules

    real = rules.check

    def check(flags, **fields):
        if flags == CLONE.FILES:
            return (rules.Violation(errno.EINVAL, "invented", flags=flags, since=(1, 0), source="nowhere", manual=""),)
        return real(flags, **fields)

    rules.check = check
    return [told for case in refusals._by_rule() if case.why == "invented" for told in [refusals._told(case)]]


def latency_without_user_namespaces():
    """The times, where the container's clone is refused."""
    from ramet.lab import latency

    ground.own_user_namespace(os.geteuid(), os.getegid())
    ground.write_file("/proc/sys/user/max_user_namespaces", "0")
    return latency.latency((0,), seconds=0.1)


# Parts of the measurements, for the virtual machines, where all of them take too long


def newest_flags():
    """What the flags of Linux 7.1 do, and what a child with an empty mount namespace has."""

    def work(place):
        effects.EFFECTS = tuple(one for one in effects.EFFECTS if one.flag >= CLONE.AUTOREAP)
        return effects.measure(), measure.Measurer(place).clone(CLONE.EMPTY_MNTNS)

    return ground.on_ground(work)


def only_errno(name):
    """The cases of refused_by_cgroups that expect this errno."""
    from ramet.lab import refused_by_cgroups

    return [refusals._told(case) for case in refused_by_cgroups.cases() if case.errno == name]


def linger(marker):
    """Make a cgroup, put a sleeping child into it, say nothing, and stay."""
    import time

    from ramet.lab.cgroups import made_cgroup

    with made_cgroup() as (cgroup, why_not):
        assert cgroup is not None, why_not
        made = lowlevel.clone3(cgroup=cgroup)
        if made.pid == 0:
            with open("/proc/self/comm", "w") as file:
                file.write(marker)
        time.sleep(600)
