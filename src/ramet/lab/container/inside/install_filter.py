"""Install a seccomp filter in this process, then become another program: install_filter.py HEX COMMAND...

HEX: the filter, as struct sock_filter has it. It holds through exec, and can't be taken off. See seccomp(2).
"""

import ctypes
import os
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


code = bytes.fromhex(sys.argv[1])
kept = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.addressof(kept))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl(PR_SET_SECCOMP)")
os.execv(sys.argv[2], sys.argv[2:])
