"""Every step of a plan made to fail in turn: the error names it, and nothing is left."""

import errno as E
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import state

import ramet
from needs import SLOW, need
from ramet.plan.compile import compile
from ramet.plan.encode import failing
from ramet.plan.render import step_text
from ramet.run import ahead
from ramet.run.launch import launch
from ramet.run.planning import plan_for
from ramet.spec import Namespace, Sandbox

pytestmark = pytest.mark.timeout(600 if SLOW else 300)  # hundreds of launches

#: What the kernel plausibly says of any call; and one that it never would, and no step allows.
ERRNOS = E.EPERM, E.ENOSYS, E.ENOSPC, E.ENOMEM, E.EMFILE, E.EINTR, E.EINVAL, E.EBUSY, E.EXFULL
EVERY_MOUNT = [
    ramet.Bind("/usr", "/opt/usr"),
    ramet.Tmpfs("/mnt", size="1M", inodes=50),
    ramet.Overlay("/srv", ("/usr/share", "/usr/lib")),
    ramet.File("/etc/made", b"content"),
    ramet.Directory("/var/made"),
    ramet.Symlink("/var/link", "made"),
    ramet.Mqueue("/dev/mqueue"),
]
SPECS = {
    "default": {},
    "as_pid1": {"as_pid1": True},
    "tty": {"tty": True},
    "host": {"rootfs": "host", "mounts": [ramet.Tmpfs("/mnt")], "masked_paths": ["/proc/kcore"]},
    "join": {"namespaces": {Namespace.MOUNT}, "join": [ramet.Join(Namespace.UTS, pid=os.getpid())]},
    "join with init": {
        "namespaces": {Namespace.MOUNT, Namespace.PID},
        "join": [ramet.Join(Namespace.UTS, pid=os.getpid())],
    },
    "by fork": {"namespaces": set(Namespace), "kernel": (6, 1)},
    "ahead": {},
    "mould": {},
    "every namespace": {"namespaces": set(Namespace), "hostname": "other", "as_pid1": True},
    "every mount": {"mounts": EVERY_MOUNT},
    "empty": {
        "rootfs": "empty",
        "mounts": [ramet.Bind("/usr"), *(ramet.Symlink("/" + name, "usr/" + name) for name in ("bin", "lib", "lib64"))],
    },
    "rootfs": {"rootfs": "kept"},
    "overlay on a rootfs": {"rootfs": "discarded"},
    "no namespaces": {},
    "user namespace alone": {"namespaces": {Namespace.USER}, "seccomp": "none", "landlock": False},
}


@pytest.fixture
def null():
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def holder():
    """Whose namespaces an ordinary user joins: only below a user namespace of their own, which is made here."""
    if not os.geteuid():
        yield None
        return
    with ramet.Popen(["sleep", "1000"], as_pid1=True) as process:
        yield process
        process.kill()


@pytest.fixture
def place():
    """A directory that the payload's user, whoever that is, may write to."""
    with tempfile.TemporaryDirectory(prefix="faults-of-steps-") as path:
        os.chmod(path, 0o777)
        yield Path(path)


@pytest.fixture
def made(name, place, holder):
    """The plan of that name; this test's own directories are in it."""
    fields = dict(SPECS[name])
    kernel = fields.pop("kernel", None)
    if "join" in fields and holder:
        fields["join"] = [ramet.Join(k, pid=holder.pid) for k in (Namespace.USER, Namespace.UTS)]
    if fields.get("rootfs") in ("kept", "discarded"):
        need(busybox := shutil.which("busybox"), "busybox: apt-get install busybox-static")
        for folder in ("bin", "proc", "dev", "tmp", "etc", "home", "usr", "sys", "run", "root", "var"):
            (place / folder).mkdir()
            (place / folder).chmod(0o777)
        shutil.copy(busybox, place / "bin/true")
        fields["rootfs"] = ramet.Rootfs(str(place), writes=fields["rootfs"])
    if name == "no namespaces":
        plan = plan_for(["/bin/true"], Sandbox.without_namespaces(place))
    else:
        plan = plan_for(["/bin/true"], Sandbox(**fields))
    if kernel:  # as there: init and the payload's process have a memory each
        plan = compile(plan.spec, plan.facts.replace(kernel=kernel), plan.command)
        assert not plan.gated
    if name in ("ahead", "mould"):
        need(plan.kit, "a kernel on which namespaces are made ahead: before 7.1")
        kit = plan.kit if name == "mould" else plan.kit.plain
        plan = compile(plan.spec, plan.facts, plan.command, ahead=kit)
    return plan


@pytest.mark.parametrize("name", SPECS)
def test_every_step_failing_is_named_and_leaves_nothing(name, made, null, nothing_left):
    """Step N of each stage returns an errno instead of being made, each its own (all of ERRNOS with RAMET_SLOW=1): a StepError with
    that stage, step, errno, call and origin; no process, zombie, mount or descriptor more than before."""
    plan, tried = made, 0
    before = state()
    with pair_for(plan) as given:
        launch(plan, (null, null, null), given=given).close()  # the control: it works when nothing is made to fail
    assert state() == before
    for stage in plan.stages.values():
        for number, step in enumerate(stage.steps):
            for errno in ERRNOS if SLOW else (ERRNOS[tried % len(ERRNOS)],):
                encoded = failing(plan, stage.name, number, errno)
                with pair_for(plan) as given, pytest.raises(ramet.StepError) as raised:
                    launch(plan, (null, null, null), encoded=encoded, given=given)
                error = raised.value
                assert (error.stage, error.index, error.errno) == (stage.name, number, errno), step
                assert (error.origin, error.doing, error.call) == (step.origin, step.doing, step_text(step))
                assert error.total == len(stage.steps)
                assert E.errorcode[errno] in str(error)
            tried += 1
        assert state() == before
    assert tried == len(plan) > 20


@contextmanager
def pair_for(plan):
    """The descriptors of a fresh pair of namespaces, for a plan that enters one."""
    if not plan.ahead:
        yield None
        return
    ahead.begin(plan.ahead).finish()
    pair = ahead.take(plan.ahead)
    assert pair is not None and pair.kit == plan.ahead
    try:
        yield pair.inputs
    finally:
        pair.close()


def test_a_failing_step_never_runs_the_payload(null):
    """Whatever step of the default plan fails, the payload has not run: nothing came through the descriptor
    it would write to."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    plan = plan_for(["/bin/echo", "it ran"], Sandbox())
    launched = launch(plan, (null, writer, null))
    ran = wait_for(reader)
    launched.close()
    for stage in plan.stages.values():
        for number in range(len(stage.steps)):
            with pytest.raises(ramet.StepError):
                launch(plan, (null, writer, null), encoded=failing(plan, stage.name, number, E.EIO))
    os.close(writer)
    assert ran == b"it ran\n"
    assert os.read(reader, 100) == b""  # end of file: nobody else holds the other end either
    os.close(reader)


def wait_for(reader):
    import select

    poller = select.poll()
    poller.register(reader, select.POLLIN)
    assert poller.poll(50_000)
    return os.read(reader, 100)


@pytest.mark.parametrize("errno", [E.EPERM, E.ENOSPC, E.ENOENT, E.EINTR])
def test_errno_of_a_failing_step_is_kept(errno, null, nothing_left):
    """The errno that comes back is the step's, whichever it is; and the next run works."""
    plan = plan_for(["/bin/true"], Sandbox())
    for stage, number in (("child", 0), ("init", 3), ("init", -1), ("payload", 30), ("payload", -1)):
        number %= len(plan.stages[stage].steps)
        with pytest.raises(ramet.StepError) as raised:
            launch(plan, (null, null, null), encoded=failing(plan, stage, number, errno))
        assert (raised.value.stage, raised.value.index, raised.value.errno) == (stage, number, errno)
    assert ramet.run(["/bin/true"]).ok


def test_failing_exec_is_a_command_error(null, nothing_left):
    """The last step's failure is a CommandError, which tells the command's fault from the sandbox's."""
    for spec in (Sandbox(), Sandbox(as_pid1=True)):
        plan = plan_for(["/bin/true"], spec)
        stage = plan.stages["payload" if plan.init else "child"]
        with pytest.raises(ramet.CommandError) as raised:
            launch(plan, (null, null, null), encoded=failing(plan, stage.name, len(stage.steps) - 1, E.EACCES))
        assert raised.value.exit_code == 126
