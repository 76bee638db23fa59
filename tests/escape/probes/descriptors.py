"""Descriptors, working directories and magic links."""

import os

from probing import call, contains, first, opens, pids, probe


def inherited():
    """Descriptors above 2 that this program did not open itself."""
    found = []
    for fd in range(3, 1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found


@probe()
def leaked_file(world):
    """A descriptor that the caller forgot is read."""
    return first(lambda fd=fd: world["secret"].encode() in os.pread(fd, 4096, 0) and f"fd {fd}" for fd in inherited())


@probe()
def cve_2024_21626_leaked_directory(world):
    """CVE-2024-21626: a forgotten directory leads to the host's files."""

    def reads(fd):
        where = os.open(world["secret_file"].lstrip("/"), os.O_RDONLY, dir_fd=fd)
        try:
            return world["secret"].encode() in os.read(where, 4096) and f"through fd {fd}"
        finally:
            os.close(where)

    return first(lambda fd=fd: reads(fd) for fd in inherited())


@probe()
def cve_2024_21626_working_directory(world):
    """CVE-2024-21626: the working directory is the host's, and ".." leads on."""
    return contains("./secret", world["secret"])


@probe()
def dot_dot_from_the_working_directory(world):
    """Forty times ".." ends at the host's root."""
    return contains("../" * 40 + world["secret_file"].lstrip("/"), world["secret"])


def of_others(world, name):
    """This link or file of pid 1 inside; outside, where that is not ours, of the victim."""
    return f"/proc/{world.get('init', 1)}/{name}"


@probe()
def cve_2019_5736_exe_of_init(world):
    """CVE-2019-5736: a handle of the program that pid 1 runs, to overwrite it by."""
    return opens(of_others(world, "exe"))


@probe()
def root_of_init(world):
    """/proc/1/root leads to what pid 1 sees."""
    return os.listdir(of_others(world, "root/"))


@probe()
def cwd_of_init(world):
    """/proc/1/cwd leads to where pid 1 stands."""
    return os.listdir(of_others(world, "cwd/")) or "an empty directory"


@probe()
def descriptors_of_init(world):
    """/proc/1/fd: what pid 1 has open, by descriptor."""
    return os.listdir(of_others(world, "fd"))


@probe()
def cve_2016_9962_descriptors_of_others(world):
    """CVE-2016-9962: a directory that any other process holds open leads out."""

    def through(link):
        return contains(link + world["secret_file"], world["secret"])

    def links():
        for pid in pids():
            try:
                names = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            yield from (f"/proc/{pid}/fd/{name}" for name in names)

    return first(lambda link=link: through(link) for link in links())


@probe()
def stdout_reopened_for_reading(world):
    """The log that stdout goes to is opened anew, and what others wrote into it is read."""
    return contains("/proc/self/fd/1", world["secret"])


@probe()
def stdout_truncated(world):
    """The log that stdout goes to can be cut short."""
    size = os.fstat(1).st_size
    fd = os.open("/proc/self/fd/1", os.O_WRONLY)
    try:
        os.ftruncate(fd, size)  # to what it is: what shows is that it could be less
        return "could be truncated"
    finally:
        os.close(fd)


@probe()
def pidfd_getfd(world):
    """A copy of another process's descriptor."""
    victim = call("pidfd_open", world["pid"], 0)
    return f"fd {call('pidfd_getfd', victim, 0, 0)}"
