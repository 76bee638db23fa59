"""Every step of a plan made to fail in turn: the error names it, and nothing is left."""

import errno as E
import os

import pytest
from hosts import state

import ramet
from ramet.plan.encode import failing
from ramet.plan.render import step_text
from ramet.run.launch import launch
from ramet.run.process import plan_for
from ramet.spec import Namespace, Sandbox

ODD_ERRNO = E.EXFULL  # no step is allowed to fail with it, and the kernel would not say it
SPECS = {
    "default": {},
    "as_pid1": {"as_pid1": True},
    "tty": {"tty": True},
    "host": {"rootfs": "host", "mounts": [ramet.Tmpfs("/mnt")], "masked_paths": ["/proc/kcore"]},
    "join": {"namespaces": {Namespace.MOUNT}, "join": [ramet.Join(Namespace.UTS, pid=os.getpid())]},
}


@pytest.fixture
def null():
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("name", SPECS)
def test_every_step_failing_is_named_and_leaves_nothing(name, null, nothing_left):
    """Step N of each stage returns an errno instead of being made: a StepError with that stage, step,
    errno, call and
    origin; no process, zombie, mount or descriptor more than before."""
    fields = SPECS[name]
    if name == "join" and os.geteuid():
        # An ordinary user joins only below a user namespace of their own, which is made here
        holder = ramet.Popen(["sleep", "1000"], as_pid1=True)
        fields = {
            "namespaces": {Namespace.MOUNT},
            "join": [ramet.Join(k, pid=holder.pid) for k in (Namespace.USER, Namespace.UTS)],
        }
    plan = plan_for(["/bin/true"], Sandbox(**fields))
    launch(plan, (null, null, null)).close()  # the control: it works when nothing is made to fail
    before = state()
    tried = 0
    for stage in plan.stages.values():
        for number, step in enumerate(stage.steps):
            with pytest.raises(ramet.StepError) as raised:
                launch(plan, (null, null, null), encoded=failing(plan, stage.name, number, ODD_ERRNO))
            error = raised.value
            assert (error.stage, error.index, error.errno) == (stage.name, number, ODD_ERRNO), step
            assert (error.origin, error.doing, error.call) == (step.origin, step.doing, step_text(step))
            assert error.total == len(stage.steps)
            tried += 1
        assert state() == before
    assert tried == len(plan) > 20
    if name == "join" and os.geteuid():
        holder.close()


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
    assert poller.poll(5000)
    return os.read(reader, 100)


@pytest.mark.parametrize("errno", [E.EPERM, E.ENOSPC, E.ENOENT, E.EINTR])
def test_errno_of_a_failing_step_is_kept(errno, null, nothing_left):
    """The errno that comes back is the step's, whichever it is; and the next run works."""
    plan = plan_for(["/bin/true"], Sandbox())
    for number in (0, 30, len(plan.stages["child"].steps) - 1):
        with pytest.raises(ramet.StepError) as raised:
            launch(plan, (null, null, null), encoded=failing(plan, "child", number, errno))
        assert (raised.value.index, raised.value.errno) == (number, errno)
    assert ramet.run(["/bin/true"]).ok


def test_failing_exec_is_a_command_error(null, nothing_left):
    """The last step's failure is a CommandError, which tells the command's fault from the sandbox's."""
    for spec in (Sandbox(), Sandbox(as_pid1=True)):
        plan = plan_for(["/bin/true"], spec)
        stage = plan.stages["payload" if plan.init else "child"]
        with pytest.raises(ramet.CommandError) as raised:
            launch(plan, (null, null, null), encoded=failing(plan, stage.name, len(stage.steps) - 1, E.EACCES))
        assert raised.value.exit_code == 126
