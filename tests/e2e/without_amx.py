"""Runs a command in a process whose kernel refuses AMX tiles: without_amx.py COMMAND ARGS…

A seccomp filter answers arch_prctl(ARCH_REQ_XCOMP_PERM) with EPERM, as an old kernel or a strict
container does. Exit 77 where filters are not allowed.
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
ARCH_PRCTL, REQ_XCOMP_PERM = 158, 0x1023
ALLOW, EPERM = 0x7FFF0000, 0x00050001
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NR_OFFSET, ARG0_OFFSET = 0, 16  # in struct seccomp_data

program = [
    (LOAD, 0, 0, NR_OFFSET),
    (JUMP_EQUAL, 0, 3, ARCH_PRCTL),
    (LOAD, 0, 0, ARG0_OFFSET),
    (JUMP_EQUAL, 0, 1, REQ_XCOMP_PERM),
    (RETURN, 0, 0, EPERM),
    (RETURN, 0, 0, ALLOW),
]


class Filter(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in program))
filter_ = Filter(len(program), ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0
):
    print("no seccomp filters here", file=sys.stderr)
    sys.exit(77)
os.execvp(sys.argv[1], sys.argv[1:])
