"""The default profile compiled for a machine that this one is not: what is shipped for aarch64, by the simulation."""

import os

import pytest

from ramet.bpf import ALLOW, ERRNO
from ramet.seccomp import filters, foreign, library, profile
from ramet.seccomp.simulate import AUDIT_ARCH, answer

MACHINE = os.uname().machine
OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"
EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
HIGH = 0xDEADBEEF << 32
#: (call, arguments, is it allowed)
BY_ARGUMENT = [
    *(("socket", (family, 1, 0), family in (1, 2, 10, 16)) for family in range(48)),
    *(("socket", (family | HIGH, 0x80002, 17), family in (1, 2, 10)) for family in range(48)),
    *(("socketpair", (family, 1, 0), family == 1) for family in range(48)),
    *(("clone", (1 << n,), n not in (17, 25, 26, 27, 28, 29, 30)) for n in range(64)),
    ("clone", (0x1200011,), True),
    ("clone", (0x3D0F00,), True),
    ("clone", (0x10000011 | HIGH,), False),
    *(("ioctl", (0, number), False) for number in (0x5412, 0x541C, 0x5423, 0x5412 | HIGH, 0x5423 | HIGH)),
    *(("ioctl", (0, number), True) for number in (0x5401, 0x5413, 0x5421, 0x15412, 0x5424, 0x5422)),
    *(("fcntl", (0, command), False) for command in (1024, 1024 | HIGH)),
    *(("fcntl", (0, command), True) for command in (*range(40), 1025, 1026, 1030, 1033, 1036)),
    *(("personality", (persona,), True) for persona in (0, 2**32 - 1)),
    *(("personality", (persona,), False) for persona in (8, 0x40000, 0x400000)),
]


@pytest.fixture(scope="module")
def shipped():
    """What stands in the file for the other machine."""
    name = filters.SHIPPED.replace(MACHINE, OTHER)
    with open(name, "rb") as file:
        return filters.unpacked(file.read())


def there(name):
    return library.number_there(name, AUDIT_ARCH[OTHER])


def words(table):
    return sorted({name for names in table for name in names.split()})


def test_the_way_is_the_same_as_libseccomps():
    """Compiled the same way for this machine, the profile answers each call, with each argument that counts, as libseccomp's does."""
    for policy in (profile.default(), profile.default(kill=True), profile.default(nested=True), profile.alone()):
        own, same = filters.compiled(policy), foreign.compiled_for(policy, MACHINE)
        for number in (*range(2000), 0x40000000, 2**31 - 1):
            assert answer(own, MACHINE, number) == answer(same, MACHINE, number), number
            assert answer(own, OTHER, number) == answer(same, OTHER, number)
        for name, arguments, _ in BY_ARGUMENT:
            number = library.number(name)
            assert answer(own, MACHINE, number, arguments) == answer(same, MACHINE, number, arguments), name


def test_what_is_shipped_is_the_profile(shipped):
    """The file is the profile compiled anew, byte for byte."""
    assert shipped == foreign.compiled_for(profile.default(), OTHER)


def test_every_call_of_the_profile(shipped):
    """By the other machine's numbers: what the profile allows is allowed, what it refuses is refused, whatever the arguments are; what
    it has never heard of is ENOSYS, and a gap between numbers EPERM."""
    dependent = {name for name, _, _ in BY_ARGUMENT}
    counted = 0
    for table, action in ((profile.ALLOWED.values(), ALLOW), (profile.REFUSED, EPERM)):
        for name in words(table):
            number = there(name)
            if number is None or name in dependent:
                continue
            expected = ENOSYS if name == "clone3" else action
            for arguments in ((), (2**64 - 1,) * 6, (HIGH,) * 6):
                assert answer(shipped, OTHER, number, arguments) == expected, name
            counted += 1
    assert counted > 250
    youngest = max(library.known(AUDIT_ARCH[OTHER]).values())
    assert {answer(shipped, OTHER, number) for number in range(youngest + 1, library.NUMBERS_END)} == {ENOSYS}
    assert answer(shipped, OTHER, library.NUMBERS_END) == EPERM


@pytest.mark.parametrize(("name", "arguments", "allowed"), BY_ARGUMENT)
def test_arguments_that_count(shipped, name, arguments, allowed):
    """Families of sockets, flags of clone, requests of ioctl and commands of fcntl: as on this machine."""
    found = answer(shipped, OTHER, there(name), arguments)
    assert found == (ALLOW if allowed else EPERM)
    assert found == answer(filters.compiled(profile.default()), MACHINE, library.number(name), arguments)


def test_calls_of_another_machine(shipped):
    """Whoever comes with another machine's numbers, or a 32-bit program's, gets ENOSYS for each."""
    for machine in AUDIT_ARCH:
        if machine != OTHER:
            assert {answer(shipped, machine, number) for number in range(600)} == {ENOSYS}
    assert answer(shipped, OTHER, there("read")) == ALLOW
