"""libseccomp, as far as it is needed: seccomp_init(3), seccomp_rule_add(3), seccomp_export_bpf(3), through ctypes.

It compiles for the machine it runs on. Names of calls that are younger than the library are known here by number: since Linux 5.1
they are the same on every machine.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

from ramet.errors import SpecError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramet.spec.seccomp import Condition

KILL_PROCESS, ERRNO, LOG, ALLOW = 0x80000000, 0x00050000, 0x7FFC0000, 0x7FFF0000
USER_NOTIF = 0x7FC00000
_COMPARE = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "&": 7}
_ATTRIBUTE_BADARCH, _ATTRIBUTE_OPTIMIZE = 2, 8
_BINARY_TREE = 2
_NO_SUCH_CALL = -1

#: asm-generic/unistd.h, from where libseccomp 2.5.1 ends.
YOUNG = {
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "memfd_secret": 447,
    "process_mrelease": 448, "futex_waitv": 449, "set_mempolicy_home_node": 450, "cachestat": 451, "fchmodat2": 452,
    "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458,
    "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463,
    "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468,
    "file_setattr": 469, "listns": 470, "rseq_slice_yield": 471,
}  # fmt: skip
#: Above every number that a kernel has used yet, with room for some years.
NUMBERS_END = 512


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        found = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            "can't compile a filter for system calls",
            fact=str(error),
            needs="libseccomp 2.5 or later",
            hint='apt-get install libseccomp2; or seccomp="none" goes without a filter',
        ) from None
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    found.seccomp_release.argtypes = [ctypes.c_void_p]
    found.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    found.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    ]
    found.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    found.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    found.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    for name in ("seccomp_arch_add", "seccomp_arch_remove"):
        getattr(found, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    found.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    found.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
    return found


@lru_cache(maxsize=1024)
def number(name: str) -> int | None:
    """The call's number on this machine; None where this machine has no such call."""
    found: int = _library().seccomp_syscall_resolve_name(name.encode("ascii", "replace"))
    if found == _NO_SUCH_CALL:
        return YOUNG.get(name)
    return found if found >= 0 else None  # negative: of other machines only


def is_name(name: str) -> bool:
    """Has any machine such a call?"""
    return name in YOUNG or _library().seccomp_syscall_resolve_name(name.encode("ascii", "replace")) != _NO_SUCH_CALL


def number_there(name: str, arch: int) -> int | None:
    """The same on another machine."""
    found: int = _library().seccomp_syscall_resolve_name_arch(arch, name.encode("ascii", "replace"))
    return YOUNG.get(name) if found == _NO_SUCH_CALL else found if found >= 0 else None


@lru_cache(maxsize=4)
def known(arch: int = 0) -> dict[str, int]:
    """Every call of this machine, or of another, that the library, or this file, knows."""
    names = dict(YOUNG)
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    for candidate in range(NUMBERS_END):
        pointer = _library().seccomp_syscall_resolve_num_arch(arch, candidate)
        if pointer:
            names[ctypes.string_at(pointer).decode("ascii")] = candidate
            free(pointer)
    return names


class Program:
    """One filter under construction. default: the action for calls that no rule matches. arch: of libseccomp's tokens; the rules
    still come with this machine's numbers."""

    def __init__(self, default: int, arch: int | None = None) -> None:
        self._default = default
        self._context = _library().seccomp_init(default)
        if not self._context:
            raise MemoryError("seccomp_init")
        if arch is not None:
            self._check(_library().seccomp_arch_add(self._context, arch), "seccomp_arch_add")
            self._check(_library().seccomp_arch_remove(self._context, 0), "seccomp_arch_remove")  # 0: this machine's
        # Another machine's calls (32-bit, x32) have other numbers: none of them is known to be harmless.
        self._check(_library().seccomp_attr_set(self._context, _ATTRIBUTE_BADARCH, ERRNO | 38), "seccomp_attr_set")
        _library().seccomp_attr_set(self._context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)  # since 2.5; slower without

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        _library().seccomp_release(self._context)

    def add(self, number: int, action: int, when: Sequence[Condition] = (), name: str = "") -> None:
        """One rule. One that says what would happen anyway is none."""
        if action == self._default:
            return
        comparisons = (_Comparison * max(1, len(when)))(*(_comparison(condition) for condition in when))
        code = _library().seccomp_rule_add_array(self._context, action, number, len(when), comparisons)
        self._check(code, f"seccomp_rule_add({name or number})")

    def bytes(self) -> bytes:
        """struct sock_filter[], as the kernel takes it."""
        fd = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            self._check(_library().seccomp_export_bpf(self._context, fd), "seccomp_export_bpf")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _check(self, code: int, call: str) -> None:
        if code < 0:
            raise SpecError(f"libseccomp refuses {call}: {os.strerror(-code)}", field="Sandbox.seccomp")


def _comparison(condition: Condition) -> _Comparison:
    masked = condition.operator == "&"
    first, second = (condition.mask, condition.value) if masked else (condition.value, 0)
    return _Comparison(condition.argument, _COMPARE[condition.operator], first, second)
