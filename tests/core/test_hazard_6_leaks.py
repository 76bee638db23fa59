"""Hazard 6 of csrc/spawn.c: what leaks into the sandbox."""

import fcntl
import os

import pytest

import ramet
from ramet.run import image

LIST = ["sh", "-c", "ls /proc/self/fd"]


@pytest.fixture(params=[{}, {"as_pid1": True}], ids=["init", "as_pid1"])
def fields(request):
    return request.param


def test_6_leaks_inheritable_descriptors_of_the_caller_are_closed(fields):
    """Descriptors that the caller made inheritable do not reach the payload; subprocess, told to, passes
    them on."""
    import subprocess

    fds = [os.open("/", os.O_PATH), os.open("/dev/null", os.O_RDONLY), os.dup(2)]
    for fd in fds:
        os.set_inheritable(fd, True)
    inside = ramet.run(LIST, text=True, **fields).stdout.split()
    passed = subprocess.run(LIST, capture_output=True, text=True, close_fds=False, check=True).stdout.split()
    for fd in fds:
        os.close(fd)
    assert inside == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert {str(fd) for fd in fds} <= set(passed)


def test_6_leaks_ten_thousand_descriptors_are_closed(python):
    """However many descriptors the caller has, and however high, none reaches the payload."""
    out = python(
        """
        import os, resource
        import ramet
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        count = min(hard, 12000)
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        fds = []
        try:
            while len(fds) < 11000:
                fds.append(os.dup(0))
                os.set_inheritable(fds[-1], True)
        except OSError:
            for _ in range(100):
                os.close(fds.pop())
        for more in ({}, {"as_pid1": True}):
            print(len(fds) > 900, ramet.run(["sh", "-c", "ls /proc/self/fd"], text=True, **more).stdout.split())
    """,
        stdin=-3,
    )
    assert out == "True ['0', '1', '2', '3']\n" * 2


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_6_leaks_closed_standard_descriptors_are_filled(closed, python, tmp_path):
    """With any of 0 to 2 closed in the caller, the payload has all three, and what it captures is right."""
    result = tmp_path / "result"
    result.touch()
    python(f"""
        import os
        for fd in {closed}:
            os.close(fd)
        import ramet
        answers = [ramet.run(["sh", "-c", "ls /proc/self/fd; echo err >&2"], text=True)]
        answers.append(ramet.run(["sh", "-c", "ls /proc/self/fd >/tmp/x; cat /tmp/x >&2"], stdout=None, text=True))
        with open({str(result)!r}, "w") as file:
            print([(r.stdout, r.stderr) for r in answers], file=file)
    """)
    listing = "0\\n1\\n2\\n3\\n"
    assert result.read_text() == f"[('{listing}', 'err\\n'), (None, '{listing}')]\n"


def test_6_leaks_pass_fds_and_only_these(fields):
    """Descriptors that are passed arrive under their numbers, in whatever order and however high, and
    usable; no other does."""
    low, zero = os.open("/dev/null", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
    high = fcntl.fcntl(zero, fcntl.F_DUPFD_CLOEXEC, 300)
    os.close(zero)
    script = f"ls /proc/self/fd; head -c 3 <&{high} | od -An -tx1"
    out = ramet.run(["bash", "-c", script], text=True, pass_fds=[high, low], **fields).stdout.split()
    os.close(low)
    os.close(high)
    assert set(out[:-3]) - {"3"} == {"0", "1", "2", str(low), str(high)} - {"3"}
    assert out[-3:] == ["00"] * 3


def test_6_leaks_passed_descriptor_that_is_not_open_is_refused(nothing_left):
    """pass_fds with a number that is not open is a SpecError naming it."""
    with pytest.raises(ramet.SpecError, match="descriptor 987 is not open"):
        ramet.run(["true"], pass_fds=[987])


def test_6_leaks_init_is_a_sealed_memfd():
    """What is exec'd first can't be changed: every seal is set, writing is EPERM; an ordinary memfd, by
    contrast, takes it."""
    fd = image.init_image()
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0xF
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    other = os.memfd_create("ordinary")
    assert os.pwrite(other, b"x", 0) == 1
    os.close(other)


def test_6_leaks_payload_cannot_read_init():
    """The payload can neither look into init's memory nor open its program; its own it can."""
    script = "cat /proc/self/exe >/dev/null && echo own; cat /proc/1/exe >/dev/null || echo exe; cat /proc/1/environ || echo environ; ls /proc/1/fd || echo fd"
    out = ramet.run(["sh", "-c", script], text=True).stdout.split()
    assert out == ["own", "exe", "environ", "fd"]


@pytest.mark.parametrize("fd", range(3, 12))
def test_6_leaks_workdir_through_a_descriptor_is_refused(fd):
    """A working directory that leads through a descriptor of the host's is refused, whichever number it
    has."""
    held = [os.open("/", os.O_PATH)]
    if not _open(fd):
        held.append(os.dup2(held[0], fd, inheritable=True))
    with pytest.raises(ramet.StepError) as refused:
        ramet.run(["pwd"], workdir=f"/proc/self/fd/{fd}")
    for each in held:
        os.close(each)
    assert refused.value.origin == "Sandbox.workdir"
    assert refused.value.errno in (2, 40)
    assert ramet.run(["pwd"], workdir="/proc/self", text=True).ok


def _open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_6_leaks_caller_that_closes_everything_can_go_on(python):
    """After a daemon's closerange, with the numbers reused for something else, the next run is as the
    first."""
    out = python("""
        import os
        import ramet
        from core_programs import descriptors
        print(ramet.run(["echo", "one"], text=True).stdout, flush=True)
        os.closerange(3, 256)
        for _ in range(100):
            os.open("/bin/false", os.O_RDONLY)
        print(ramet.run(["echo", "two"], text=True).stdout, flush=True)
        if os.fork() == 0:
            os.closerange(3, 256)
            for _ in range(100):
                os.open("/bin/false", os.O_RDONLY)
            held = len(descriptors())
            print(ramet.run(["echo", "three"], text=True).stdout, len(descriptors()) - held, flush=True)
            os._exit(0)
        os.wait()
    """)
    assert out.split() == ["one", "two", "three", "2"]  # two: init's memfd and the pidfd, kept anew
