"""Where groups can be made: found by trying, on hosts of every kind, and refused with the cause and the fix."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
from group_payloads import PATIENCE, ours

from needs import as_root, as_user, only
from ramet import UnsupportedError, cgroups
from ramet.cgroups import ending, files, owners, spots
from ramet.cgroups.hierarchy import hierarchies
from ramet.cgroups.limits import CONTROLLER

#: Prints what could be had, from wherever it runs.
ASKS = """if 1:
    import json, sys
    sys.path[:0] = sys.argv[1:]
    from ramet import cgroups
    place = cgroups.find()
    print(json.dumps({"facts": place.facts, "spots": [[s.version, s.path, s.into] for s in place.spots]}))
"""


def here():
    """The hierarchies of this process."""
    return hierarchies(open("/proc/self/mountinfo").read(), open("/proc/self/cgroup").read())


def ask(setup="", wrap=(), **options):
    """facts (name -> [name, ok, found, hint]) and spots, of a process elsewhere."""
    script = f'set -e; {setup}\nexec "$0" "$@"'
    argv = [*wrap, "sh", "-c", script, sys.executable, "-c", ASKS, *sys.path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30 * PATIENCE, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def own_mounts():
    """unshare(1) into a mount namespace of our own, and a user namespace where that takes one."""
    extra = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", "--mount", "--propagation", "private", *extra)


def each_mount(command):
    """Shell: something for every mount of a hierarchy, the innermost first."""
    return f"for m in $(awk '/ - cgroup2? /{{print $5}}' /proc/self/mountinfo | sort -r); do {command}; done"


@as_root
def test_root_has_a_place(place):
    """As root memory, processes and cpus can be limited, and the group is below the caller's own; the next finds it made."""
    assert [name for name in ("memory", "processes", "cpus", "cpu_time", "kill") if not place.facts[name].ok] == []
    assert cgroups.find() is place
    for spot in place.spots:
        assert any(spot.path == one.own for one in here()), spot


@as_user
def test_an_ordinary_user_is_told_what_to_do(place):
    """Where nothing is handed to the caller: the limit, what was tried, the errno and the command that mends it."""
    only(not place.facts["memory"].ok, "where no group is handed to the caller")
    with pytest.raises(UnsupportedError) as caught:
        cgroups.make(cgroups.Limits(memory="64M"))
    text = str(caught.value)
    assert text.startswith("can't limit memory: ") and "EACCES" in text
    assert (
        "the memory controller" in text and "hint: as root:" in text and "chown" in text and str(os.geteuid()) in text
    )


def test_a_limit_that_is_missing_raises_before_anything_is_made(place):
    """UnsupportedError with the fact and the hint; missing() tells the same to who goes on without."""
    missing = next((fact for fact in place.facts.values() if not fact.ok and fact.name in CONTROLLER), None)
    only(missing, "where some limit can't be had")
    values = {"io": [cgroups.IoLimit("/dev/null", read_bytes=1)], "idle": True, "cpuset": "0", "cpuset_mems": "0"}
    values |= {"swap": 1, "cpus": 1.0}
    limits = cgroups.Limits(
        **{missing.name: values.get(missing.name, 100)}, **({"memory": 1 << 30} if missing.name == "swap" else {})
    )

    def mine():  # others make and remove theirs meanwhile
        return {path for path in ours() if os.path.basename(path).startswith(f"ramet-{os.getpid()}-")}

    with cgroups.make(cgroups.Limits()) if place.spots else nullcontext():
        assert bool(mine()) == bool(place.spots)  # the control: one that is made is seen
    with pytest.raises(UnsupportedError) as caught:
        cgroups.make(limits)
    assert caught.value.hint and missing.found in str(caught.value)
    assert missing in place.missing(limits)
    assert mine() == set()


@as_root
def test_read_only():
    """In a container that shows its groups read-only: EROFS, and the options to start it with. Writable it has a place."""
    found = ask(each_mount('mount -o remount,bind,ro "$m"'), own_mounts())["facts"]
    for name in ("memory", "processes", "cpus"):
        _, ok, why, hint = found[name]
        assert not ok and "EROFS" in why and "read-only" in why and "docker run --privileged" in hint
    found = ask("", own_mounts())["facts"]
    assert found["memory"][1] and found["processes"][1]


def test_nothing_mounted():
    """Without any mount of a hierarchy: what to mount."""
    found = ask(each_mount('umount -l "$m"'), own_mounts()) if os.geteuid() == 0 else None
    only(found, "as root")
    assert found["spots"] == []
    _, ok, why, hint = found["facts"]["memory"]
    assert not ok and why == "no hierarchy with memory is mounted here" and "mount -t cgroup2" in hint


@as_root
def test_covered():
    """With something mounted over all of it, the table of mounts still shows them; trying finds nothing there."""
    found = ask("mount -t tmpfs none /sys/fs/cgroup", own_mounts())
    assert found["spots"] == [] and "ENOENT" in found["facts"]["memory"][2]


@as_root
def test_a_second_mount_of_the_same(tmp_path):
    """Where the first is read-only and another is not, the other is used."""
    one = next(one for one in here() if one.own == one.mount)
    kind = "cgroup2" if one.version == 2 else "cgroup"
    setup = f"mount --bind {one.mount} {tmp_path}; mount -o remount,bind,ro {one.mount}"
    spots_found = ask(setup, own_mounts())["spots"]
    assert [one.version, str(tmp_path), one.version == 2] in spots_found, kind


def in_group_of_version_2(path, entry="0"):
    """preexec_fn: into a group of version 2."""

    def enter():
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write(entry)

    return enter


@pytest.fixture
def made_group():
    """A group of version 2 that is no group of ramet's; removed with all that is in it."""
    spot = cgroups.find().unified
    only(spot is not None and os.geteuid() == 0, "as root, where there is version 2")
    name = f"test-{os.getpid()}"
    os.mkdir(name, dir_fd=spot.fd)
    yield f"{spot.path}/{name}"
    for _ in ending.waits(5 * PATIENCE):
        if ending.remove_tree(spot.fd, name):
            return
        ending.kill_by_kernel(spot.fd, name)
    raise AssertionError(f"{name} could not be removed")


@as_root
def test_a_caller_in_real_time(place):
    """Where real time is shared out by group, a caller that has it can't have a child in one of the cpu controller's: that is said,
    with what to do; the other limits are there. (The control: the same caller without it has them all.)"""
    only(place.by_controller["cpu"].version == 1, "where the cpu controller is version 1's")
    found = ask(wrap=("chrt", "--fifo", "50"))["facts"]
    assert found["memory"][1] and found["processes"][1]
    only(not found["cpus"][1], "where real time is shared out by group: CONFIG_RT_GROUP_SCHED")
    assert "runs in real time" in found["cpus"][2] and found["cpus"][3] == "chrt --other --pid 0 PID"
    assert ask(wrap=("chrt", "--fifo", "50", "chrt", "--other", "0"))["facts"]["cpus"][1]


def test_namespace_with_mounts_from_outside(made_group):
    """In a new cgroup namespace the old mount doesn't show where the caller is; a fresh mount does."""
    wrap = (*own_mounts(), "--cgroup")
    enter = in_group_of_version_2(made_group)
    mount = cgroups.find().unified.path
    found = ask("", wrap, preexec_fn=enter)
    assert [path for version, path, _ in found["spots"] if version == 2] == []
    assert "mount -t cgroup2" in found["facts"]["pressure"][3]
    found = ask(f"umount -l {mount}; mount -t cgroup2 none {mount}", wrap, preexec_fn=enter)
    assert [path for version, path, _ in found["spots"] if version == 2] == [mount]


ROOM = """if 1:
    import json, os, sys
    sys.path[:0] = sys.argv[1:]
    from ramet import cgroups
    before = cgroups.find().facts
    room = cgroups.make_room()
    after = cgroups.find().facts
    print(json.dumps([before, room, after, open("/proc/self/cgroup").read()]))
"""


def test_no_internal_processes(made_group):
    """Root of a container: its processes sit where groups should be made, so the controllers can't be handed down. make_room
    moves the caller, and then they can. Without being asked it is not moved."""
    only("memory" in cgroups.find().unified.controllers, "where version 2 has the controllers")
    mount = cgroups.find().unified.path
    setup = f'umount -l {mount}; mount -t cgroup2 none {mount}; exec "$0" "$@"'
    argv = [*own_mounts(), "--cgroup", "sh", "-c", setup, sys.executable, "-c", ROOM, *sys.path]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30 * PATIENCE, preexec_fn=in_group_of_version_2(made_group)
    )
    assert done.returncode == 0, done.stderr
    before, room, after, own = json.loads(done.stdout)
    _, ok, why, hint = before["memory"]
    assert not ok and "EBUSY" in why and "processes in that group itself" in why and "make_room()" in hint
    assert after["memory"][1] and after["processes"][1] and after["cpus"][1]
    assert own.strip().endswith(os.path.basename(room))


def test_a_caller_in_a_leaf_uses_the_group_above(made_group):
    """Outside of a container the same caller needs no room: the group above its own has none of its processes."""
    only("memory" in cgroups.find().unified.controllers, "where version 2 has the controllers")
    leaf = f"{made_group}/leaf"
    os.mkdir(leaf)
    found = ask("", preexec_fn=in_group_of_version_2(leaf))
    assert found["facts"]["memory"][1]
    assert found["spots"] == [[2, made_group, True]]
    with open(f"{leaf}/cgroup.subtree_control") as file:
        assert file.read().strip() == ""  # what was tried there has been taken back


def test_controllers_that_are_not_handed_down(made_group):
    """A container whose host gives it no memory controller: which file, and what to write there."""
    only("memory" in cgroups.find().unified.controllers, "where version 2 has the controllers")
    os.mkdir(f"{made_group}/in")
    with open(f"{made_group}/cgroup.subtree_control", "w") as file:
        file.write("+pids")
    mount = cgroups.find().unified.path
    setup = f"umount -l {mount}; mount -t cgroup2 none {mount}; mkdir {mount}/leaf; echo 0 >{mount}/leaf/cgroup.procs"
    found = ask(setup, (*own_mounts(), "--cgroup"), preexec_fn=in_group_of_version_2(f"{made_group}/in"))["facts"]
    assert found["processes"][1]
    assert not found["memory"][1] and found["memory"][2] == f"{mount}/cgroup.controllers has no memory"
    assert "not handed down to this container" in found["memory"][3]


@as_root
def test_named_by_the_environment(tmp_path):
    """$RAMET_CGROUP names the place in every hierarchy; where it does not exist that is what is said."""
    found = ask("", env=os.environ | {"RAMET_CGROUP": "/no/such/group"})
    assert found["spots"] == [] and "no/such/group: ENOENT" in found["facts"]["memory"][2]
    found = ask("", env=os.environ | {"RAMET_CGROUP": "/"})
    assert {path for _, path, _ in found["spots"]} == {
        one.mount for one in here() if one.version == 2 or one.controllers & {*spots.CONTROLLERS, "cpuacct", "freezer"}
    }


# An ordinary user


@pytest.fixture
def handed_over():
    """A directory in every hierarchy that belongs to uid 65000; preexec_fn: become that user, in a leaf of version 2's."""
    place = cgroups.find()
    only(os.geteuid() == 0, "as root")
    name, leaf = f"test-user-{os.getpid()}", None
    made = []
    for spot in place.spots:
        path = f"{spot.path}/{name}"
        os.mkdir(path)
        made.append((spot, name))
        os.chown(path, 65000, 65000)
        if spot.version == 2:
            leaf = f"{path}/caller"
            os.mkdir(leaf)
            made.append((spot, f"{name}/caller"))
            for file in ("cgroup.procs", "cgroup.subtree_control", "caller", "caller/cgroup.procs"):
                os.chown(f"{path}/{file}", 65000, 65000)
        if "cpuset" in spot.controllers and spot.version == 1:
            spots.fill_cpuset(spot, name)

    def become():
        if leaf:
            in_group_of_version_2(leaf)()
        os.setgroups([])
        os.setresgid(65000, 65000, 65000)
        os.setresuid(65000, 65000, 65000)

    yield become
    for spot, path in reversed(made):
        assert any(ending.remove_tree(spot.fd, path) for _ in ending.waits(5 * PATIENCE))


def test_handed_over_by_chown(handed_over):
    """An ordinary user finds the directories that belong to them, in every hierarchy, and can limit all that root can."""
    found = ask("", preexec_fn=handed_over)
    mine = {name for name, fact in cgroups.find().facts.items() if fact.ok}
    assert {name for name, fact in found["facts"].items() if fact[1]} == mine
    assert all(f"test-user-{os.getpid()}" in path for _, path, _ in found["spots"])


def test_not_handed_over(handed_over):
    """The control: another user finds none of it."""

    def other():
        os.setgroups([])
        os.setresgid(65001, 65001, 65001)
        os.setresuid(65001, 65001, 65001)

    found = ask("", preexec_fn=other)
    assert found["spots"] == [] and not found["facts"]["memory"][1]


RUNS_WHEN_ASKED = """if 1:
    import json, sys
    sys.path[:0] = sys.argv[1:]
    import ramet
    for _ in sys.stdin:
        try:
            said = [one.fact for one in ramet.run(["true"], cpu_time=60).protections if one.name == "cpu_time"]
        except ramet.Error as error:
            said = [type(error).__name__, str(error)]
        print(json.dumps(said), flush=True)
"""


@as_root
def test_a_caller_that_is_moved():
    """An outer manager moves a caller out of what is delegated to it, where CLONE_INTO_CGROUP is refused (EACCES): into other groups of
    its own, and its runs go on there; into somebody else's, and they raise with the fix. Before, they run."""
    spot = cgroups.find().unified
    only(spot is not None, "with version 2")
    groups = [f"{spot.path}/test-moved-{os.getpid()}-{letter}" for letter in "abc"]
    try:
        for path in groups:
            os.makedirs(f"{path}/caller")
        for path in groups[:2]:
            for file in (".", "cgroup.procs", "cgroup.subtree_control", "caller", "caller/cgroup.procs"):
                os.chown(f"{path}/{file}", 65000, 65000)

        def become():
            in_group_of_version_2(f"{groups[0]}/caller")()
            os.setgroups([])
            os.setresgid(65000, 65000, 65000)
            os.setresuid(65000, 65000, 65000)

        argv = [sys.executable, "-c", RUNS_WHEN_ASKED, *sys.path]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(argv, preexec_fn=become, **pipes) as caller:
            said = []
            for path in groups:
                in_group_of_version_2(f"{path}/caller", str(caller.pid))()
                caller.stdin.write("now\n")
                said.append(json.loads(caller.stdout.readline()))
            caller.stdin.close()
    finally:
        for path in groups:
            assert any(ending.remove_tree(spot.fd, os.path.basename(path)) for _ in ending.waits(5 * PATIENCE))
    assert [groups[0] in said[0][0], groups[1] in said[1][0]] == [True, True], said
    assert said[2][0] == "UnsupportedError" and "hint:" in said[2][1], said


@as_root
def test_the_hint_does_what_it_says():
    """Typed as it stands by root, the hint for version 1 gives a user the limit that was refused: of cpuset, whose new groups are of
    no use as they are, and of memory."""
    user = 64_000 + os.getpid() % 1000
    before = ask("", preexec_fn=lambda: os.setresuid(user, user, user))
    versions = {name: one.version for one in here() for name in one.controllers}
    names = [name for name in ("cpuset", "memory") if name in versions]
    only(names, "with controllers of version 1")
    try:
        for name in names:
            _, ok, _, hint = before["facts"][name]
            assert not ok and hint.startswith("as root:\n")
            subprocess.run(["sh", "-e", "-c", hint.removeprefix("as root:\n")], check=True, timeout=30 * PATIENCE)
            after = ask("", preexec_fn=lambda: os.setresuid(user, user, user))
            assert after["facts"][name][1], after["facts"][name]
    finally:
        for one in here():
            if os.path.isdir(f"{one.mount}/user-{user}"):
                os.rmdir(f"{one.mount}/user-{user}")


@as_root
def test_the_hint_names_what_there_is():
    """Where version 2's controllers are bound to version 1 the hint for its hierarchy asks for none of them; and what version 1 has no
    word for is not said to be mended by a directory."""
    user = 64_000 + os.getpid() % 1000
    facts = ask("", preexec_fn=lambda: os.setresuid(user, user, user))["facts"]
    only("memory" in {name for one in here() for name in one.controllers}, "with memory in version 1")
    assert "version 1 has no such limit" in facts["memory_high"][2] and "boot with" in facts["memory_high"][3]
    second = [one for one in here() if one.version == 2]
    only(second, "with version 2 besides")
    there = open(f"{second[0].mount}/cgroup.controllers").read().split()
    assert ("+memory" in facts["pressure"][3]) == ("memory" in there)
    assert "caller/cgroup.procs" in facts["pressure"][3]


@pytest.mark.timeout(300)
def test_the_limits_hold_for_an_ordinary_user(handed_over, tmp_path):
    """The tests of limits and of endings, as that user."""
    directory = os.path.dirname(__file__)
    files_of = [f"{directory}/test_limits_hold.py", f"{directory}/test_ending.py"]
    chosen = "memory_kills or processes or cpus or cpuset or sweep_removes or kill_ends or close_kills or within"
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=200",
        *files_of,
        "-k",
        chosen,
    ]
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")}
    done = subprocess.run(
        argv,
        preexec_fn=handed_over,
        capture_output=True,
        text=True,
        timeout=290,
        cwd=os.path.dirname(os.path.dirname(directory)),
        env=environ | {"TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout.splitlines()[-1] and "9 passed" in done.stdout.splitlines()[-1]


# The place that is kept


def test_a_place_whose_descriptors_were_closed_is_opened_again():
    """A caller that becomes a daemon closes what it doesn't know: no group is made in what has the number now, one that was
    made before is removed all the same, and nobody's descriptor is closed."""
    place = cgroups.find()
    only(place.spots, "where any hierarchy is the caller's")
    before = cgroups.make(cgroups.Limits())
    before.opened()
    numbers = [spot.fd for spot in place.spots]
    stranger = os.open("/proc", os.O_RDONLY)
    others = [os.dup2(stranger, fd) for fd in numbers]
    os.close(stranger)
    try:
        assert before.close() is True
        with cgroups.make(cgroups.Limits()) as group:
            assert os.path.isdir(f"{group._made[0].path}/{group.name}")
        assert [os.readlink(f"/proc/self/fd/{fd}") for fd in others] == ["/proc"] * len(others)
    finally:
        for fd, spot in zip(others, place.spots, strict=True):
            found = os.open(spot.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.dup2(found, numbers[place.spots.index(spot)], inheritable=False)
            os.close(found)
            os.close(spot.fd)
            spot.fd = numbers[place.spots.index(spot)]
            assert fd in numbers
    assert place.still_there()


REMOVED = """if 1:
    import os, sys
    sys.path[:0] = sys.argv[2:]
    from ramet import cgroups
    os.environ["RAMET_CGROUP"] = sys.argv[1]
    with cgroups.make(cgroups.Limits(processes=5)) as group:
        print(group.spot_of("pids").path)
    for spot in cgroups.find().spots:
        os.rmdir(spot.path)
    del os.environ["RAMET_CGROUP"]
    with cgroups.make(cgroups.Limits(processes=5)) as group:
        print(group.spot_of("pids").path)
"""


@as_root
def test_a_place_that_was_removed_is_found_again():
    """An outer manager removes the group below which ours are made: the next one is made elsewhere."""
    name = f"test-place-{os.getpid()}"
    made = []
    for one in here():
        if one.version == 2 or one.controllers & {*spots.CONTROLLERS, "cpuacct", "freezer"}:
            os.mkdir(f"{one.mount}/{name}")
            made.append(f"{one.mount}/{name}")
            if one.version == 1 and "cpuset" in one.controllers:
                for file in ("cpus", "mems"):
                    with open(f"{one.mount}/cpuset.{file}") as above, open(f"{made[-1]}/cpuset.{file}", "w") as below:
                        below.write(above.read())
    try:
        argv = [sys.executable, "-c", REMOVED, f"/{name}", *sys.path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30 * PATIENCE)
        first, second = done.stdout.split()
        assert first.endswith(name) and name not in second
    finally:
        for path in made:
            if os.path.exists(path):
                os.rmdir(path)


def test_a_limit_that_somebody_takes_back_is_noticed(group):
    """intact() names the limit that an outer manager has changed, and is empty before."""
    only(cgroups.find().facts["processes"].ok, "where the caller may limit processes")
    one = group(processes=5)
    assert one.intact() == []
    spot = one.spot_of("pids")
    files.put(spot.fd, f"{one.name}/pids.max", "max")
    assert one.intact() == ["processes: pids.max is max, not 5"]


THREADS = """if 1:
    import os, sys
    sys.path[:0] = sys.argv[1:]
    from concurrent.futures import ThreadPoolExecutor
    from ramet import cgroups
    def once(_):
        group = cgroups.make(cgroups.Limits(processes=5))
        if _ % 40 == 7:
            cgroups.forget()
        return group.name, group.close(40)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(once, range(160)))
    print(len({name for name, _ in found}), all(gone for _, gone in found))
    cgroups.find()
    import gc
    gc.collect()
    paths = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    paths = [path for path in paths if "cgroup" in path]
    print(len(paths) - len(set(paths)))
"""


def test_places_are_for_threads_too():
    """Sixteen threads that look for the place, make, forget and close at once: every name differs, nothing fails, no group
    and no descriptor is left."""
    only(cgroups.find().facts["processes"].ok, "where the caller may limit processes")
    argv = [sys.executable, "-c", THREADS, *sys.path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=55 * PATIENCE)
    assert done.stdout == "160 True\n0\n", done.stderr


def test_import_loads_little():
    """`import ramet` loads nothing of this, and this loads neither D-Bus nor the sharp layer."""
    code = "import sys; import ramet; a = 'ramet.cgroups' in sys.modules; import ramet.cgroups; print(a, 'jeepney' in sys.modules, 'ramet.lowlevel' in sys.modules, 'signal' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "False False False False\n", done.stderr


def test_owner_needs_proc(monkeypatch):
    """Without /proc no group can say whose it is: an error that says so."""
    monkeypatch.setattr(owners, "read", lambda path: None)
    with pytest.raises(UnsupportedError, match="/proc mounted"):
        owners.own()
