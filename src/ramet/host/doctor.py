"""Diagnosis: what a host can do, what is missing for what, and the command that mends it. Pure.

Every check is a function of a `Host`, which tries things and reads files; tests hand in one of their own, so
that each failure's text can be shown without having such a host. A fix states only what was found.
"""

from __future__ import annotations

import errno as E
from collections import namedtuple

from ramet.errors import errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NamedTuple, Protocol

    class Refusal(NamedTuple):
        """See below."""

        call: str
        errno: int

    class Check(NamedTuple):
        """See below."""

        name: str
        state: str
        fact: str
        needed_by: str = ""
        fix: str = ""

    class Limit(Protocol):
        """A `ramet.cgroups.place.Fact`."""

        @property
        def name(self) -> str: ...
        @property
        def ok(self) -> bool: ...
        @property
        def found(self) -> str: ...
        @property
        def hint(self) -> str: ...

    class Host(Protocol):
        """What a check may ask; `ramet.run.probes.Host` is the real one."""

        release: str
        machine: str
        uid: int
        gid: int
        executable: str
        environ: Mapping[str, str]

        def read(self, path: str) -> str | None: ...
        def exists(self, path: str) -> bool: ...
        def mode(self, path: str) -> int | None: ...
        def user(self) -> str: ...
        def attempt(self, name: str) -> Refusal | None: ...
        def landlock(self) -> int: ...
        def limits(self) -> Sequence[Limit]: ...
else:

    class Refusal(namedtuple("Refusal", "call errno")):
        """A probe that failed. call: who refused, in strace form; errno: 0 where call says it all."""

        __slots__ = ()

    class Check(namedtuple("Check", "name state fact needed_by fix", defaults=("", ""))):
        """One finding. state: "ok", "degraded" (there is a way without) or "missing". fix: what mends it."""

        __slots__ = ()


OK, DEGRADED, MISSING = "ok", "degraded", "missing"
OLDEST_KERNEL = (5, 14)
SANDBOX = "every sandbox"
KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
NEW_FLAGS = ("CLONE_AUTOREAP", "CLONE_NNP", "CLONE_PIDFD_AUTOKILL", "CLONE_EMPTY_MNTNS")
LANDLOCK_LATEST = 7


def examine(host: Host) -> list[Check]:
    """Every check, in the order in which a sandbox needs the things."""
    return [found for check in CHECKS for found in check(host)]


def refused(refusal: Refusal) -> str:
    """What was refused, in one line."""
    return f"{refusal.call}: {errno_name(refusal.errno)}" if refusal.errno else refusal.call


def kernel(host: Host) -> list[Check]:
    """The kernel is new enough, on a machine ramet's core is written for."""
    fact = f"Linux {host.release}, {host.machine}"
    if host.machine not in ("x86_64", "aarch64"):
        return [Check("kernel", MISSING, fact, SANDBOX, "x86-64 or aarch64 is needed: another machine")]
    parts = host.release.split("-")[0].split(".")
    version = tuple(int(part) if part.isdigit() else 0 for part in parts[:2])
    if version < OLDEST_KERNEL:
        return [
            Check(
                "kernel",
                MISSING,
                fact,
                SANDBOX,
                "Linux 5.14 or later is needed: upgrade the kernel, and reboot",
            )
        ]
    return [Check("kernel", OK, fact)]


def new_flags(host: Host) -> list[Check]:
    """The clone flags of Linux 7.1. There is a way without each of them."""
    there = [name for name in NEW_FLAGS if host.attempt(name) is None]
    if len(there) == len(NEW_FLAGS):
        return [Check("clone flags of 7.1", OK, "all four are there")]
    fact = f"only {', '.join(there)}" if there else "none of the four"
    return [Check("clone flags of 7.1", OK, f"{fact}; ramet does without")]


def clone3(host: Host) -> list[Check]:
    """clone3 can be called; clone takes its place only on ENOSYS."""
    refusal = host.attempt("clone3")
    if refusal is None:
        return [Check("clone3", OK, "the kernel takes it")]
    if refusal.errno == E.ENOSYS:
        fact = f"{refused(refusal)}; clone is used in its place"
        fix = "only clone3's own flags are lost. In a container: a newer runtime (libseccomp 2.5), or\n"
        return [Check("clone3", DEGRADED, fact, "lowlevel.clone3, CLONE_INTO_CGROUP", fix + _container_fix(host))]
    return [Check("clone3", MISSING, refused(refusal), SANDBOX, _container_fix(host))]


def pidfd(host: Host) -> list[Check]:
    """Processes by descriptor."""
    refusal = host.attempt("pidfd")
    if refusal is None:
        return [Check("pidfds", OK, "opened, and sent a signal through")]
    return [Check("pidfds", MISSING, refused(refusal), SANDBOX, _container_fix(host))]


def user_namespace(host: Host) -> list[Check]:
    """A user namespace can be made, an id mapped, and there are rights in it."""
    name = "user namespaces"
    refusal = host.attempt("user") or host.attempt("rights")
    if refusal is None:
        return [Check(name, OK, f"made one, mapped uid 1000 inside to {host.uid} outside")]
    return [Check(name, MISSING, *_why_no_user_namespace(host, refusal))]


def _why_no_user_namespace(host: Host, refusal: Refusal) -> tuple[str, str, str]:
    """Fact, what needs it, fix: the first cause that what was found proves."""
    said = refused(refusal)
    for path, name, value, fix in SYSCTLS:
        content = host.read(path)
        if content is not None and content.strip() == value:
            return f"{said}; {name} is {value}", SANDBOX, fix
    if _sysctl(host, "kernel/apparmor_restrict_unprivileged_userns") == "1" and host.uid != 0:
        fact = f"{said}; kernel.apparmor_restrict_unprivileged_userns is 1"
        return fact, SANDBOX, apparmor_fix(host.executable)
    if refusal.errno == E.ENOSPC:
        fix = "as root: sysctl user.max_user_namespaces=15000; or 32 levels of nesting are reached"
        return f"{said}; a limit on namespaces is reached", SANDBOX, fix
    if _chrooted(host):
        fact = f"{said}; the caller's root is no mount: it is in a chroot"
        return fact, SANDBOX, "leave the chroot, or enter that root by pivot_root(2) instead, as bwrap does"
    return f"{said}{_inside(host)}", SANDBOX, _container_fix(host)


#: path, name, the value that forbids, what allows it
SYSCTLS = (
    (
        "/proc/sys/user/max_user_namespaces",
        "user.max_user_namespaces",
        "0",
        "as root:\nsysctl user.max_user_namespaces=15000\n"
        "echo user.max_user_namespaces=15000 >/etc/sysctl.d/99-userns.conf",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "kernel.unprivileged_userns_clone",
        "0",
        "as root:\nsysctl kernel.unprivileged_userns_clone=1\n"
        "echo kernel.unprivileged_userns_clone=1 >/etc/sysctl.d/99-userns.conf",
    ),
)


def _sysctl(host: Host, name: str) -> str | None:
    content = host.read("/proc/sys/" + name)
    return None if content is None else content.strip()


def apparmor_fix(executable: str) -> str:
    """Commands that let this interpreter make user namespaces, where AppArmor restricts that.

    AppArmor goes by the path that was executed, with symlinks resolved: in a virtual environment that is
    the system's Python, unless it was made with --copies.
    """
    label = "ramet" + "".join(c if c.isalnum() or c in "._-" else "." if c == "/" else "_" for c in executable)
    pattern = "".join("\\" + c if c in '\\"[]{}*?^' else c for c in executable)
    quoted = executable if pattern == executable and " " not in executable else f'"{pattern}"'
    return f"""as root:
cat >/etc/apparmor.d/{label} <<'END'
abi <abi/4.0>,
include <tunables/global>
profile {label} {quoted} flags=(unconfined) {{
  userns,
  include if exists <local/{label}>
}}
END
apparmor_parser -r /etc/apparmor.d/{label}
# It goes for every program that this interpreter runs. To allow it to one
# virtual environment alone, make that with `python3 -m venv --copies`, and run
# `ramet doctor` there again."""


def _chrooted(host: Host) -> bool:
    """Is the caller's root no mount of its own? Then it came there by chroot(2), and clone says EPERM."""
    content = host.read("/proc/self/mountinfo")
    return bool(content) and not any(line.split()[4:5] == ["/"] for line in (content or "").splitlines())


def _container(host: Host) -> str | None:
    """What container we are in, as far as it says so."""
    if host.exists("/.dockerenv"):
        return "docker"
    if host.exists("/run/.containerenv"):
        return "podman"
    return host.environ.get("container") or None


def _filtered(host: Host) -> bool:
    return any(line.split() == ["Seccomp:", "2"] for line in (host.read("/proc/self/status") or "").splitlines())


def _inside(host: Host) -> str:
    container = _container(host)
    found = [
        f"inside a container ({container})" if container else "",
        "under a seccomp filter" if _filtered(host) else "",
    ]
    return "".join(f"; {one}" for one in found if one)


def _container_fix(host: Host) -> str:
    """The ways out of a container that refuses. There is no fix from inside."""
    runtime = _container(host)
    if runtime is None and not _filtered(host):
        return "something refuses it that can't be seen from here: a security module (see dmesg), an old kernel"
    name = runtime if runtime in ("docker", "podman") else "docker"
    return (
        "start the container with\n"
        f"{name} run --security-opt seccomp=unconfined --security-opt apparmor=unconfined\n"
        f"    --security-opt {'unmask=ALL' if name == 'podman' else 'systempaths=unconfined'} ...\n"
        "or run ramet outside it, or in a virtual machine"
    )


def namespaces(host: Host) -> list[Check]:
    """Each other kind, in a user namespace of its own."""
    if host.attempt("user") is not None:
        return []  # all of them hang on it
    found = []
    refusals = {kind: refusal for kind in KINDS if (refusal := host.attempt(kind)) is not None}
    works = [kind for kind in KINDS if kind not in refusals]
    if works:
        found.append(Check("namespaces", OK, f"made each: {', '.join(works)}"))
    for kind, refusal in refusals.items():
        found.append(_no_namespace(host, kind, refusal))
    refusal = host.attempt("time")
    if refusal is None:
        found.append(Check("time namespaces", OK, "made one"))
    else:
        config = "a kernel with CONFIG_TIME_NS"
        found.append(Check("time namespaces", DEGRADED, refused(refusal), "Sandbox.time_offsets", config))
    return found


def _no_namespace(host: Host, kind: str, refusal: Refusal) -> Check:
    said = refused(refusal)
    limit = f"user/max_{kind}_namespaces"
    if _sysctl(host, limit) == "0":
        name = limit.replace("/", ".")
        return Check(f"{kind} namespaces", MISSING, f"{said}; {name} is 0", SANDBOX, f"as root: sysctl {name}=15000")
    if refusal.errno == E.EINVAL:
        fix = f"a kernel with CONFIG_{kind.upper()}_NS; or without it: --share {kind}"
        return Check(f"{kind} namespaces", MISSING, f"{said}; the kernel has none", SANDBOX, fix)
    return Check(f"{kind} namespaces", MISSING, said + _inside(host), SANDBOX, _container_fix(host))


def proc(host: Host) -> list[Check]:
    """A fresh /proc can be mounted: not where a container has covered parts of its own."""
    if host.attempt("user") is not None:
        return []
    refusal = host.attempt("proc")
    if refusal is None:
        return [Check("/proc", OK, "mounted a fresh one in a new pid namespace")]
    covered = _covered_proc(host)
    if refusal.errno == E.EPERM and covered:
        fact = f"{refused(refusal)}; {', '.join(covered[:3])} are covered, so the kernel allows no fresh one"
        return [Check("/proc", MISSING, fact, SANDBOX, _container_fix(host))]
    return [Check("/proc", MISSING, refused(refusal) + _inside(host), SANDBOX, _container_fix(host))]


def _covered_proc(host: Host) -> list[str]:
    places = [
        line.split()[4] for line in (host.read("/proc/self/mountinfo") or "").splitlines() if len(line.split()) > 4
    ]
    return [place for place in places if place.startswith("/proc/") and place != "/proc/sys/fs/binfmt_misc"]


def overlay(host: Host) -> list[Check]:
    """overlayfs in a user namespace."""
    if host.attempt("user") is not None:
        return []
    refusal = host.attempt("overlay")
    if refusal is None:
        return [Check("overlayfs", OK, "mounted one in a user namespace")]
    needed = 'Overlay, Rootfs(writes="discarded")'
    if refusal.errno == E.ENODEV:
        fix = "as root: modprobe overlay; echo overlay >/etc/modules-load.d/overlay.conf"
        return [Check("overlayfs", DEGRADED, f"{refused(refusal)}; the kernel has none loaded", needed, fix)]
    return [
        Check(
            "overlayfs",
            DEGRADED,
            refused(refusal),
            needed,
            "a kernel whose overlayfs works in user namespaces (5.11)",
        )
    ]


def memfd(host: Host) -> list[Check]:
    """A program can be executed from memory: init is."""
    refusal = host.attempt("memfd")
    if refusal is None:
        return [Check("memfd", OK, "made one that can be executed, and sealed it")]
    found = refused(refusal)
    if _sysctl(host, "vm/memfd_noexec") == "2":
        fix = "as root: sysctl vm.memfd_noexec=1; or without init: --as-pid1"
        return [Check("memfd", MISSING, f"{found}; vm.memfd_noexec is 2", SANDBOX, fix)]
    return [Check("memfd", MISSING, found, SANDBOX, "without init: --as-pid1")]


def subordinate_ids(host: Host) -> list[Check]:
    """A range of ids can be mapped, through the helpers where the caller has no privilege."""
    if host.attempt("user") is not None:
        return []
    name, needed = "subordinate ids", 'uid_mappings="subordinate"'
    fixes = []
    user = host.user()
    lines = {file: _sub_id_line(host, file, user) for file in ("/etc/subuid", "/etc/subgid")}
    facts = [f"{file} has no line for {user}" for file, line in lines.items() if line is None]
    if facts:
        fixes.append(f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
    for helper in ("newuidmap", "newgidmap") if host.uid != 0 else ():
        mode = host.mode(f"/usr/bin/{helper}")
        if mode is None:
            facts.append(f"{helper} is not installed")
            fixes.insert(0, "apt-get install uidmap    # Debian, Ubuntu; shadow-utils elsewhere")
        elif not mode & 0o6000 and host.attempt("subordinate") is not None:
            facts.append(f"{helper} is not set-uid")
            fixes.append(f"chmod u+s /usr/bin/{helper}")
    if not facts:
        refusal = host.attempt("subordinate")
        if refusal is None:
            return [Check(name, OK, f"mapped {lines['/etc/subuid']} for {user}")]
        facts, fixes = (
            [refused(refusal)],
            ["look at the mount options (nosuid?) of /usr, and at the lines of /etc/subuid"],
        )
        return [Check(name, DEGRADED, facts[0], needed, fixes[0])]
    return [Check(name, DEGRADED, "; ".join(facts), needed, "as root:\n" + "\n".join(dict.fromkeys(fixes)))]


def _sub_id_line(host: Host, file: str, user: str) -> str | None:
    for line in (host.read(file) or "").splitlines():
        owner, _, span = line.partition(":")
        if owner in (user, str(host.uid)) and span:
            return span
    return None


def seccomp(host: Host) -> list[Check]:
    """System call filters."""
    refusal = host.attempt("seccomp")
    if refusal is None:
        under = "; the caller is under one itself" if _filtered(host) else ""
        return [Check("seccomp", OK, f"filters can kill the process{under}")]
    return [
        Check(
            "seccomp",
            DEGRADED,
            refused(refusal),
            "system call filters",
            "a kernel with CONFIG_SECCOMP_FILTER",
        )
    ]


def landlock(host: Host) -> list[Check]:
    """Landlock, by the version of its ABI."""
    version = host.landlock()
    if version:
        older = f"; {LANDLOCK_LATEST} can do more" if version < LANDLOCK_LATEST else ""
        return [Check("Landlock", OK, f"ABI {version}{older}")]
    fix = "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in the boot parameter lsm=\n"
    return [Check("Landlock", DEGRADED, "the kernel has none, or it is off", "Landlock rules", fix + _lsm(host))]


def _lsm(host: Host) -> str:
    content = host.read("/sys/kernel/security/lsm")
    return f"(now: lsm={content.strip()})" if content else "(`cat /sys/kernel/security/lsm` shows it)"


def limits(host: Host) -> list[Check]:
    """What control groups can limit and count here. Each was tried, in a group that was made and removed again."""
    facts = host.limits()
    had = [fact.name.replace("_", " ") for fact in facts if fact.ok]
    found = [Check("limits", OK, f"by control groups: {', '.join(had)}")] if had else []
    reasons: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        if not fact.ok:
            reasons.setdefault((fact.found, fact.hint), []).append(fact.name.replace("_", " "))
    for (why, fix), names in reasons.items():
        fix = fix or "there is none from here"
        found.append(Check("no limit of", DEGRADED, f"{', '.join(names)}: {why}", "limits of a whole sandbox", fix))
    return found


CHECKS: tuple[Callable[[Host], list[Check]], ...] = (
    kernel,
    user_namespace,
    namespaces,
    proc,
    clone3,
    pidfd,
    memfd,
    overlay,
    subordinate_ids,
    seccomp,
    landlock,
    limits,
    new_flags,
)
