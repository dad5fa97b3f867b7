"""A host that boots: libvirt starts its networks and guests by itself, and nothing is left of before in /run or the
kernel. What was adopted or taken over is guarded as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.adopted_host import DEFAULT, NIC, OTHER, WEB, Host

from libvirt_guestnet.sandbox import Sandbox

OFFICE = """<network><name>office</name><forward mode='nat'/><bridge name='virbr6'/>
<ip address='10.61.6.1' prefix='24'><dhcp><range start='10.61.6.2' end='10.61.6.99'/></dhcp></ip></network>"""
LAN, LEFT = "52:54:00:aa:00:03", "52:54:00:aa:00:04"
TOPOLOGY = f"""
name: mine
networks:
  default: {{ external: true }}
  lan: {{ external: {{ bridge: br0 }} }}
  office:
    take-over: true
    mode: nat
    bridge: virbr6
    subnets: [10.61.6.0/24]
    dhcp: {{ range: [10.61.6.2, 10.61.6.99] }}
    autostart: true
guests:
  web:
    ports:
      - {{ network: default, mac: "{WEB}", addresses: [192.168.122.50] }}
      - {{ network: lan, mac: "{LAN}", guarded: observe }}
  other: {{ ports: [ {{ network: office, mac: "{OTHER}", addresses: dhcp }} ] }}
"""
# What a boot begins without: processes, files under /run, devices and rules.
ENDED = """
for file in /run/libvirt/qemu/*.pid /run/libvirt/network/*.pid; do kill -9 $(cat $file); done
sleep 1
rm -rf /run/libvirt/* /run/libvirt-guestnet
for link in $(ls /sys/class/net); do case $link in virbr*|vnet*|br0) ip link del $link || :; esac; done
nft flush ruleset
"""


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    yield made
    made.guestnet("destroy", "--name", "mine", "--allow-interrupt", status=None)
    made.clear()
    made.sandbox.run(["sh", "-c", "! ip link del br0 2>/dev/null"], check=False)


def test_an_adopted_host_is_after_a_boot_as_it_was(host: Host) -> None:
    bridge = ["ip", "link", "add", "br0", "up", "type", "bridge"]
    host.sandbox.run(bridge)
    for xml, name in ((DEFAULT, "default"), (OFFICE, "office")):
        host.define("net-define", xml)
        host.virsh("net-start", name)
        host.virsh("net-autostart", name)
    nics = {mac: NIC.format(mac=mac, network=on, more="") for mac, on in ((WEB, "default"), (OTHER, "office"))}
    on_bridge = NIC.format(mac=LAN, network="", more="").replace("type='network'", "type='bridge'")
    on_bridge = on_bridge.replace("network=''", "bridge='br0'").replace("ua-wan", "ua-lan").replace("'1'", "'2'")
    host.domain("web", nics[WEB], on_bridge)
    host.domain("other", nics[OTHER], number=2)
    host.domain("left", NIC.format(mac=LEFT, network="default", more=""), number=3)
    for name in ("web", "other", "left"):
        host.virsh("start", name)
        host.virsh("autostart", name)
    host.guestnet("apply", "/tmp/mine.yaml", topology=TOPOLOGY)
    before = states(host)
    assert before == {WEB: "guarded", LAN: "observed", OTHER: "guarded", LEFT: "trusted"}
    guarded = host.macs()
    host.stop_daemon()
    host.sandbox.run(["sh", "-c", ENDED])
    host.sandbox.run(bridge)  # the host's own comes before libvirt
    host.sandbox.start_libvirtd()
    host.soon(lambda: set(host.running()) == {"web", "other", "left"}, "libvirt has started them")
    assert states(host) == before
    assert host.macs() == guarded
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=TOPOLOGY)
    host.guestnet("destroy", "/tmp/mine.yaml", "--allow-interrupt", topology=TOPOLOGY)
    assert (host.guarded(), set(states(host).values())) == ({}, {"unguarded"})


def states(host: Host) -> dict[str, str]:
    rows = json.loads(host.guestnet("status", "--json", topology=TOPOLOGY, status=None))
    return {row["mac"]: row["state"] for row in rows if row["kind"] == "port"}
