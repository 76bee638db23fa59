"""What `rootfs="minimal"` means: which paths of the host a program needs to see."""

from __future__ import annotations

#: Programs and libraries. Where the host has a symlink (/bin -> usr/bin), so has the sandbox.
TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

#: Configuration that dynamic linking, alternatives and time zones need; nothing personal, nothing secret.
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")

#: What names and certificates need: only where the network is the host's or a joined one. Each bind costs 15 us.
ETC_NETWORK = (
    "/etc/ca-certificates",
    "/etc/hosts",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)

HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"

#: Of our own: what the host asks (systemd, sssd, a directory service) is not reachable inside.
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"


def passwd(uid: int, home: str) -> str:
    """/etc/passwd for a payload with this uid."""
    lines = ["root:x:0:0:root:/:/usr/sbin/nologin", "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin"]
    if uid not in (0, 65534):
        lines.insert(1, f"user:x:{uid}:{uid}:user:{home}:/bin/sh")
    return "\n".join(lines) + "\n"


def group(gid: int) -> str:
    """/etc/group for a payload with this gid."""
    lines = ["root:x:0:", "nogroup:x:65534:"]
    if gid not in (0, 65534):
        lines.insert(1, f"user:x:{gid}:")
    return "\n".join(lines) + "\n"
