"""Link-layer roles on a real daemon. Bridges of libvirt's own networks speak the spanning tree protocol by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.libvirt_host import MARK, NETWORK, XMLNS, Host, mac

from libvirt_guestnet.sandbox import Sandbox


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    host = Host(each_sandbox)
    host.networks()
    flat = NETWORK.format(name="flat", number=7, mark=MARK.format(name="flat", number=7))
    host.define("net-define", flat.replace("<bridge name='br-flat'/>", "<bridge name='br-flat' stp='off'/>"))
    host.virsh("net-start", "flat")
    yield host
    for name in host.running():
        host.virsh("destroy", name)
    for name in host.virsh("list", "--all", "--name").split():
        host.virsh("undefine", name)


def policy(network: str, *roles: str) -> str:
    listed = "".join(f'<g:role name="{role}"/>' for role in roles)
    port = f'<g:port mac="{mac(1, 0)}" name="p" network="{network}"><g:address ip="10.61.7.9"/>{listed}</g:port>'
    return f'<g:domain {XMLNS} topology="t" guest="a">{port}</g:domain>'


def forwarded(host: Host) -> str:
    (tap,) = host.nics("a")
    return host.sandbox.run(["cat", f"/sys/class/net/{tap}/brport/group_fwd_mask"]).stdout.strip()


def test_a_domain_starts_with_its_role_unless_the_hosts_bridge_would_believe_it(host: Host) -> None:
    host.guest("a", "one", policy=policy("one", "stp", "lldp"))
    said = host.virsh("start", "a", check=False)
    assert "its role stp lets it speak the spanning tree protocol, in which bridge br-one takes part" in said
    assert host.running() == []
    host.guest("a", "one", policy=policy("one", "lldp"))
    host.virsh("start", "a")
    assert forwarded(host) == "0x4009"
    host.virsh("destroy", "a")
    host.guest("a", "flat", policy=policy("flat", "stp", "lacp", "pppoe"))
    host.virsh("start", "a")
    assert forwarded(host) == "0x5"
    (tap,) = host.nics("a")
    assert "ether type 0x8864" in host.rules(tap) or "ether type 34916" in host.rules(tap)
