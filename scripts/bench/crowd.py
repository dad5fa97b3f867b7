"""Guarded ports beside the one that is measured: `crowd.py BRIDGE COUNT`, inside of a sandbox.

Each has a tap and a domain of its own, is on the bridge, and is guarded by what its domain's hook would call, a hundred at
once. No guest runs behind it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from libvirt_guestnet import xmlread
from libvirt_guestnet.hook.calls import domain as calls
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState

AT_ONCE = 100
DOMAIN = """<domain><name>crowd{number}</name><uuid>{uuid}</uuid><metadata>
<g:domain xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="bench" guest="g{number}">
<g:port mac="{mac}" name="net" network="net"><g:address ip="{ip4}"/><g:address ip="{ip6}"/></g:port></g:domain></metadata>
<devices><interface type='network'><source network='net' bridge='{bridge}'/><mac address='{mac}'/>
<target dev='crowd{number}'/></interface></devices></domain>"""


def main(bridge: str, count: int) -> None:
    _taps(bridge, count)
    state = UnlockedState()
    for first in range(0, count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, count))
        calls.guard_all([_domain(bridge, number, state) for number in some], state, late=True)


def _taps(bridge: str, count: int) -> None:
    # The kernel's own IPv6 chatter on a thousand taps is no part of the question.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    lines = [f"tuntap add dev crowd{n} mode tap\nlink set crowd{n} master {bridge} up\n" for n in range(count)]
    subprocess.run(["ip", "-batch", "-"], input="".join(lines), text=True, check=True, timeout=300)


def _domain(bridge: str, number: int, state: UnlockedState) -> Domain:
    high, low = divmod(number, 250)
    text = DOMAIN.format(
        bridge=bridge,
        number=number,
        uuid=UUID(int=number + 1),
        mac=f"52:54:01:00:{high:02x}:{low:02x}",
        ip4=f"10.61.{high + 2}.{low + 1}",
        ip6=f"fd61:1::1:{number:x}",
    )
    return bridge_guard.joined(xmlread.parse(text.encode()), state)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
