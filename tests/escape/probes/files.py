"""Mounts, chroots, links and the host's files."""

import ctypes
import os
import subprocess

from probing import NEWNS, NEWUSER, call, contains, first, opens, probe, reached

RIGHTS = {"seccomp": "none", "uid": 0, "gid": 0, "capabilities": ["SYS_ADMIN", "SYS_CHROOT"]}
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096


@probe()
def secret_by_its_path(world):
    """A file of the caller's, by its path."""
    return contains(world["secret_file"], world["secret"])


@probe()
def mark_by_its_path(world):
    """A new file in a directory of the host that everybody may write to."""
    path = f"{world['open']}/mark"
    with open(path, "w") as file:
        file.write("mark")
    os.unlink(path)
    return f"wrote {path}"


@probe()
def homes(world):
    """The home directory of the caller."""
    return os.path.isdir(world["home"]) and f"listed {len(os.listdir(world['home']))} names"


@probe("outside")
def temporary_files(world):
    """/tmp is the host's."""
    return os.path.exists(world["temporary"]) and world["temporary"]


@probe()
def symlink_out(world):
    """A symlink that the payload makes, to a path of the host."""
    os.symlink(world["secret_file"], f"/tmp/link-{os.getpid()}")
    try:
        return contains(f"/tmp/link-{os.getpid()}", world["secret"])
    finally:
        os.unlink(f"/tmp/link-{os.getpid()}")


@probe("root")
def write_to_usr(world):
    """Programs of the host can be opened for writing (never written)."""
    return opens("/usr/bin/find", os.O_WRONLY)


@probe("root")
def times_of_shared_files(world):
    """The times of a file in /usr changed, to what they are."""
    found = os.stat("/usr/bin/find")
    os.utime("/usr/bin/find", ns=(found.st_atime_ns, found.st_mtime_ns))
    return "utime"


@probe("outside")
def times_of_devices(world):
    """/dev/null is the host's, and everybody may write to it: so everybody may touch it."""
    os.utime("/dev/null")
    return "touched /dev/null"


@probe("root")
def mode_of_devices(world):
    """The mode of the host's /dev/null changed, to what it is."""
    os.chmod("/dev/null", 0o666)
    return "chmod"


@probe(RIGHTS)
def remount_writable(world):
    """A read-only mount made writable."""
    call("mount", None, b"/usr", None, MS_REMOUNT | MS_BIND, None)
    return "remounted /usr"


@probe(RIGHTS)
def unmount(world):
    """A mount taken away, to see what is below it."""
    call("umount2", b"/tmp", 2)
    return "unmounted /tmp"


@probe(RIGHTS)
def mount_something(world):
    """A new mount."""
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    return "mounted a tmpfs"


@probe(RIGHTS)
def new_mount_calls(world):
    """fsopen and open_tree, the new mount calls."""
    return first(
        [lambda: f"fsopen: {call('fsopen', b'tmpfs', 0)}", lambda: f"open_tree: {call('open_tree', -100, b'/', 1)}"]
    )


@probe(RIGHTS)
def pivot_back(world):
    """pivot_root once more."""
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    os.chdir("/tmp")
    call("pivot_root", b".", b".")
    return "pivoted"


@probe(RIGHTS)
def chroot_twice(world):
    """The classic: a second chroot while standing outside of it, then ".." up to the real root."""
    os.makedirs("/tmp/jail", exist_ok=True)
    os.chroot("/tmp/jail")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return os.path.isdir("/usr") and "out of the second root"


@probe()
def chroot_twice_and_read(world):
    """The same, and what is wanted is the secret. Without rights for it, in a user namespace of its own."""
    if os.geteuid():
        call("unshare", NEWUSER | NEWNS)
    jail = f"/tmp/jail-{os.getpid()}"
    os.mkdir(jail)
    fd = os.open("/", os.O_RDONLY)
    try:
        os.chroot(jail)
        os.fchdir(fd)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        return contains(world["secret_file"], world["secret"])
    finally:
        os.fchdir(fd)
        os.rmdir(jail.lstrip("/"))


@probe("root", absent=("ESTALE",))
def shocker_open_by_handle(world):
    """shocker.c: a file opened by its handle, past every directory."""

    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    handle = Handle()
    handle.size, handle.kind = world["handle"]["size"], world["handle"]["kind"]
    for n, byte in enumerate(world["handle"]["data"]):
        handle.data[n] = byte
    beside = os.open("/usr", os.O_RDONLY)  # the same file system as the secret, on most machines
    fd = call("open_by_handle_at", beside, ctypes.byref(handle), os.O_RDONLY)
    return world["secret"].encode() in os.read(fd, 4096) and "read the secret"


@probe()
def hard_link_into_a_writable_place(world):
    """A hard link to a file of the host's, in a place that the payload may write to."""
    path = f"{world['open']}/link" if os.path.isdir(world["open"]) else "/tmp/link"
    source = world["own_file"] if os.path.exists(world["own_file"]) else "/usr/bin/find"
    os.link(source, path)
    os.unlink(path)
    return f"linked {source}"


@probe()
def set_uid_program(world):
    """A set-uid program of the host becomes root."""
    import signal

    program = next(p for p in ("/usr/bin/su", "/bin/su", "/usr/bin/passwd") if os.path.exists(p))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one that has ended is still there to be looked at

    def ordinary():
        if os.geteuid() == 0 and "init" in world:  # outside
            os.setgid(65000)
            os.setuid(65000)

    child = subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=ordinary
    )
    try:
        # It asks for a password, or ends: then it is that program. When Popen returns the kernel may not be done with the exec.
        os.read(child.stdout.fileno(), 1)
        with open(f"/proc/{child.pid}/status") as file:
            real, effective = next(line.split()[1:3] for line in file if line.startswith("Uid:"))
        return real != effective and f"uid {real} became {effective}"
    finally:
        child.stdin.close()
        child.kill()
        child.wait()
        child.stdout.close()


@probe(RIGHTS, absent=("ENOSYS",))
def mounts_listed(world):
    """listmount(2) and statmount(2), which need no /proc."""
    request = (ctypes.c_uint64 * 4)(32, 2**64 - 1, 0, 0)
    found = (ctypes.c_uint64 * 64)()
    return f"{call('listmount', ctypes.byref(request), ctypes.byref(found), 64, 0)} mounts"


@probe("outside")
def access_times_of_shared_files(world):
    """Reading a shared file leaves a trace in its access time, which others can see."""
    path = world["library"]
    before = os.stat(path).st_atime_ns
    with open(path, "rb") as file:
        file.read(1)
    return os.stat(path).st_atime_ns != before and "the access time changed"


@probe(left="flock(2)")
def flock_on_shared_files(world):
    """A lock on a file that others see too: a bit that everybody can read, and a lock that may block them."""
    import fcntl

    with open("/usr/bin/find", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who try it at once both can
    return "locked /usr/bin/find"


@probe(left="inotify(7)")
def watch_on_shared_files(world):
    """inotify tells when somebody outside opens a file that is shared."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    return libc.inotify_add_watch(watch, b"/usr/bin", 0x20) > 0 and "watches /usr/bin"


@probe()
def lease_on_a_file(world):
    """F_SETLEASE: whoever wants to open the file otherwise waits, for 45 s at most. Tried on a file of its own; on one that is shared it takes being who owns it."""
    import fcntl

    path = os.path.join(world["open"] if os.path.isdir(world["open"]) else "/tmp", f"lease-{os.getpid()}")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        with open(path) as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    finally:
        os.unlink(path)
    return "leased"


@probe(absent=("ENOSYS", "EPERM"))
def page_cache_of_shared_files(world):
    """cachestat(2) tells which parts of a shared file somebody has read lately."""
    found = (ctypes.c_uint64 * 5)()
    with open("/usr/bin/find", "rb") as file:
        call("cachestat", file.fileno(), (ctypes.c_uint64 * 2)(), found, 0)
    return f"{found[0]} pages"


@probe()
def handle_of_a_file(world):
    """name_to_handle_at(2): a file's inode and generation, by which shocker.c found its way."""
    buffer, mount = ctypes.create_string_buffer(136), ctypes.c_int()
    return reached("name_to_handle_at", -100, b"/usr/bin/find", buffer, ctypes.byref(mount), 0, errors=("EOVERFLOW",))
