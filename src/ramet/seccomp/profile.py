"""The default profile: what programs need, and no more of the kernel.

An allow-list, as Docker's (moby/profiles/seccomp) in size and spirit, and somewhat narrower: a payload here has no capabilities
and a user namespace of its own, in which none may be made.
"""

from __future__ import annotations

from functools import lru_cache

from ramet.spec.seccomp import Condition, Rule, Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: By subject. Names that a machine does not have are passed over.
ALLOWED: Mapping[str, str] = {
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
        fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
        fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat lchown lgetxattr link
        linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open
        openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
        removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync
        sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
        file_getattr file_setattr""",
    "watching files": "inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    "memory": """
        brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap
        mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages""",
    "processes": """
        arch_prctl execve execveat exit exit_group fork getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid
        gettid kill pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield set_tid_address setpgid setpriority setrlimit
        setsid times tgkill tkill vfork wait4 waitid ioprio_get ioprio_set rseq_slice_yield""",
    "ids": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups setregid
        setresgid setresuid setreuid setuid""",
    "signals": """
        pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_tgsigqueueinfo sigaltstack signalfd signalfd4""",
    "threads": """
        futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list get_thread_area set_robust_list set_thread_area""",
    "time": """
        alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
        timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime""",
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 io_cancel io_destroy
        io_getevents io_pgetevents io_setup io_submit poll ppoll pselect6 select""",
    "pipes and System V": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 semctl
        semget semop semtimedop shmat shmctl shmdt shmget""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
        setsockopt shutdown""",
    "confining oneself": "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    "the machine": "getcpu getrandom sysinfo uname",
}

#: Why these are not in the list; for `explain`. Whatever is in neither is refused as well.
REFUSED: Mapping[str, str] = {
    "io_uring_setup io_uring_enter io_uring_register": "io_uring makes calls that no filter sees, and has cost many CVEs",
    "bpf": "programs inside the kernel",
    "perf_event_open": "sees what other processes do",
    "userfaultfd": "stops the kernel in the middle of a copy: the tool of many exploits",
    "add_key request_key keyctl": "keyrings are not in any namespace",
    "kexec_load kexec_file_load reboot": "another kernel, or none",
    "init_module finit_module delete_module": "code in the kernel",
    """mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr open_tree_attr swapon
    swapoff quotactl quotactl_fd""": "the file system is made before the payload starts",
    "unshare setns": "namespaces are made before the payload starts; a user namespace would give it capabilities",
    "clone3": "its flags are behind a pointer, where no filter can see them; libc falls back to clone",
    "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd": "looks into other processes",
    "open_by_handle_at name_to_handle_at": "opens files past every directory (the shape of shocker.c)",
    "settimeofday clock_settime clock_adjtime adjtimex stime": "the clock is everybody's",
    "acct syslog vhangup iopl ioperm sethostname setdomainname lookup_dcookie nfsservctl": "the machine's administration",
    "personality": "but for asking and for PER_LINUX: turns address randomisation off, and old behaviours on",
    "mbind set_mempolicy get_mempolicy migrate_pages move_pages set_mempolicy_home_node": "where memory lies is the host's",
    "fanotify_init fanotify_mark": "watches whole file systems",
    "cachestat": "tells which parts of shared files others have read",
    "chroot": "takes CAP_SYS_CHROOT",
    "ustat sysfs uselib _sysctl modify_ldt vm86 vm86old": "obsolete, and little tested",
    "lsm_set_self_attr lsm_get_self_attr lsm_list_modules": "security modules are the host's",
    "listmount statmount listns": "mounts and namespaces of others",
    "socket": "other families than unix, IPv4, IPv6 and NETLINK_ROUTE: AF_VSOCK is in no namespace, others are little tested; "
    "other protocols than TCP, UDP and ICMP: each is a driver that is loaded (SCTP, DCCP), and of MPTCP Landlock sees no ports",
    "socketpair": "other families than unix",
    "clone": "namespaces are made before the payload starts",
}

TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
F_SETLEASE, F_NOTIFY = 1024, 1026
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
NETLINK_ROUTE = 0
#: 0 is what the type of the socket stands for.
PROTOCOLS: Mapping[int, Mapping[str, int]] = {
    AF_INET: {"0": 0, "ICMP": 1, "TCP": 6, "UDP": 17},
    AF_INET6: {"0": 0, "TCP": 6, "UDP": 17, "ICMPv6": 58},
}
IPPROTO_MPTCP, MSG_FASTOPEN = 262, 0x20000000
SOL_SOCKET, SO_LINGER = 1, 13
LINGERS = (
    "SO_LINGER makes whoever closes the socket last wait, and by SCM_RIGHTS that can be the caller; nothing is done"
)
SOCK_TYPE, SOCK_DGRAM, SOCK_RAW = 0xF, 2, 3
RLIMIT_CORE = 4
CLONE_NEW = 0x7E020000  # every CLONE_NEW flag that clone(2) can say
INT = 2**32 - 1  # an int is 32 bits; what is above them in the register, the kernel does not look at (CVE-2019-7303)

#: What a kept capability is for; as Docker does.
WITH_CAPABILITY: Mapping[str, str] = {
    "CAP_SYS_ADMIN": """
        bpf cachestat clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree
        perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare pivot_root swapon swapoff
        listmount statmount open_tree_attr""",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at name_to_handle_at",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_adjtime adjtimex",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}


def _masked(argument: int, value: int, mask: int = INT) -> Condition:
    return Condition(argument, "&", value, mask)


@lru_cache(maxsize=64)
def default(capabilities: frozenset[str] = frozenset(), *, nested: bool = False, kill: bool = False) -> Seccomp:
    """The default profile for a payload that keeps these capabilities. nested: it may make user namespaces. kill: a call that
    is refused ends the process (SIGSYS) instead of failing with EPERM.

    What is refused has rules too: they say why, and change nothing.
    """
    refusal = "kill" if kill else "errno"
    rules = [Rule(tuple(names.split()), why=subject) for subject, names in ALLOWED.items()]
    rules += [
        Rule(tuple(names.split()), why=f"{capability} is kept")
        for capability, names in WITH_CAPABILITY.items()
        if capability in capabilities
    ]
    rules += _sockets(capabilities, nested=nested)
    rules += [
        Rule(("personality",), when=(_masked(0, persona),), why=what)
        for persona, what in ((0, "PER_LINUX"), (INT, "asking which there is"))
    ]
    rules.append(Rule(("ioctl",), why="but for what puts input into a terminal, or a driver behind it"))
    if nested:
        rules.append(Rule(("clone", "clone3", "unshare", "setns"), why="nested_namespaces"))
        names = "mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr sethostname"
        rules.append(Rule(tuple(names.split()), why="nested_namespaces, where such namespaces need it"))
    elif "CAP_SYS_ADMIN" in capabilities:
        rules.append(Rule(("clone",), why="CAP_SYS_ADMIN is kept"))
    else:
        rules.append(
            Rule(("clone",), when=(_masked(0, 0, CLONE_NEW),), why="for processes and threads, in no new namespaces")
        )
        rules.append(Rule(("clone3",), action="errno", errno="ENOSYS", why=REFUSED["clone3"]))
    rules += [
        Rule(tuple(names.split()), action=refusal, why=why) for names, why in REFUSED.items() if names != "clone3"
    ]
    return Seccomp(tuple(rules), vetoes=_vetoes(), action=refusal)


def _sockets(capabilities: frozenset[str], *, nested: bool) -> Iterable[Rule]:
    """By family, and by protocol: each is a driver of its own in the kernel, loaded when first asked for, and several reach around
    namespaces."""
    yield Rule(("socket",), when=(_masked(0, AF_UNIX),), why="unix sockets")
    for name, family in (("IPv4", AF_INET), ("IPv6", AF_INET6)):
        if "CAP_NET_RAW" in capabilities or nested:
            yield Rule(("socket",), when=(_masked(0, family),), why=f"{name} sockets")
            continue
        for protocol, number in PROTOCOLS[family].items():
            why = f"{name} sockets, protocol {protocol}"
            yield Rule(("socket",), when=(_masked(0, family), _masked(2, number)), why=why)
    yield Rule(("socketpair",), when=(_masked(0, AF_UNIX),), why="unix sockets")
    if "CAP_NET_ADMIN" in capabilities or nested:
        reason = "CAP_NET_ADMIN is kept" if "CAP_NET_ADMIN" in capabilities else "nested_namespaces"
        yield Rule(("socket",), when=(_masked(0, AF_NETLINK),), why=reason)
    else:
        route = (_masked(0, AF_NETLINK), _masked(2, NETLINK_ROUTE))
        yield Rule(("socket",), when=route, why="NETLINK_ROUTE, which libc asks for addresses")
    if "CAP_NET_RAW" in capabilities:
        yield Rule(("socket",), when=(_masked(0, AF_PACKET),), why="CAP_NET_RAW is kept")


def _vetoes() -> tuple[Rule, ...]:
    """An allow-list can't say "but not this value" of an argument that it allows in general."""
    typed = "types into a terminal"
    ioctls = (
        ("TIOCSTI", TIOCSTI, typed),
        ("TIOCLINUX", TIOCLINUX, typed),
        ("TIOCSETD", TIOCSETD, "loads line disciplines, little tested (CVE-2017-2636, CVE-2023-6546)"),
    )
    lease = "F_SETLEASE keeps others from a file for as long as 45 s, also through a read-only bind"
    return (
        *(
            Rule(("ioctl",), action="errno", when=(_masked(1, number),), why=f"{name} {why}")
            for name, number, why in ioctls
        ),
        Rule(("fcntl",), action="errno", when=(_masked(1, F_SETLEASE),), why=lease),
        # Servers set it and end when they can't; they hear that it is done.
        Rule(
            ("setsockopt",), action="errno", errno=0, when=(_masked(1, SOL_SOCKET), _masked(2, SO_LINGER)), why=LINGERS
        ),
        *_core_limit(),
    )


def _core_limit() -> Iterable[Rule]:
    """A limit of exactly 1 byte is the only one at which the kernel starts no program of the host's for a core (`core_pattern` with a
    pipe; do_coredump() in fs/coredump.c). So nobody may lower it to 0. Who does so wants no core and is to get none: programs that guard
    secrets end when they are refused this, so they hear that it is done."""
    why = "RLIMIT_CORE stays at 1, at which there is neither a core nor a program of the host's started for one; nothing is done"
    setting = (_masked(1, RLIMIT_CORE), Condition(2, "!=", 0))
    yield Rule(("prlimit64",), action="errno", errno=0, when=(_masked(0, 0), *setting), why=why)
    yield Rule(
        ("prlimit64",), action="errno", when=(Condition(0, "!=", 0), *setting), why="by a pid: RLIMIT_CORE stays at 1"
    )
    yield Rule(("setrlimit",), action="errno", errno=0, when=(_masked(0, RLIMIT_CORE),), why=why)


def ports_only(policy: Seccomp) -> Seccomp:
    """The same beside Landlock rules for the ports to connect to: what would connect where Landlock does not look."""
    unseen = "Landlock does not see where this connects to"
    vetoes = [Rule(("socket",), action="errno", when=(_masked(2, IPPROTO_MPTCP),), why=f"MPTCP: {unseen}")]
    for names, flags in ((("sendto", "sendmmsg"), 3), (("sendmsg",), 2)):
        fast = (_masked(flags, MSG_FASTOPEN, MSG_FASTOPEN),)
        vetoes.append(Rule(names, action="errno", errno="EOPNOTSUPP", when=fast, why=f"MSG_FASTOPEN: {unseen}"))
    return policy.replace(vetoes=(*policy.vetoes, *vetoes))


@lru_cache(maxsize=1)
def zygote() -> Seccomp:
    """For a pool's zygote (`ramet.pool`): the default profile, and what it makes sandboxes of copies of itself by."""
    return default(nested=True).allow("chroot", "setdomainname", why="a copy's sandbox is made of it")


#: What namespaces would have kept apart, and Landlock does not.
ALONE: Mapping[str, str] = {
    "socket": "there is no network namespace, and Landlock sees TCP only; a pair of connected unix sockets can be had",
    """msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmget mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink""": "there is no IPC namespace",
    """chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown setxattr lsetxattr fsetxattr setxattrat removexattr
    lremovexattr fremovexattr removexattrat utime utimes futimesat file_setattr""": "Landlock does not see it, and the files are the caller's own",
    "inotify_add_watch": "Landlock does not see it",
}

IOPRIO_WHO_PGRP, IOPRIO_WHO_USER = 2, 3
#: The byte of an ioctl's number that says whose it is: terminals', and FIONREAD and its like, which pipes have too.
IOCTL_TYPE, IOCTL_TERMINALS = 0xFF00, 0x5400


def alone(capabilities: frozenset[str] = frozenset()) -> Seccomp:
    """The default profile for a payload in no namespace of its own, beside Landlock rules: `Sandbox.without_namespaces`."""
    vetoes = [Rule(tuple(names.split()), action="errno", why=why) for names, why in ALONE.items()]
    others = "other processes of the same user are not to be touched"
    for name, argument in (
        *(
            ("prlimit64", 0),
            ("sched_setaffinity", 0),
            ("sched_setattr", 0),
            ("sched_setparam", 0),
            ("sched_setscheduler", 0),
        ),
        *(("setpriority", 0), ("setpriority", 1), ("ioprio_set", 1)),
    ):
        vetoes.append(Rule((name,), action="errno", when=(Condition(argument, "!=", 0),), why=others))
    vetoes += [
        Rule(("ioprio_set",), action="errno", when=(_masked(0, who),), why=others)
        for who in (IOPRIO_WHO_PGRP, IOPRIO_WHO_USER)
    ]
    lonely = "a datagram can be sent to any socket of the host's that has a path, by who has but a pair"
    vetoes += [
        Rule(("socketpair",), action="errno", when=(_masked(1, kind, SOCK_TYPE),), why=lonely)
        for kind in (SOCK_DGRAM, SOCK_RAW)
    ]
    vetoes.append(Rule(("fcntl",), action="errno", when=(_masked(1, F_NOTIFY),), why="Landlock does not see it"))
    # By descriptor it is what utimensat(2) does for a file that is open.
    vetoes.append(Rule(("utimensat",), action="errno", when=(Condition(1, "!=", 0),), why="Landlock does not see it"))
    found = default(capabilities)
    # Who owns a file changes its flags, seals it or makes a subvolume beside it by a descriptor for reading: each file system has such.
    streams = Rule(
        ("ioctl",), when=(_masked(1, IOCTL_TERMINALS, IOCTL_TYPE),), why="of terminals and pipes, not of files"
    )
    rules = (*(rule for rule in found.rules if rule.names != ("ioctl",)), streams)
    return found.replace(rules=rules, vetoes=(*found.vetoes, *vetoes))
