"""What the default profile answers: its programs, run over every call by a simulation of the kernel's filter machine."""

import errno
import os

import pytest

from needs import only
from ramet import Landlock, Sandbox, SpecError
from ramet.bpf import ALLOW, ERRNO, KILL_PROCESS
from ramet.seccomp import filters, library, profile
from ramet.seccomp.simulate import AUDIT_ARCH, answer
from ramet.spec.seccomp import Condition, Rule, Seccomp

MACHINE = os.uname().machine
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
HIGH = 0xDEADBEEF << 32
#: Arguments on which an answer of the profile can depend, and neighbours.
MATTERING = (
    *(0, 1, 2, 6, 8, 10, 16, 17, 13, 40, 58, 132, 262, 0x5412, 0x541C, 0x5423, 0xFFFFFFFF, HIGH | 1, HIGH | 0x5412),
    *(1 << n for n in range(64)),
)
#: Calls that the profile allows with some arguments and not with others.
BY_ARGUMENT = {"socket", "socketpair", "clone", "personality", "ioctl"}


def words(table):
    return sorted({name for names in table for name in names.split()})


def compiled(**fields):
    return filters.compiled(profile.default(**fields))


def ask(programs, name, *arguments, machine=MACHINE):
    number = library.number(name)
    assert number is not None, f"{name} is no call of this machine"
    return answer(programs, machine, number, arguments)


@pytest.fixture(scope="module")
def default():
    return compiled()


def of_this_machine(names):
    return [name for name in names if library.number(name) is not None]


@pytest.mark.parametrize("name", of_this_machine(words(profile.ALLOWED.values())))
def test_allowed(default, name):
    """Every call of the list is allowed, whatever its arguments are."""
    for arguments in ((), (2**64 - 1,) * 6, (HIGH,) * 6):
        assert ask(default, name, *arguments) == ALLOW


@pytest.mark.parametrize("name", of_this_machine(words(profile.REFUSED)))
def test_refused(default, name):
    """Every call that has a reason for not being there is refused, whatever its arguments are."""
    if name in BY_ARGUMENT:
        assert ask(default, name, 0x7E02FFFF, 0xFFFF, 0xFFFF) == EPERM
        return
    for arguments in ((), (2**64 - 1,) * 6):
        assert ask(default, name, *arguments) == (ENOSYS if name == "clone3" else EPERM)


def test_names_are_calls():
    """Every name of the profile is a system call of some machine; none is in both lists."""
    lists = (profile.ALLOWED.values(), profile.REFUSED, profile.WITH_CAPABILITY.values())
    assert [name for table in lists for name in words(table) if not library.is_name(name)] == []
    assert set(words(profile.ALLOWED.values())) & set(words(profile.REFUSED)) == set()


def test_calls_without_a_word():
    """Whatever is in neither list is refused too, and these are all of them: a new call gets its place on purpose."""
    named = {*words(profile.ALLOWED.values()), *words(profile.REFUSED), *BY_ARGUMENT}
    rest = {name for name in library.known() if name not in named}
    assert rest <= OTHERS, sorted(rest - OTHERS)


#: x86-64's calls that no kernel has an implementation of.
OTHERS = {"afs_syscall", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "getpmsg", "putpmsg"} | {
    "query_module", "security", "tuxcall", "vserver", "uretprobe", "uprobe",
}  # fmt: skip


@pytest.mark.parametrize("flag", [1 << n for n in range(64)])
def test_clone(default, flag):
    """clone is allowed with every flag but those that make namespaces; what is above 32 bits the kernel ignores, and so does the filter."""
    only(MACHINE == "x86_64" or MACHINE == "aarch64", "where clone's flags come first")
    new = flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert ask(default, "clone", flag) == (EPERM if new else ALLOW)
    assert ask(default, "clone", flag | HIGH | 0x3D0F00) == (EPERM if new else ALLOW)


def test_fork_and_threads(default):
    """What libc passes to clone for fork and for a thread is allowed."""
    assert ask(default, "clone", 0x1200011) == ALLOW
    assert ask(default, "clone", 0x3D0F00) == ALLOW


@pytest.mark.parametrize(("name", "request_"), [("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSETD", 0x5423)])
def test_terminal_injection(default, name, request_):
    """The requests that type into a terminal, or change the driver behind it, are refused, with bits set above an int as well (CVE-2019-7303); others are not."""
    for value in (request_, request_ | HIGH, request_ | 1 << 32):
        assert ask(default, "ioctl", 0, value) == EPERM
    for value in (0x5401, 0x5413, 0x5421, request_ | 0x10000):
        assert ask(default, "ioctl", 0, value) == ALLOW


@pytest.mark.parametrize(("family", "icmp"), [(2, 1), (10, 58)])
def test_protocols(default, family, icmp):
    """Of IPv4 and IPv6, sockets of TCP, UDP and ICMP can be had; UDP-Lite, SCTP, DCCP, L2TP and MPTCP can't, unless CAP_NET_RAW is
    kept."""
    others = (136, 132, 33, 115, 262, 58 if family == 2 else 1)
    raw = compiled(capabilities=frozenset({"CAP_NET_RAW"}))
    for high in (0, HIGH):
        for protocol in (0, 6, 17, icmp):
            assert ask(default, "socket", family | high, 1, protocol | high) == ALLOW
        for protocol in others:
            assert ask(default, "socket", family | high, 1, protocol | high) == EPERM
            assert ask(raw, "socket", family | high, 1, protocol | high) == ALLOW


def test_the_limit_of_cores(default):
    """Who sets RLIMIT_CORE hears that it is done, and nothing is; by a pid it is refused. Asking for it, and other limits, are allowed."""
    done = ERRNO
    for high in (0, HIGH):
        assert ask(default, "prlimit64", high, 4 | high, 1) == done
        assert ask(default, "prlimit64", 1 | high, 4 | high, 1) == EPERM
        assert ask(default, "prlimit64", high, 4 | high, 0) == ALLOW
        assert ask(default, "prlimit64", high, 5 | high, 1) == ALLOW
        assert ask(default, "prlimit64", 1 | high, 5 | high, 1) == ALLOW
    if library.number("setrlimit") is not None:
        assert (ask(default, "setrlimit", 4, 1), ask(default, "setrlimit", 5, 1)) == (done, ALLOW)
    assert "ignored when" in profile.default().explain("prlimit64")


def test_lingering(default):
    """setsockopt is allowed with every option but SO_LINGER of SOL_SOCKET, which does nothing and says that it is done."""
    for high in (0, HIGH):
        assert ask(default, "setsockopt", 3, 1 | high, 13 | high) == ERRNO
        assert [ask(default, "setsockopt", 3, level | high, 13 | high) for level in (0, 6, 41)] == [ALLOW] * 3
        assert [ask(default, "setsockopt", 3, 1 | high, option | high) for option in (2, 9, 12, 14)] == [ALLOW] * 4


def test_only_these_ports():
    """Beside Landlock's rules for ports, what connects unseen by it is refused, whatever filter there is: MSG_FASTOPEN, and MPTCP. Without
    such rules, and with other flags, it is not."""
    limited = {"landlock": Landlock(connect=())}
    for fields in ({}, {"seccomp": "kill"}, {"capabilities": {"NET_RAW"}}, {"seccomp": Seccomp(action="allow")}):
        free, held = filters.programs_of(Sandbox(**fields)), filters.programs_of(Sandbox(**fields, **limited))
        for name, before in (("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2)):
            for flags in (0x20000000, 0x20000040, HIGH | 0x20000000):
                assert ask(held, name, *[3] * before, flags) == ERRNO | errno.EOPNOTSUPP
                assert ask(free, name, *[3] * before, flags) == ALLOW
            assert ask(held, name, *[3] * before, 0x4040) == ALLOW
        assert ask(held, "socket", 2, 1, 262) != ALLOW
        assert ask(held, "socket", 2, 1, 6) == ALLOW
    assert filters.programs_of(Sandbox(landlock=Landlock(bind=()))) == filters.programs_of(Sandbox())


def test_pairs_and_priorities_without_namespaces():
    """Where Landlock is the only wall: pairs of streams and of packets, none of datagrams, which could be sent to others; requests to
    terminals and pipes, none to file systems; priorities of its own process alone."""
    alone = filters.compiled(profile.alone())
    for flags in (0, 0o4000, 0o2000000):
        assert [ask(alone, "socketpair", 1, kind | flags) for kind in (1, 5)] == [ALLOW, ALLOW]
        assert [ask(alone, "socketpair", 1, kind | flags) for kind in (2, 3)] == [EPERM, EPERM]
    assert [ask(alone, "ioctl", 0, request) for request in (0x5401, 0x5413, 0x541B, 0x5421, 0x5451)] == [ALLOW] * 5
    for request in (0x40086602, 0x401C5820, 0x40087602, 0x40806685, 0x800C6613, 0x5000940E, 0x5412):
        assert ask(alone, "ioctl", 0, request) == EPERM
    assert [ask(alone, "ioprio_set", who, 0) for who in (1, 2, 3)] == [ALLOW, EPERM, EPERM]


def test_leases(default):
    """fcntl is allowed with every command but F_SETLEASE, whatever is set above an int."""
    for command in (1024, 1024 | HIGH):
        assert ask(default, "fcntl", 0, command) == EPERM
    for command in (*range(40), 1025, 1026, 1030, 1033, 1024 | 0x10000):
        assert ask(default, "fcntl", 0, command) == ALLOW


def test_dnotify_without_namespaces(default):
    """F_NOTIFY watches a directory as inotify does, which Landlock does not see: refused where Landlock is the only wall for files,
    and left elsewhere."""
    alone = filters.compiled(profile.alone())
    for command, expected in ((1026, EPERM), (1026 | HIGH, EPERM), (1024, EPERM), (1, ALLOW), (1025, ALLOW)):
        assert ask(alone, "fcntl", 0, command) == expected
    assert ask(default, "fcntl", 0, 1026) == ALLOW


@pytest.mark.parametrize("family", range(48))
def test_socket_families(default, family):
    """unix, IPv4 and IPv6 sockets, and of netlink the protocol that libc needs; no AF_VSOCK, AF_ALG, AF_PACKET and so on."""
    allowed = family in (1, 2, 10)
    for arguments in ((family, 1, 0), (family | HIGH, 0x80002, 17)):
        if family != 16:
            assert ask(default, "socket", *arguments) == (ALLOW if allowed else EPERM)
    for protocol in range(24):
        if family == 16:
            assert ask(default, "socket", family, 3, protocol) == (ALLOW if protocol == 0 else EPERM)
    assert ask(default, "socketpair", family, 1, 0) == (ALLOW if family == 1 else EPERM)


def test_personality(default):
    """Asking is allowed, and the usual one; turning address randomisation off is not."""
    assert ask(default, "personality", 0xFFFFFFFF) == ask(default, "personality", 0) == ALLOW
    for persona in (0x0040000, 0x0400000, 0x0100000, 0x20000, 8):
        assert ask(default, "personality", persona) == EPERM


def test_other_entries(default):
    """32-bit and x32 calls fail with ENOSYS, whatever their number: they have other numbers, and other structures."""
    only(MACHINE == "x86_64", "on x86-64")
    for number in range(600):
        assert answer(default, "i386", number) == ENOSYS
        assert answer(default, "x86_64", number | 0x40000000) == ENOSYS


def test_younger_calls(default):
    """Calls that the profile has not heard of fail with ENOSYS, so that programs do what they did before there was such a call."""
    oldest = max(library.known().values()) + 1
    for number in range(oldest, library.NUMBERS_END):
        assert answer(default, MACHINE, number) == ENOSYS
        assert answer(compiled(kill=True), MACHINE, number) == ENOSYS


def test_kill():
    """In kill mode a call that is refused ends the process; clone3 still fails with ENOSYS, since libc tries it."""
    programs = compiled(kill=True)
    assert ask(programs, "mount") == ask(programs, "clone", 0x10000000) == ask(programs, "socket", 40) == KILL_PROCESS
    assert ask(programs, "clone3") == ENOSYS
    assert ask(programs, "read") == ALLOW


@pytest.mark.parametrize("capability", sorted(profile.WITH_CAPABILITY))
def test_capabilities_widen(default, capability):
    """What a kept capability is for is allowed with it, nothing is refused that was allowed, and the rest stays as it was."""
    wide = compiled(capabilities=frozenset({capability}))
    own = set(profile.WITH_CAPABILITY[capability].split())
    for name in library.known():
        now, before = ask(wide, name), ask(default, name)
        assert now == (ALLOW if name in own else before), name


def test_capabilities_for_sockets():
    """CAP_NET_RAW is for packet sockets, CAP_NET_ADMIN for every protocol of netlink; neither opens AF_VSOCK."""
    raw, admin = (compiled(capabilities=frozenset({name})) for name in ("CAP_NET_RAW", "CAP_NET_ADMIN"))
    assert ask(raw, "socket", 17, 3) == ALLOW and ask(raw, "socket", 16, 3, 12) == EPERM
    assert ask(admin, "socket", 16, 3, 12) == ALLOW and ask(admin, "socket", 17, 3) == EPERM
    assert ask(raw, "socket", 40) == ask(admin, "socket", 40) == EPERM


def test_nesting_widens(default):
    """Who may nest may make namespaces and mounts, and nothing that reaches past them."""
    nested = compiled(nested=True)
    for name in (
        "clone3",
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "open_tree",
        "move_mount",
        "sethostname",
    ):
        assert ask(nested, name) == ALLOW != ask(default, name)
    assert ask(nested, "clone", 0x10000000) == ALLOW
    for name in ("bpf", "ptrace", "keyctl", "io_uring_setup", "kexec_load", "perf_event_open", "open_by_handle_at"):
        assert ask(nested, name) == EPERM


def test_the_shipped_programs(default):
    """The programs that are shipped answer every call, with every argument that matters, as the profile compiled anew does."""
    only(os.path.exists(filters.SHIPPED), "where the profile is shipped compiled")
    shipped = filters.programs_of(Sandbox())
    for machine in AUDIT_ARCH:
        for number in [*range(library.NUMBERS_END + 8), *(n | 0x40000000 for n in range(520))]:
            assert answer(shipped, machine, number) == answer(default, machine, number), number
    for name in of_this_machine((*BY_ARGUMENT, "fcntl", "prlimit64", "setrlimit", "setsockopt")):
        number = library.number(name)
        for value in MATTERING:
            for arguments in (
                (value,),
                (0, value),
                (16, 3, value),
                (2, 1, value),
                (10, 1, value),
                (value, 4, 1),
                (0, value, 1),
            ):
                assert answer(shipped, MACHINE, number, arguments) == answer(default, MACHINE, number, arguments)


def test_the_shipped_programs_are_used():
    """The default sandbox takes them from the file, and so needs no libseccomp."""
    only(os.path.exists(filters.SHIPPED), "where the profile is shipped compiled")
    with open(filters.SHIPPED, "rb") as file:
        assert filters.programs_of(Sandbox()) == filters.unpacked(file.read())
    assert filters.programs_of(Sandbox(capabilities={"SYS_CHROOT"})) != filters.programs_of(Sandbox())
    assert filters.programs_of(Sandbox(seccomp="none")) == ()


# Policies of one's own


def test_rules_and_vetoes():
    """A rule allows by argument; a veto wins over every rule; what no rule names gets the policy's errno."""
    policy = Seccomp(
        (Rule(("read", "write"), when=(Condition(0, "<=", 2),)), Rule("getpid")),
        vetoes=(Rule("write", action="errno", errno="EBADF", when=(Condition(2, ">", 4096),)),),
        errno="EACCES",
    )
    programs = filters.compiled(policy)
    assert ask(programs, "read", 2) == ALLOW and ask(programs, "read", 3) == ERRNO | errno.EACCES
    assert ask(programs, "write", 1, 0, 4096) == ALLOW and ask(programs, "write", 1, 0, 4097) == ERRNO | errno.EBADF
    assert ask(programs, "getpid") == ALLOW and ask(programs, "getppid") == ERRNO | errno.EACCES


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">=", "&"])
def test_operators(operator):
    """Every comparison is that of 64-bit numbers, at both sides of its edge."""
    value = 0x1_0000_0010
    programs = filters.compiled(Seccomp((Rule("read", when=(Condition(1, operator, value),)),)))
    holds = {
        "==": value.__eq__, "!=": value.__ne__, "<": value.__gt__, "<=": value.__ge__, ">": value.__lt__,
        ">=": value.__le__, "&": value.__eq__,
    }[operator]  # fmt: skip
    for found in (0, 0x10, value - 1, value, value + 1, 0x2_0000_0000, 2**64 - 1):
        assert (ask(programs, "read", 0, found) == ALLOW) == holds(found), hex(found)


def test_deny_and_allow():
    """deny() takes a call away and allow() gives it back; the policy itself stays as it was."""
    policy = profile.default()
    less = policy.deny("getpid", errno="ENOSYS")
    assert ask(filters.compiled(less), "getpid") == ENOSYS
    assert ask(filters.compiled(less.allow("getpid")), "getpid") == ALLOW
    assert ask(filters.compiled(policy), "getpid") == ALLOW
    assert ask(filters.compiled(policy.allow("ptrace")), "ptrace") == ALLOW
    assert ask(filters.compiled(policy.deny("read", kill=True)), "read") == KILL_PROCESS


def test_unknown_names():
    """A name that is no call of any machine is refused with the nearest one; one of another machine is passed over."""
    with pytest.raises(SpecError, match="did you mean 'mount'") as caught:
        filters.compiled(Seccomp((Rule("muont"),)))
    assert caught.value.field == "Sandbox.seccomp"
    other = "stime"  # of 32-bit machines
    assert filters.compiled(Seccomp((Rule(("read", other)),))) == filters.compiled(Seccomp((Rule("read"),)))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Condition(6, "==", 0), "Condition.argument"),
        (lambda: Condition(0, "=", 0), "Condition.operator"),
        (lambda: Condition(0, "==", 2**64), "Condition.value"),
        (lambda: Condition(0, "==", -1), "Condition.value"),
        (lambda: Rule(()), "Rule.names"),
        (lambda: Rule("read", action="trap"), "Rule.action"),
        (lambda: Rule("read", action="errno", errno="ENOWHERE"), "Rule.errno"),
        (lambda: Rule("read", action="errno", errno=4096), "Rule.errno"),
        (lambda: Rule("read", when=("arg0 == 1",)), "Rule.when[0]"),
        (lambda: Seccomp((("read",),)), "Seccomp.rules[0]"),
        (lambda: Seccomp(action="trap"), "Seccomp.action"),
        (lambda: Sandbox(seccomp="strict"), "Sandbox.seccomp"),
    ],
)
def test_bad_policies(make, field):
    """What is no policy is refused, and the error names the field."""
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.field == field


# Condensing

POLICIES = {
    "default": lambda: profile.default(),
    "kill": lambda: profile.default(kill=True),
    "nested": lambda: profile.default(nested=True),
    "capabilities": lambda: profile.default(frozenset({"CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_SYS_TIME"})),
    "alone": lambda: profile.alone(),
    "deny": lambda: Seccomp(action="allow").deny("getpid", "mount", errno="EACCES"),
    "nothing": lambda: Seccomp(),
    "everything": lambda: Seccomp(action="allow"),
    "one argument": lambda: Seccomp((Rule("read", when=(Condition(0, "==", 1),)),)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_condensed(name):
    """The short program answers every call of every machine, with arguments that matter, as libseccomp's programs do."""
    policy = POLICIES[name]()
    whole, short = filters.translated(policy), filters.compiled(policy)
    for machine in AUDIT_ARCH:
        for number in [*range(library.NUMBERS_END + 64), 0x3FFFFFFF, *range(0x40000000, 0x40000240), 2**31 - 1]:
            for arguments in ((), (2**64 - 1,) * 6, (1, 0x5412, 3)):
                expected = answer(whole, machine, number, arguments)
                assert answer(short, machine, number, arguments) == expected, (machine, number, arguments)
    for rule in (*policy.rules, *policy.vetoes):
        for call in rule.names if rule.when else ():
            number = library.number(call)
            for value in MATTERING:
                for arguments in ((value,), (0, value), (16, 3, value), (value, value, value)):
                    assert answer(short, MACHINE, number, arguments) == answer(whole, MACHINE, number, arguments)


def test_condensed_is_short(default):
    """The default profile is one program of less than half of libseccomp's instructions."""
    whole = sum(map(len, filters.translated(profile.default()))) // 8
    assert len(default) == 1 and len(default[0]) // 8 < whole / 2
