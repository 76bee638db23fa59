"""What protects the host from a payload, and each payload's limits: enforced, degraded or absent, with the fact. Pure.

Nothing here decides anything: it says what the plan does, for `Result.protections` and for who reads a plan.
"""

from __future__ import annotations

from ramet.plan.limits import ABSENT, DEGRADED, ENFORCED, Protection
from ramet.spec import Namespace, Rootfs, Seccomp
from ramet.spec.seccomp import keeps_from_keyrings, keeps_from_nesting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ramet.host.facts import Facts
    from ramet.plan.landlock import Fence
    from ramet.plan.limits import Held
    from ramet.plan.shape import Shape
    from ramet.spec import Sandbox

#: What each kind of namespace keeps apart.
APART = {
    Namespace.USER: "user ids",
    Namespace.MOUNT: "mounts",
    Namespace.PID: "processes",
    Namespace.NET: "network",
    Namespace.IPC: "System V IPC and message queues",
    Namespace.UTS: "host name",
    Namespace.CGROUP: "control groups",
}


def protections(
    spec: Sandbox, facts: Facts, shape: Shape, wall: Fence, held: Held, filters: tuple[bytes, ...]
) -> tuple[Protection, ...]:
    """All of them; limits last."""
    found = [*_namespaces(spec), _files(spec, shape, wall), *_rights(spec, facts)]
    found += [_seccomp(spec, filters), _landlock(spec, facts, wall), _nesting(spec), _keyring(spec)]
    found += [_groups(spec, facts), _session(spec), _life(spec, shape)]
    return (*found, *held.protections)


def _namespaces(spec: Sandbox) -> Iterator[Protection]:
    for kind, what in APART.items():
        if kind in spec.namespaces:
            yield Protection(f"{kind.value} namespace", ENFORCED, f"{what}: the sandbox's own")
        elif spec.joined(kind):
            yield Protection(f"{kind.value} namespace", DEGRADED, f"{what}: those of a namespace that it has joined")
        else:
            yield Protection(f"{kind.value} namespace", ABSENT, f"{what}: the caller's")


def _files(spec: Sandbox, shape: Shape, wall: Fence) -> Protection:
    if Namespace.MOUNT not in spec.namespaces:
        if wall.files:
            return Protection("files", DEGRADED, "those that Landlock lists; names and metadata of others can be seen")
        return Protection("files", ABSENT, "the caller's own view")
    if isinstance(spec.rootfs, Rootfs) and spec.rootfs.writes == "kept":
        return Protection("files", DEGRADED, f"{spec.rootfs.path} is the root, and what is written is kept")
    writable = [mount.destination for mount in spec.mounts if getattr(mount, "writable", False)]  # type: ignore[attr-defined]
    beside = f", {', '.join(writable)} of the host writable" if writable else ""
    return Protection("files", ENFORCED, f"a root of its own ({shape.root}){beside}")


def _rights(spec: Sandbox, facts: Facts) -> Iterator[Protection]:
    if Namespace.USER not in spec.namespaces and not facts.capabilities:
        yield Protection("capabilities", ENFORCED, "the caller has none")
    elif spec.capabilities:
        yield Protection("capabilities", DEGRADED, f"kept: {', '.join(sorted(spec.capabilities))}")
    else:
        yield Protection("capabilities", ENFORCED, "all five sets are empty, and securebits locked")
    if spec.no_new_privs:
        yield Protection("no_new_privs", ENFORCED, "nothing that is executed gains rights")
    else:
        yield Protection("no_new_privs", ABSENT, "no_new_privs=False")


def _seccomp(spec: Sandbox, filters: tuple[bytes, ...]) -> Protection:
    if not filters:
        return Protection("seccomp", ABSENT, 'seccomp="none"')
    named = "a policy of its own" if isinstance(spec.seccomp, Seccomp) else f"the {spec.seccomp} profile"
    count = sum(map(len, filters)) // 8
    return Protection("seccomp", ENFORCED, f"{named}: {count} instructions")


def _landlock(spec: Sandbox, facts: Facts, wall: Fence) -> Protection:
    held = [
        name
        for name, bits in (
            ("files", wall.files),
            ("TCP ports", wall.net),
            ("signals", wall.scoped & 2),
            ("abstract sockets", wall.scoped & 1),
        )
        if bits
    ]
    if not held:
        return Protection("landlock", ABSENT, wall.missing or "the kernel has none")
    fact = f"ABI {facts.landlock}: {', '.join(held)}"
    if wall.missing or facts.landlock < 6:
        why = wall.missing or "signals and abstract sockets need ABI 6, Linux 6.12"
        return Protection("landlock", DEGRADED, f"{fact}; {why}")
    return Protection("landlock", ENFORCED, fact)


def _nesting(spec: Sandbox) -> Protection:
    name = "nested user namespaces"
    if Namespace.USER in spec.namespaces and not spec.nested_namespaces:
        return Protection(name, ENFORCED, "user.max_user_namespaces is 0 inside")
    if not spec.nested_namespaces and keeps_from_nesting(spec.seccomp, spec.capabilities):
        return Protection(name, ENFORCED, "refused by the filter for system calls")
    return Protection(name, ABSENT, "nested_namespaces" if spec.nested_namespaces else "nothing forbids them")


def _keyring(spec: Sandbox) -> Protection:
    if keeps_from_keyrings(spec.seccomp):
        return Protection("keyrings", ENFORCED, "refused by the filter for system calls")
    return Protection("keyrings", DEGRADED, "a session keyring of its own; those of its user id are in no namespace")


def _groups(spec: Sandbox, facts: Facts) -> Protection:
    name = "supplementary groups"
    if facts.privileged:
        return Protection(name, ENFORCED, f"only {', '.join(map(str, spec.groups))}" if spec.groups else "none")
    return Protection(name, DEGRADED, "the caller's: an ordinary user can't give them up (user_namespaces(7))")


def _session(spec: Sandbox) -> Protection:
    if spec.new_session:
        return Protection("session", ENFORCED, "its own: no signals from, and no input into, the caller's terminal")
    return Protection("session", ABSENT, "new_session=False")


def _life(spec: Sandbox, shape: Shape) -> Protection:
    if shape.own_pids:
        return Protection("life", ENFORCED, "everything in it ends with it, and with the caller")
    fact = "the payload ends with the caller; what it has started may live on"
    return Protection("life", DEGRADED, fact)
