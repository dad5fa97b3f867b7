"""Whether KVM truly works here: a /dev/kvm that exists but cannot be opened, or makes no virtual CPU, or runs none, is
common in containers and nested machines.

Run as a program it makes a virtual machine of one page, lets its CPU execute one HLT and exits 0 if that happened; in
a process of its own, because a broken KVM may hang instead of failing. Offsets and numbers are linux/kvm.h's, x86.

That is not enough: seen on a cloud machine whose CPU has neither VMX nor SVM, a /dev/kvm that runs HLT and SeaBIOS but
hangs in every 64-bit kernel. So the CPU must have one of the two.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import mmap
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

_CREATE_VM, _VCPU_MMAP_SIZE, _CREATE_VCPU, _RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION, _GET_SREGS, _SET_SREGS, _SET_REGS = 0x4020AE46, 0x8138AE83, 0x4138AE84, 0x4090AE82
_SREGS_BYTES, _REGS_BYTES = 312, 144
_EXIT_HLT, _EXIT_REASON_OFFSET = 5, 8
_HLT = b"\xf4"
_ADDRESS = 0x1000


@functools.cache
def virt_type() -> str:
    """libvirt's domain type for guests here: "kvm" where it works, else "qemu". Decided once per process, in 30 ms."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not _has_hardware(Path("/proc/cpuinfo").read_text()):
        return "qemu"
    try:
        tried = subprocess.run([sys.executable, "-I", "-S", __file__], timeout=3, capture_output=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "qemu"
    return "kvm" if tried.returncode == 0 else "qemu"


def _has_hardware(cpuinfo: str) -> bool:
    return re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo, re.MULTILINE) is not None


def _halts() -> bool:
    device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page[:1] = _HLT
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, _ADDRESS, mmap.PAGESIZE, where))
    cpu = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    _start_at_page(cpu)
    state = mmap.mmap(cpu, fcntl.ioctl(device, _VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(cpu, _RUN, 0)
    return bool(struct.unpack_from("I", state, _EXIT_REASON_OFFSET)[0] == _EXIT_HLT)


def _start_at_page(cpu: int) -> None:
    """Real mode, code segment at 0, instruction pointer at the page; flags have their always-one bit."""
    segments = bytearray(_SREGS_BYTES)
    fcntl.ioctl(cpu, _GET_SREGS, segments)
    struct.pack_into("QIH", segments, 0, 0, 0xFFFF, 0)
    fcntl.ioctl(cpu, _SET_SREGS, bytes(segments))
    registers = bytearray(_REGS_BYTES)
    struct.pack_into("QQ", registers, 128, _ADDRESS, 2)
    fcntl.ioctl(cpu, _SET_REGS, bytes(registers))


if __name__ == "__main__":
    sys.exit(0 if _halts() else 1)
