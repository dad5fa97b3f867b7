"""The host of a soak: a LAN with computer X, networks of both kinds, and guests in every way they can be defined.

::

    x ── up0 (198.18.1.0/24, fd61:ff::/64)     the host's LAN
    one, two       marked by hand; `two` is a nat network          g0 … g3: metadata by hand, or none
    web, direct    the file's: nat, and host-routed                f0, f1: the file's guests, with domains of their own
    plain          knows nothing of us
    safe           the bystander's, of which no operation takes anything

All XML lies in FOLDER, so that every operation is a line of shell.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

from libvirt_guestnet.sandbox import Sandbox, python_inside

FOLDER = "/tmp/soak"
NAMESPACE = "https://libvirt-guestnet.org/xmlns/1"
HOST, HOST6, X, X6 = "198.18.1.1", "fd61:ff::1", "198.18.1.9", "fd61:ff::9"
BY_HAND, OF_FILE, FILES = ("g0", "g1", "g2", "g3"), ("f0", "f1"), ("0", "1", "2")
NETWORKS, VARIANTS = ("one", "two", "plain"), ("0", "1", "2", "3", "4", "5")
NUMBERS = {"one": 1, "two": 2, "safe": 3, "plain": 9}
BYSTANDER, NEXT = "bystander", "next"
PORT = 5300

_LAN = f"""set -e
ip netns add x
ip link add up0 type veth peer name eth0 netns x
echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad
ip netns exec x sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
ip address add {HOST}/24 dev up0; ip address add {HOST6}/64 dev up0; ip link set up0 up
ip -n x address add {X}/24 dev eth0; ip -n x address add {X6}/64 dev eth0; ip -n x link set eth0 up
"""
_NETWORK = f"""<network><name>{{name}}</name>
<metadata><g:network xmlns:g="{NAMESPACE}" topology="hand" name="{{name}}"><g:subnet prefix="10.61.{{number}}.0/24"/>
<g:subnet prefix="fd61:{{number}}::/64"/></g:network></metadata>{{forward}}<bridge name='br-{{name}}'/>
<ip address='10.61.{{number}}.1' netmask='255.255.255.0'/><ip family='ipv6' address='fd61:{{number}}::1' prefix='64'/>
</network>"""
_PLAIN = """<network><name>plain</name><bridge name='br-plain'/>
<ip address='10.61.9.1' netmask='255.255.255.0'/></network>"""
# No guest kernel: 8 MiB and nothing to boot. A disk is there for snapshots.
_DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{policy}</metadata>
<memory unit='MiB'>8</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
<features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu><on_crash>destroy</on_crash>
<devices><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{folder}/{name}.qcow2'/>
<target dev='hda' bus='ide'/></disk>{nics}</devices></domain>"""
# Without its boot ROM, which would take a whole processor.
_NIC = """<interface type='network'><source network='{network}'/><model type='rtl8139'/><mac address='{mac}'/>
{isolated}<rom enabled='no'/></interface>"""
_TOPOLOGY = f"""name: file
physical-networks: {{{{ lan: {{{{ subnets: [198.18.1.0/24, "fd61:ff::/64"], host: [{HOST}, "{HOST6}"] }}}} }}}}
networks:
  web: {{{{ mode: nat, physical-network: lan, subnets: [10.61.5.0/24, "fd61:5::/64"], isolated-ports: {{isolated}} }}}}
  direct: {{{{ mode: host-routed, physical-network: lan }}}}
guests:
  f0: {{{{ ports: [ {{first}} ] }}}}
  f1: {{{{ ports: [ {{second}} ] }}}}
"""


def hooks(root: Path) -> list[list[str]]:
    """What a sandbox has to do before its daemon starts: libvirt looks for hooks only then."""
    code = "from pathlib import Path; from libvirt_guestnet.install.hook_files import install; install(Path('/'), True)"
    # Nobody needs it, and libvirt 11.3 may wait for ever for its thread when it is told to end while it still starts.
    without = ["sh", "-c", "rm -f /usr/lib/*/libvirt/connection-driver/libvirt_driver_nodedev.so"]
    return [without, python_inside(["-c", code], root)]


def mac(number: int, nic: int) -> str:
    return f"52:54:00:00:{number:02x}:{nic:02x}"


def addresses(network: int, number: int, nic: int) -> tuple[str, str]:
    return f"10.61.{network}.{10 * number + nic + 20}", f"fd61:{network}::{number:x}{nic:x}"


def files() -> dict[str, str]:
    """By name, every file that operations name."""
    found = {f"net-{name}.xml": _network(name, NUMBERS[name]) for name in ("one", "two", "safe")}
    found["net-plain.xml"] = _PLAIN
    for number, name in enumerate(BY_HAND, start=1):
        for variant in VARIANTS:
            found[f"{name}-{variant}.xml"] = _by_hand(name, number, int(variant))
            found[f"{name}-policy-{variant}.xml"] = policy(name, number, int(variant))
        for nic, network in itertools.product(range(3), NETWORKS):
            found[f"{name}-nic{nic}-{network}.xml"] = nic_xml(number, nic, network)
    for number, name in enumerate(OF_FILE, start=11):
        found[f"{name}-0.xml"] = domain(name, number, "", "")
    for number, name in ((21, BYSTANDER), (22, NEXT)):
        found[f"{name}-0.xml"] = domain(name, number, policy(name, number, 0, ("safe",)), nic_xml(number, 0, "safe"))
    return {**found, **{f"file-{name}.yaml": _topology(int(name)) for name in FILES}}


def _network(name: str, number: int) -> str:
    return _NETWORK.format(name=name, number=number, forward="<forward mode='nat'/>" if name == "two" else "")


def nic_xml(number: int, nic: int, network: str) -> str:
    isolated = "<port isolated='yes'/>" if network == "one" and number % 2 else ""
    return _NIC.format(network=network, mac=mac(number, nic), isolated=isolated)


def domain(name: str, number: int, policy: str, nics: str) -> str:
    uuid = f"62000000-0000-4000-8000-{number:012d}"
    return _DOMAIN.format(name=name, uuid=uuid, policy=policy, nics=nics, folder=FOLDER)


def _by_hand(name: str, number: int, variant: int) -> str:
    """Its NICs are on one or two of the networks; every third variant leaves the policy to the networks."""
    networks = (("one",), ("two",), ("one", "two"), ("two", "one"), ("two", "plain"), ("plain", "one"))[variant]
    nics = "".join(nic_xml(number, nic, network) for nic, network in enumerate(networks))
    return domain(name, number, policy(name, number, variant) if variant % 3 else "", nics)


def policy(name: str, number: int, variant: int, networks: tuple[str, ...] = NETWORKS) -> str:
    """Of each NIC on each network; forwards to the first on the nat network, if the variant has some."""
    ports = "".join(_port(number, nic, network, variant) for nic, network in itertools.product(range(3), networks))
    return f'<g:domain xmlns:g="{NAMESPACE}" topology="hand" guest="{name}">{ports}</g:domain>'


def _port(number: int, nic: int, network: str, variant: int) -> str:
    four, six = addresses(NUMBERS[network], number, nic)
    forwards = ""
    if network == "two" and nic == 0 and variant % 2:
        forwards = (
            f'<g:forward at="{HOST}" protocol="udp" ports="{PORT + number}" to="{four}" first="53"/>'
            f'<g:floating ip="198.18.1.{100 + number}" to="{four}"/>'
        )
    return (
        f'<g:port mac="{mac(number, nic)}" name="p{nic}{network}" network="{network}">'
        f'<g:address ip="{four}"/><g:address ip="{six}"/>{forwards}</g:port>'
    )


def _topology(variant: int) -> str:
    forward = f"forwards: [ {{ services: [udp/{PORT + 11}], at: [{HOST}], to: 53 }} ], floating: [198.18.1.111]"
    web = '{{ network: web, addresses: [10.61.5.{0}, "fd61:5::{0}"]{1} }}'
    routed = '{{ network: direct, addresses: [198.18.1.{0}, "fd61:ff::{0}"] }}'.format
    first = [web.format(10, ", " + forward if variant != 1 else "")]
    second = [web.format(11 + variant, ""), routed(50 + variant)] if variant != 2 else [routed(50)]
    isolated = "true" if variant == 1 else "false"
    return _TOPOLOGY.format(isolated=isolated, first=", ".join(first), second=", ".join(second))


def disk() -> bytes:
    """An empty qcow2 image of 1 MiB: its header, and tables that count the header's and their own four clusters."""
    fields = (b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 0x30000, 0x10000, 1, 0, 0, 0, 0, 0, 4, 104)
    image = bytearray(0x40000)
    struct.pack_into(">4sIQIIQIIQQIIQQQQII", image, 0, *fields)
    struct.pack_into(">Q", image, 0x10000, 0x20000)
    struct.pack_into(">4H", image, 0x20000, 1, 1, 1, 1)
    return bytes(image)


def prepare(sandbox: Sandbox) -> None:
    """Makes all of it; the bystander runs afterwards."""
    sandbox.run(["sh", "-c", f"mkdir {FOLDER}; {_LAN}"])
    inside = f"/proc/{sandbox.first.pid}/root{FOLDER}"
    for name, text in files().items():
        _write(f"{inside}/{name}", text.encode())
    names = [*BY_HAND, *OF_FILE, BYSTANDER, NEXT]
    for name in names:
        _write(f"{inside}/{name}.qcow2", disk())
    virsh = [f"net-define {FOLDER}/net-{net}.xml; net-start {net}" for net in (*NETWORKS, "safe")]
    virsh += [f"define {FOLDER}/{name}-0.xml" for name in names]
    sandbox.run(["virsh", "-q", "; ".join([*virsh, f"start {BYSTANDER}"])], timeout=120)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
