"""Two guests as libvirt tells the hooks of them, and the host that they run on.

Guest a is on a bridge and has everything that a port there can have, c is host-routed; a network's name is lan.
"""

from __future__ import annotations

from support.hooks import NS

TAP, MAC, UUID, PORT = "vme0a", "52:54:00:00:00:0a", "63000000-0000-4000-8000-00000000000a", "6300aaaa-0000-4000-8000-0"
GUARDED = """<guestnet:port mac="{mac}" name="p" network="lan" guarded="yes"><guestnet:address ip="{ip}"/>{more}
</guestnet:port>"""


def policy(mac: str, ip: str, more: str = "") -> str:
    port = GUARDED.format(mac=mac, ip=ip, more=more)
    return f'<metadata><guestnet:domain {NS} topology="t" guest="g">{port}</guestnet:domain></metadata>'


def nic(kind: str, tap: str, mac: str, portid: str = "") -> str:
    sources = {
        "bridge": "<source bridge='br0'/>",
        "network": f"<source network='lan' portid='{portid}' bridge='br0'/>",
        "ethernet": "",
        "direct": "<source dev='up0' mode='bridge'/>",
        "vhostuser": "<source type='unix' path='/run/x' mode='client'/>",
    }
    source = sources.get(kind, "")
    return f"<interface type='{kind}'><mac address='{mac}'/>{source}<target dev='{tap}'/></interface>"


def domain(name: str, uuid: str, metadata: str, *nics: str) -> bytes:
    devices = f"<devices>{''.join(nics)}</devices>"
    return f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>{metadata}{devices}</domain>".encode()


FORWARD = '<guestnet:forward protocol="tcp" ports="8080" to="10.61.1.10"/>'
FLOATING = '<guestnet:floating ip="198.18.1.50" to="10.61.1.10"/>'
BEHIND = '<guestnet:behind prefix="10.61.99.0/24"/>'
A = domain("a", UUID, policy(MAC, "10.61.1.10", BEHIND + FORWARD + FLOATING), nic("network", TAP, MAC, PORT))
ROUTED_TAP, ROUTED_MAC, ROUTED_UUID = "vme0c", "52:54:00:00:00:0c", "63000000-0000-4000-8000-00000000000c"
ROUTED = '<guestnet:routed gateway="169.255.30.1" publish="yes" device="up0"/>'
C = domain("c", ROUTED_UUID, policy(ROUTED_MAC, "198.18.1.60", ROUTED), nic("ethernet", ROUTED_TAP, ROUTED_MAC))
SETUP = f"""set -e
ip link add br0 type bridge
ip link add up0 type veth peer name up1
for tap in {TAP} {ROUTED_TAP} vme0b; do ip tuntap add $tap mode tap; done
ip link set {TAP} address fe{MAC[2:]}
ip link set {TAP} master br0
for each in br0 up0 up1 {TAP} {ROUTED_TAP} vme0b; do ip link set $each up; done
ip address add 198.18.1.1/24 dev up0
ip address add 10.61.1.1/24 dev br0
"""
LAN = f"""<hookData><network><name>lan</name><metadata><guestnet:network {NS} topology="t" name="lan">
  <guestnet:subnet prefix="10.61.1.0/24"/></guestnet:network></metadata><bridge name="br0"/>
  <mac address="52:54:00:00:00:99"/><ip address="10.61.1.1" prefix="24"/></network></hookData>""".encode()


def port_created(network: str, mac: str, owner: str, uuid: str, portid: str) -> bytes:
    return f"""<hookData><network><name>{network}</name><bridge name='br0'/><metadata>
<guestnet:network {NS} topology="t" name="{network}"><guestnet:subnet prefix="10.61.1.0/24"/></guestnet:network>
</metadata></network>
<networkport>
  <uuid>{portid}</uuid>
  <owner>
    <name>{owner}</name>
    <uuid>{uuid}</uuid>
  </owner>
  <mac address='{mac}'/>
  <plug type='network' bridge='br0'/>
</networkport></hookData>""".encode()


NEW_PORT = "6300bbbb-0000-4000-8000-000000000001"
