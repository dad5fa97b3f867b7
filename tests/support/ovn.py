"""Hosts with OVN in sandboxes: Debian's packages, unpacked and not installed, with the user-space datapath of Open
vSwitch, as the machine's own kernel has no other. The first host has the databases and northd. Both reach each other by
a cable, the underlay, and a LAN whose one computer is the namespace `lan` of the first."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from libvirt_guestnet.guest import debian
from libvirt_guestnet.sandbox import CACHE, Sandbox

UNDERLAY = {"left": "192.0.2.1", "right": "192.0.2.2"}
LAN_HOST, LAN_HOST6 = "198.18.1.1", "fd61:1::1"
NORTHBOUND = "/run/ovn/ovnnb_db.sock"
PACKAGES = ("ovn-central", "ovn-host")
_SECONDS = 240.0
# Open vSwitch's user-space datapath takes frames as they are, without the checksum that the kernel left to a NIC.
_WRITTEN_CHECKSUMS = """
import ctypes, fcntl, socket, struct, sys
told = ctypes.create_string_buffer(struct.pack("II", 0x17, 0))  # ETHTOOL_STXCSUM
asked = struct.pack("16sP16x", sys.argv[1].encode(), ctypes.addressof(told))
fcntl.ioctl(socket.socket(), 0x8946, asked)
"""
_DAEMON = "--detach --no-chdir --pidfile -vconsole:off -vsyslog:off --log-file"
_SWITCH = f"""set -e
mkdir -p /etc/openvswitch /run/openvswitch /var/log/openvswitch
ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock {_DAEMON}
ovs-vsctl --no-wait init
/usr/lib/openvswitch-switch/ovs-vswitchd --disable-system {_DAEMON}
"""
_DATABASE = """set -e
each=$0 port=$1
ovsdb-server /var/lib/ovn/ovn${each}_db.db --remote=punix:/run/ovn/ovn${each}_db.sock --remote=ptcp:$port:0.0.0.0 \\
    --unixctl=/run/ovn/ovn${each}_db.ctl --detach --no-chdir --pidfile=/run/ovn/ovn${each}_db.pid \\
    -vconsole:off -vsyslog:off --log-file=/var/log/ovn/ovsdb-server-$each.log
"""
_NORTHD = f"ovn-northd --ovnnb-db=unix:/run/ovn/ovnnb_db.sock --ovnsb-db=unix:/run/ovn/ovnsb_db.sock {_DAEMON}"


def unpacked() -> list[list[str]]:
    """What `prepare` of a sandbox needs for the programs to be there."""
    debs = sorted({str(deb) for name in PACKAGES for deb in debian.fetch_with_needs(name, CACHE / "debs")})
    # Nothing in them is a program of the machine's that another one here would replace.
    return [
        [
            "sh",
            "-c",
            'for deb; do dpkg-deb --fsys-tarfile "$deb" | tar -xC / --keep-directory-symlink; done',
            "sh",
            *debs,
        ]
    ]


class Chassis:
    """A host of OVN's, as its own programs see it."""

    def __init__(self, name: str, sandbox: Sandbox, central: str) -> None:
        self.name, self.sandbox, self.central = name, sandbox, central

    def sh(self, script: str, timeout: float = 120.0) -> str:
        return self.sandbox.run(["sh", "-c", script], timeout=timeout).stdout

    def start_switch(self) -> None:
        self.sh(_SWITCH)

    def lay(self, device: str, bridge: str, address: str = "") -> None:
        """Puts the host's end of a cable into a bridge, which has the host's address there."""
        self.sh(
            f"""set -e
            python3 -c '{_WRITTEN_CHECKSUMS}' {device}
            ip link set {device} up
            ovs-vsctl --may-exist add-br {bridge} -- set bridge {bridge} datapath_type=netdev \\
                -- --may-exist add-port {bridge} {device}
            ip link set {bridge} up
            [ -z "{address}" ] || ip address add {address} dev {bridge}"""
        )

    def join(self, mappings: str = "wan:br-wan", encapsulation: str = "geneve") -> None:
        """Has ovn-controller make a chassis of it."""
        ids = {
            "system-id": self.name,
            "hostname": self.name,
            "ovn-remote": f"tcp:{self.central}:6642",
            "ovn-encap-type": encapsulation,
            "ovn-encap-ip": UNDERLAY[self.name],
            "ovn-bridge-mappings": mappings,
            "ovn-bridge-datapath-type": "netdev",
        }
        words = " ".join(f"external-ids:{key}={value}" for key, value in ids.items())
        self.sh(f"mkdir -p /run/ovn /var/log/ovn; ovs-vsctl set open_vswitch . {words}; ovn-controller {_DAEMON}")

    def soon(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not true():
            assert time.monotonic() < deadline, f"not within {_SECONDS:.0f} s: {what}"
            time.sleep(0.05)


class Central(Chassis):
    """The host that has the databases, too."""

    @property
    def northbound(self) -> str:
        """How clients on the machine reach the northbound database."""
        return f"unix:/proc/{self.sandbox.first.pid}/root{NORTHBOUND}"

    def start_central(self) -> None:
        self.sh("mkdir -p /etc/ovn /run/ovn /var/log/ovn /var/lib/ovn")
        for each in ("nb", "sb"):
            self.sh(f"ovsdb-tool create /var/lib/ovn/ovn{each}_db.db /usr/share/ovn/ovn-{each}.ovsschema")
        self.start_northbound()
        self.sandbox.run(["sh", "-c", _DATABASE, "sb", "6642"])
        self.sh(_NORTHD)

    def start_northbound(self) -> None:
        self.sandbox.run(["sh", "-c", _DATABASE, "nb", "6641"])

    def nbctl(self, *words: str) -> str:
        return self.sandbox.run(["ovn-nbctl", f"--db=unix:{NORTHBOUND}", *words]).stdout.strip()

    def rows(self, table: str, *columns: str) -> list[dict[str, object]]:
        """A table's rows, as ovn-nbctl has them."""
        found = json.loads(self.nbctl("--format=json", f"--columns={','.join(columns)}", "list", table))
        return [dict(zip(found["headings"], row, strict=True)) for row in found["data"]]

    def is_up(self, port: str) -> bool:
        return self.nbctl("lsp-get-up", port) == "up"


def cable(left: Sandbox, right: Sandbox, name: str) -> None:
    """A cable between two hosts; nothing of it is ever in the machine's own namespace."""
    ends = [str(each.first.pid) for each in (left, right)]
    words = ["name", name, "netns", ends[0], "type", "veth", "peer", "name", name, "netns", ends[1]]
    subprocess.run(["ip", "link", "add", *words], check=True, timeout=120)


_LAN = f"""set -e
mkdir -p /run/netns
ip netns add lan
ip link add out0 type veth peer name eth0 netns lan
ip netns exec lan sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
ip netns exec lan python3 -c '{_WRITTEN_CHECKSUMS}' eth0
ip -n lan address add {LAN_HOST}/24 dev eth0
ip -n lan address add {LAN_HOST6}/64 dev eth0
ip -n lan link set eth0 up
ip -n lan link set lo up
"""


def two(sandboxes: Mapping[str, Sandbox]) -> tuple[Central, Chassis]:
    """Two chassis over Geneve, the first with the databases, both on the LAN."""
    central = UNDERLAY["left"]
    left = Central("left", sandboxes["left"], central)
    right = Chassis("right", sandboxes["right"], central)
    for name in ("under0", "wan0"):
        cable(left.sandbox, right.sandbox, name)
    left.start_central()
    for each in (left, right):
        each.start_switch()
        each.lay("under0", "br-under", f"{UNDERLAY[each.name]}/24")
        each.lay("wan0", "br-wan")
        each.join()
    left.sh(_LAN)
    left.lay("out0", "br-wan")
    return left, right


def programs_of(host: Chassis) -> Sequence[str]:
    """The daemons of OVN and Open vSwitch that run there."""
    listed = host.sh("ps -eo args= | grep -E '^(ovn|ovsdb|/usr/lib/openvswitch)' || true")
    return sorted(line.split()[0].rpartition("/")[2] for line in listed.splitlines())


# Asks for something by UDP from where it runs, and says what the answer is, or nothing.
ASK = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as asking:
    asking.settimeout(2)
    for _ in range(int(sys.argv[3])):
        asking.sendto(b"hello", (address, port))
        try:
            print(asking.recv(200).decode().split()[0])
            break
        except TimeoutError:
            pass
"""
# Answers whoever asks by UDP with the address that it sees him with.
TELL = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as told:
    told.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    told.bind(("::", 9000))
    print("up", flush=True)
    while True:
        data, client = told.recvfrom(200)
        told.sendto(client[0].removeprefix("::ffff:").encode() + b" \\n", client)
"""


def from_lan(host: Chassis, address: str, port: int, times: int = 20) -> str:
    """What the LAN's computer is answered; "" for nothing."""
    return host.sandbox.run(
        ["ip", "netns", "exec", "lan", "python3", "-c", ASK, address, str(port), str(times)]
    ).stdout.strip()


@contextmanager
def telling(host: Chassis) -> Iterator[None]:
    """The LAN's computer answers."""
    argv = host.sandbox.command(["ip", "netns", "exec", "lan", "python3", "-c", TELL])
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield
        process.kill()


def guestnet(host: Chassis, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb on a topology, on that host."""
    argv = [*host.sandbox.python(["-m", "libvirt_guestnet.cli", *words, "-"])]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=240, check=False)
