"""User namespaces, ids, capabilities, and the way to other namespaces."""

import ctypes
import fcntl
import os

from probing import NEWCGROUP, NEWNET, NEWNS, NEWPID, NEWUSER, call, first, probe

NESTED = {"nested_namespaces": True}


@probe(NESTED)
def new_user_namespace(world):
    """unshare(CLONE_NEWUSER): every capability, in a place of one's own, and with them much of the kernel."""
    call("unshare", NEWUSER)
    return "a user namespace"


@probe(NESTED)
def new_user_namespace_by_clone(world):
    """clone(CLONE_NEWUSER)."""
    pid = call("clone", NEWUSER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a user namespace"


@probe(NESTED)
def cve_2019_7303_new_user_namespace_by_high_bits(world):
    """CVE-2019-7303: clone(2) with bits set above the 32 that the kernel looks at, to slip through a filter."""
    pid = call("clone", NEWUSER | 17 | 1 << 40, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a user namespace"


@probe(NESTED)
def cve_2021_41133_new_user_namespace_by_clone3(world):
    """CVE-2021-41133: clone3 has its flags where no filter can see them."""
    arguments = (ctypes.c_uint64 * 11)(NEWUSER, 0, 0, 0, 17)
    pid = call("clone3", ctypes.byref(arguments), 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a user namespace"


@probe("root")
def other_new_namespaces(world):
    """Namespaces of other kinds, without a user namespace."""
    return first([lambda k=k: (call("unshare", k), f"unshare({k:#x})")[1] for k in (NEWNS, NEWNET, NEWPID, NEWCGROUP)])


@probe()
def namespaces_of_init(world):
    """/proc/1/ns: the namespaces of pid 1, opened to be entered."""
    fd = os.open(f"/proc/{world.get('init', 1)}/ns/mnt", os.O_RDONLY)
    return f"fd {fd}"


@probe("root")
def parent_user_namespace(world):
    """ioctl NS_GET_USERNS and NS_GET_PARENT lead up from one's own namespaces."""
    fd = os.open("/proc/self/ns/" + ("net" if os.geteuid() == 0 else "user"), os.O_RDONLY)
    return f"fd {fcntl.ioctl(fd, 0xB701 if os.geteuid() == 0 else 0xB702)}"


@probe("root")
def enter_by_pidfd(world):
    """setns(2) with the pidfd of a process of the host."""
    victim = call("pidfd_open", world["pid"], 0)
    call("setns", victim, NEWNET)
    return "entered"


@probe("root")
def become_root(world):
    """setuid(0), in every form that there is."""
    if os.geteuid() == 0:
        os.seteuid(65000)
        os.seteuid(0)
        return "became root again"
    return first(
        [
            lambda: os.setuid(0) or "setuid",
            lambda: os.setresuid(0, 0, 0) or "setresuid",
            lambda: os.setreuid(-1, 0) or "setreuid",
            lambda: os.setgid(0) or "setgid",
        ]
    )


@probe("root")
def other_groups(world):
    """setgroups(2)."""
    os.setgroups(os.getgroups())
    return "set"


@probe("root")
def groups_of_the_caller(world):
    """The caller's supplementary groups are there, and with them what only those may read."""
    return world["group"] in os.getgroups() and f"in group {world['group']}"


@probe("root")
def capabilities_held(world):
    """Any capability in any set."""
    with open("/proc/self/status") as file:
        sets = {line.split()[0]: line.split()[1] for line in file if line.startswith("Cap")}
    return [name for name, value in sets.items() if int(value, 16)]


@probe("root")
def capabilities_raised(world):
    """capset(2) with all of them, and the ambient set."""
    if os.geteuid() == 0:
        return "root has them"
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise OSError(ctypes.get_errno(), "capset")
    return "raised"


@probe()
def new_privileges(world):
    """no_new_privs is off: exec may give more."""
    libc = ctypes.CDLL(None)
    return libc.prctl(39, 0, 0, 0, 0) == 0 and "no_new_privs is 0"


@probe("root")
def map_ids_anew(world):
    """A second line in uid_map."""
    if os.geteuid() == 0:
        return opens_own_map()
    with open("/proc/self/uid_map", "w") as file:
        file.write("0 0 1")
    return "written"


def opens_own_map():
    os.close(os.open("/proc/self/uid_map", os.O_WRONLY))
    return "opened"


@probe()
def more_ids_than_one(world):
    """More ids of the host's than the one that the payload needs."""
    with open("/proc/self/uid_map") as file:
        inside, outside, size = (int(word) for word in file.readline().split())
    return size > 1 and f"{inside} is {outside} outside, and {size} more"


@probe("root")
def root_outside(world):
    """A root caller's payload is root outside: what the host's root owns is its own."""
    return os.stat("/usr").st_uid == os.geteuid() and "owns /usr"


@probe("root")
def login_uid(world):
    """/proc/self/loginuid, by which the host's audit tells who it was, is set to another's."""
    with open("/proc/self/loginuid", "w") as file:
        file.write("0")
    return "set to 0"
