"""What `log-drops` writes to the kernel log: it does so in the host's own network namespace only."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import frames
import pytest
from make import ME, ME4, ME6

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.run.nft import nft

TAP = "vmelog0"


@pytest.fixture
def guest() -> Iterator[int]:
    """A guarded tap of the host: what is written here is what its guest sends."""
    assert Path("/proc/self/ns/net").readlink() == Path("/proc/1/ns/net").readlink()
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", TAP.encode(), 0x1002))
    subprocess.run(["ip", "link", "set", TAP, "up"], check=True, timeout=240)
    nft(filters.guard(filters.PortGuard(TAP, ME, (ip_network(ME4), ip_network(ME6)), log=True)))
    yield fd
    os.close(fd)
    nft(filters.release([TAP]))


@pytest.fixture
def kernel_log() -> Iterator[int]:
    """/dev/kmsg from here on: one record a read."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)
    yield log
    os.close(log)


def _said(log: int, seconds: float = 5) -> Iterator[str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            yield os.read(log, 8192).decode(errors="replace").partition(";")[2]
        except BlockingIOError:
            time.sleep(0.05)


SAID = {
    "mac: another's source MAC": ("source MAC", "MAC=ff:ff:ff:ff:ff:ff:52:54:00:00:00:0b:08:00"),
    "arp: another's address": ("ARP", "MACSRC=52:54:00:00:00:0a IPSRC=10.61.1.11"),
    "ipv4: another's source": ("IPv4 source", "SRC=10.61.1.11 "),
    "ipv4: ICMP redirect (RFC 792)": ("ICMP type", "PROTO=ICMP TYPE=5"),
    "dhcp-offer: from port 67": ("DHCP server", "PROTO=UDP SPT=67 DPT=68"),
    "ra: router advertisement": ("ND", "PROTO=ICMPv6 TYPE=134"),
    "vlan: another's ARP in 802.1ad": ("VLAN tag", "IPSRC=10.61.1.11"),
}


@pytest.mark.parametrize("name", SAID)
def test_a_drop_names_port_reason_and_what_was_wrong(guest: int, kernel_log: int, name: str) -> None:
    reason, value = SAID[name]
    os.write(guest, frames.FORGED[name])
    beginning = f"guestnet {TAP} {reason}: IN={TAP} OUT= "
    assert any(line.startswith(beginning) and value in line for line in _said(kernel_log))


def test_honest_frames_and_other_ports_say_nothing(guest: int, kernel_log: int) -> None:
    for frame in frames.HONEST.values():
        os.write(guest, frame)
    assert [line for line in _said(kernel_log, 2) if "guestnet" in line] == []
    nft(filters.guard(filters.PortGuard(TAP, ME)))
    os.write(guest, frames.FORGED["arp: another's address"])
    assert [line for line in _said(kernel_log, 2) if "guestnet" in line] == []


def test_a_flood_fills_no_log(guest: int, kernel_log: int) -> None:
    before = time.monotonic()
    for _ in range(200):
        os.write(guest, frames.FORGED["arp: another's address"])
    said = [line for line in _said(kernel_log, 2) if "guestnet" in line]
    assert 5 <= len(said) <= 5 + 5 * (time.monotonic() - before + 1)
