"""Profiles in the form of Docker and of the OCI runtime specification."""

import copy
import errno
import json
import os

import pytest

import ramet
from ramet import Seccomp, SpecError
from ramet.bpf import ALLOW, ERRNO, KILL_PROCESS, LOG
from ramet.seccomp import filters, library
from ramet.seccomp.simulate import answer
from ramet.spec.config import sandbox_from_mapping

#: Every shape that Docker's own profile has.
DOCKER = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {
            "names": ["read", "write", "exit_group", "a_call_of_the_year_2040"],
            "action": "SCMP_ACT_ALLOW",
        },
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}],
        },
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]},
        },
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {"names": ["clone", "clone3", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["getuid"], "action": "SCMP_ACT_LOG", "comment": "who asks?"},
        {"names": ["getgid"], "action": "SCMP_ACT_KILL_PROCESS"},
    ],
}  # fmt: skip


def ask(policy, name, *arguments):
    return answer(filters.compiled(policy), os.uname().machine, library.number(name), arguments)


def changed(change):
    profile = copy.deepcopy(DOCKER)
    change(profile)
    return profile


def test_a_profile_of_docker():
    """Actions, errnos, conditions on arguments, and what depends on kernel, machine and capabilities mean what they do there."""
    policy = Seccomp.from_oci(DOCKER)
    assert ask(policy, "read") == ask(policy, "ptrace") == ALLOW
    assert ask(policy, "getpid") == ask(policy, "mount") == ask(policy, "getppid") == ERRNO | errno.EPERM
    assert ask(policy, "socket", 40) == ERRNO | errno.EPERM and ask(policy, "socket", 2) == ALLOW
    assert ask(policy, "clone", 0x11) == ALLOW and ask(policy, "clone", 0x10000000) == ERRNO | errno.EPERM
    assert ask(policy, "clone3") == ERRNO | errno.ENOSYS
    assert ask(policy, "getuid") == LOG and ask(policy, "getgid") == KILL_PROCESS
    if os.uname().machine == "x86_64":
        assert ask(policy, "arch_prctl") == ALLOW


def test_capabilities_of_the_payload():
    """Rules for a capability apply with it, and those that exclude it do not."""
    policy = Seccomp.from_oci(DOCKER, {"SYS_ADMIN"})
    assert ask(policy, "clone", 0x10000000) == ask(policy, "clone3") == ask(policy, "mount") == ALLOW


def test_one_argument_named_twice():
    """Several conditions on one argument are alternatives, as runc has them; on several arguments they must all hold."""
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]
    policy = Seccomp.from_oci(
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]}
    )
    assert [ask(policy, "read", n) == ALLOW for n in range(4)] == [False, True, True, False]
    args[1]["index"] = 1
    policy = Seccomp.from_oci(
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]}
    )
    assert ask(policy, "read", 1, 2) == ALLOW and ask(policy, "read", 1, 1) != ALLOW


def test_a_list_of_what_is_refused():
    """A profile that allows by default refuses what it names; a name that nobody knows is an error there, and not in an allow-list."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}],
    }
    assert ask(Seccomp.from_oci(profile), "getpid") == ERRNO | errno.EDOM
    profile["syscalls"][0]["names"] = ["getpidd"]
    with pytest.raises(SpecError, match="did you mean 'getpid'") as caught:
        Seccomp.from_oci(profile)
    assert caught.value.field == "syscalls[0].names[0]"


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (lambda p: p.update(defaultActon=1), "profile.defaultActon", "did you mean 'defaultAction'"),
        (lambda p: p["syscalls"][0].update(arg=[]), "syscalls[0].arg", "did you mean 'args'"),
        (lambda p: p["syscalls"][1]["includes"].update(cap=[]), "syscalls[1].includes.cap", "did you mean 'caps'"),
        (lambda p: p["syscalls"][3]["args"][0].update(val=1), "syscalls[3].args[0].val", "did you mean 'value'"),
        (lambda p: p["syscalls"][3]["args"][0].update(op="SCMP_CMP_NEQ"), "syscalls[3].args[0].op", "SCMP_CMP_NE"),
        (lambda p: p["syscalls"][3]["args"][0].update(index=6), "syscalls[3].args[0].index", ""),
        (lambda p: p["syscalls"][0].update(action="SCMP_ACT_ALOW"), "syscalls[0].action", "SCMP_ACT_ALLOW"),
        (lambda p: p["syscalls"][0].update(action="SCMP_ACT_NOTIFY"), "syscalls[0].action", "needs a program"),
        (lambda p: p.update(listenerPath="/run/x"), "listenerPath", "nobody"),
        (lambda p: p.pop("defaultAction"), "defaultAction", "is required"),
        (lambda p: p.pop("archMap") and p.update(architectures=["SCMP_ARCH_S390X"]), "architectures", "not for this machine"),
        (lambda p: p["syscalls"][0].pop("names"), "syscalls[0].names", "is required"),
        (lambda p: p.update(syscalls={}), "syscalls", "must be a list"),
    ],
)  # fmt: skip
def test_what_is_no_profile(change, field, text):
    """An unknown key, value or action is refused, the error names it, and the nearest one that is known."""
    with pytest.raises(SpecError) as caught:
        Seccomp.from_oci(changed(change))
    assert caught.value.field == field
    assert text in f"{caught.value}"


def test_from_a_file(tmp_path):
    """A profile in a file is what the kernel holds the payload to; a file that is none is named in the error."""
    path = tmp_path / "profile.json"
    path.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}],
            }
        )
    )
    result = ramet.run(["unshare", "-U", "true"], seccomp=Seccomp.from_oci(path), text=True, timeout=60)
    assert "Numerical argument out of domain" in result.stderr
    path.write_text("{")
    with pytest.raises(SpecError, match="is no JSON") as caught:
        Seccomp.from_oci(path)
    assert caught.value.field == str(path)
    with pytest.raises(SpecError, match="can't be read"):
        Seccomp.from_oci(tmp_path / "nowhere.json")


def test_in_a_configuration(tmp_path):
    """A configuration names a profile's file, relative to its own, or holds the profile itself; capabilities count."""
    (tmp_path / "p.json").write_text(json.dumps(DOCKER))
    by_path = sandbox_from_mapping({"seccomp": "p.json"}, base=str(tmp_path))
    in_place = sandbox_from_mapping({"seccomp": DOCKER})
    assert by_path.seccomp == in_place.seccomp == Seccomp.from_oci(DOCKER)
    wide = sandbox_from_mapping({"seccomp": DOCKER, "capabilities": ["SYS_ADMIN"]})
    assert wide.seccomp == Seccomp.from_oci(DOCKER, {"SYS_ADMIN"})
    assert sandbox_from_mapping({"seccomp": "kill"}).seccomp == "kill"
    with pytest.raises(SpecError, match="defaultActon"):
        sandbox_from_mapping({"seccomp": {"defaultActon": 1}})


# Explaining


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("read", ["read: allowed", "files"]),
        ("mount", ["fails with EPERM", "the file system is made before"]),
        ("clone3", ["fails with ENOSYS", "behind a pointer"]),
        ("clone", ["allowed when argument 0 has none of the bits 0x7e020000", "otherwise fails with EPERM"]),
        ("ioctl", ["fails with EPERM when argument 1 is 0x5412: TIOCSTI", "otherwise allowed"]),
        ("socket", ["allowed when argument 0 is 0x1: unix sockets", "otherwise fails with EPERM", "AF_VSOCK"]),
    ],
)
def test_explain(name, words):
    """explain() says what happens with a call, when, and why."""
    said = Seccomp.default().explain(name)
    for word in words:
        assert word in said


def test_explain_follows_the_policy():
    """What it says is what the programs answer: with changes, capabilities, in kill mode, without a filter."""
    assert "ptrace: allowed" in Seccomp.default().allow("ptrace").explain("ptrace")
    assert "fails with ENOSYS" in Seccomp.default().deny("read", errno="ENOSYS").explain("read")
    assert "ends the process (SIGSYS)" in ramet.Sandbox(seccomp="kill").explain_call("mount")
    assert "nested_namespaces" in ramet.Sandbox(nested_namespaces=True).explain_call("mount")
    assert "CAP_SYS_TIME is kept" in ramet.Sandbox(capabilities={"SYS_TIME"}).explain_call("clock_settime")
    assert "no filter" in ramet.Sandbox(seccomp="none").explain_call("mount")
    assert "no rule names it" in Seccomp().explain("read")
    with pytest.raises(SpecError, match="did you mean 'mount'"):
        Seccomp.default().explain("muont")


def test_explain_agrees_with_the_programs():
    """For every call: what explain() says happens with arguments of 0 happens."""
    policy = Seccomp.default()
    programs = filters.compiled(policy)
    from ramet.seccomp.explain import explain

    for name, number in library.known().items():
        found = explain(policy, name)
        if any(case.when for case in found.cases):
            continue
        action = (found.cases or (found.otherwise,))[0].action
        expected = ALLOW if action == "allowed" else ERRNO | getattr(errno, action)
        assert answer(programs, os.uname().machine, number) == expected, name
