"""What `guestnet doctor` says of a host's own devices, sockets and files: each fault is caused for real, named, mended,
and not named any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from libvirt_guestnet.sandbox import Sandbox, python_inside

MARK = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" name="{}"'
WEB = f"""<network><name>web</name><metadata><g:network {MARK.format("web")}/></metadata><bridge name="br-web"/>
<ip address="10.61.1.1" netmask="255.255.255.0"/></network>"""
LAN = f"""<network><name>lan</name><metadata><g:network {MARK.format("lan")}>{{}}</g:network></metadata>
<forward mode="bridge"/><bridge name="br-lan"/></network>"""
PLAIN, VLAN = '<g:uplink label="l" device="lan0"/>', '<g:uplink label="l" device="up0" vlan="100"/>'
VXLAN = """<g:vxlan vni="5001" port="4789" label="l" device="up0" mtu="1450"><g:remote ip="198.18.7.2"/></g:vxlan>"""
SETUP = """set -e
mkdir -p /run/netns; ip netns add far
ip link add up0 type veth peer name eth0 netns far; ip link set up0 up; ip -n far link set eth0 up
ip link add lan0 type veth peer name eth1 netns far; ip link set lan0 up; ip -n far link set eth1 up
ip addr add 198.18.7.1/24 dev up0; ip -n far addr add 198.18.7.2/24 dev eth0
for each in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $each ] || echo 0 > $each; done
"""


class Doctored:
    """A host, and what the doctor says of it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def sh(self, text: str) -> None:
        self.sandbox.run(["sh", "-c", text])

    def define(self, xml: str) -> None:
        self.sandbox.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=xml)

    def rows(self, *words: str) -> list[dict[str, str]]:
        done = self.sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "doctor", "--json", *words]), check=False)
        rows = json.loads(done.stdout)
        assert done.returncode == any(row["level"] == "must" for row in rows)
        return [row for row in rows if row["level"] != "fine"]

    def said(self, check: str, *words: str) -> list[dict[str, str]]:
        return [row for row in self.rows(*words) if row["check"] == check]


@pytest.fixture(scope="module")
def host(hooked_sandbox: Sandbox) -> Doctored:
    found = Doctored(hooked_sandbox)
    found.sh(SETUP)
    return found


@contextmanager
def network(host: Doctored, name: str, xml: str, *, active: bool = True) -> Iterator[None]:
    host.define(xml)
    try:
        if active:
            host.sh(f"virsh -q net-start {name}")
        yield
    finally:
        host.sh(f"virsh -q net-destroy {name} 2>/dev/null; virsh -q net-undefine {name}")


@pytest.mark.parametrize(
    ("fault", "found", "mend"),
    [
        ("ip link add br-web type bridge", "there is a device br-web already", "ip link del br-web"),
        ("ip addr add 10.61.1.9/24 dev up0", "10.61.1.9 on up0", "ip addr del 10.61.1.9/24 dev up0"),
    ],
)
def test_what_a_network_needs_is_in_use(host: Doctored, fault: str, found: str, mend: str) -> None:
    """libvirt refuses its start for the very reason that was named."""
    with network(host, "web", WEB, active=False):
        assert host.said("network") == []
        host.sh(fault)
        (row,) = host.said("network")
        assert (row["about"], row["level"], found in row["found"]) == ("web", "must", True), row
        refused = host.sandbox.run(["virsh", "-q", "net-start", "web"], check=False)
        assert refused.returncode != 0, "libvirt does not mind"
        host.sh(mend)
        assert host.said("network") == []
        host.sh("virsh -q net-start web")


def test_the_port_of_dns_is_in_use(host: Doctored) -> None:
    with network(host, "web", WEB, active=False):
        listen = "dnsmasq --conf-file=/dev/null --port=53 --no-resolv --pid-file=/tmp/dns.pid"
        host.sh(listen)
        (row,) = host.said("network")
        assert "port 53 at 10.61.1.1 is in use by" in row["found"] and "dnsmasq" in row["found"]
        refused = host.sandbox.run(["virsh", "-q", "net-start", "web"], check=False)
        assert refused.returncode != 0 and "Address already in use" in refused.stderr
        host.sh("kill $(cat /tmp/dns.pid); while kill -0 $(cat /tmp/dns.pid) 2>/dev/null; do sleep 0.05; done")
        assert host.said("network") == []


def test_a_kernel_without_vlans(host: Doctored) -> None:
    """Where the test's kernel has them, nothing is missing, and nothing is said."""
    with network(host, "lan", LAN.format(VLAN), active=False):
        started = host.sandbox.run(["virsh", "-q", "net-start", "lan"], check=False)
        rows = [row for row in host.said("kernel") if row["about"] == "vlan"]
        if started.returncode == 0:
            assert rows == []
            return
        assert "8021q" in started.stderr
        (row,) = rows
        assert row["level"] == "must" and row["found"].endswith("this kernel cannot: device up0.100 does not exist")
        assert "8021q" in row["do"]
    assert [row["level"] for row in host.said("kernel") if row["about"] == "vlan"] == ["note"]


def test_an_uplink_that_is_down_or_without_a_link(host: Doctored) -> None:
    with network(host, "lan", LAN.format(PLAIN)):
        assert (host.said("uplink"), host.said("kernel state")) == ([], [])
        host.sh("ip link set lan0 down")
        (row,) = host.said("kernel state")
        assert "lan0" in row["about"] and row["do"] == "ip link set lan0 up"
        host.sh(row["do"])
        host.sh("ip -n far link set eth1 down")
        (row,) = host.said("uplink")
        assert (row["about"], row["level"]) == ("lan0", "must") and "has no link" in row["found"]
        host.sh("ip -n far link set eth1 up")
        assert (host.said("uplink"), host.said("kernel state")) == ([], [])


def test_a_bridge_that_was_renamed(host: Doctored) -> None:
    with network(host, "web", WEB):
        assert host.said("bridge name") == []
        host.sh("ip link set br-web down; ip link set br-web name other; ip link set other up")
        (row,) = host.said("bridge name")
        assert (row["about"], row["level"]) == ("web", "must") and "br-web is called other now" in row["found"]
        commands = [word.strip() for word in row["do"].split(";")][:-1]
        host.sh("; ".join(commands))
        assert (host.said("bridge name"), host.said("kernel state")) == ([], [])


HOST_YAML = "/etc/libvirt-guestnet/host.yaml"
OURS, HOOK = "/run/libvirt-guestnet", "/etc/libvirt/hooks/qemu.d/50-guestnet"


FAULTS = (
    (f"chmod 777 {OURS}", OURS),
    (f"chmod 777 {OURS}/networks", f"{OURS}/networks"),
    (f"mkdir -p /etc/libvirt-guestnet; touch {HOST_YAML}; chmod 666 {HOST_YAML}", HOST_YAML),
    (f"chown 1000 {HOOK}", HOOK),
)


def test_files_that_others_can_change(host: Doctored) -> None:
    """Each is all that is named: its predecessor is mended by the command that was said."""
    with network(host, "web", WEB):
        assert host.said("permissions") == []
        for fault, about in FAULTS:
            host.sh(fault)
            (row,) = host.said("permissions")
            assert (row["about"], row["level"]) == (about, "must"), row
            host.sh(row["do"])
        assert host.said("permissions") == []


def test_a_switch_of_arptables(host: Doctored) -> None:
    switch = "/proc/sys/net/bridge/bridge-nf-call-arptables"
    if host.sandbox.run(["test", "-e", switch], check=False).returncode != 0:
        pytest.skip("this kernel has no br_netfilter")
    host.sh(f"echo 1 > {switch}")
    (row,) = host.said("bridged frames")
    assert row["about"].endswith("arptables") and "Port security needs neither" in row["found"]
    host.sh(f"echo 0 > {switch}")
    assert host.said("bridged frames") == []


def test_a_path_is_measured_with_packets(host: Doctored) -> None:
    """Guests' packets of 1450 bytes take 1500 on the way to the other host."""
    with network(host, "lan", LAN.format(VXLAN)):
        assert host.said("path", "--packets") == []
        host.sh("ip -n far link set eth0 mtu 1400")
        # A host that receives more than it may is not what cuts a real path: a router's next link is.
        narrow = "ip netns exec far nft 'add table inet t; add chain inet t c { type filter hook input priority 0; };"
        host.sh(f"{narrow} add rule inet t c meta length > 1400 drop'")
        (row,) = host.said("path", "--packets")
        assert (row["about"], row["level"]) == ("lan to 198.18.7.2", "must")
        assert "packets of 1400 bytes arrive" in row["found"] and "take 1500" in row["found"]
        assert "mtu: 1350" in row["do"]
        host.sh("ip -n far link set eth0 mtu 1500; ip netns exec far nft flush ruleset")
        assert host.said("path", "--packets") == []
        host.sh("ip -n far link set eth0 down")
        (row,) = host.said("path", "--packets")
        assert row["level"] == "note" and "answers no echo request" in row["found"]
        host.sh("ip -n far link set eth0 up")


SWITCH = """
import array, fcntl, socket, struct, sys
def ask(data):
    buffer = array.array("B", data)
    with socket.socket() as sock:
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP16x", b"up0", buffer.buffer_info()[0]))
    return buffer.tobytes()
(count,) = struct.unpack_from("=I", ask(struct.pack("=IIQI", 0x37, 0, 1 << 4, 0)), 16)
names = ask(struct.pack("=III", 0x1B, 4, count) + bytes(32 * count))[12:]
names = [names[at : at + 32].split(b"\\0")[0] for at in range(0, 32 * count, 32)]
number, blocks = names.index(b"tx-udp_tnl-segmentation"), [[0, 0] for _ in range((count + 31) // 32)]
blocks[number // 32] = [1 << number % 32, int(sys.argv[1]) << number % 32]
ask(struct.pack("=II", 0x3B, len(blocks)) + b"".join(struct.pack("=II", *each) for each in blocks))
"""


def test_an_offload_that_is_off(host: Doctored) -> None:
    def switch(value: str) -> None:
        """As `ethtool -K`, which not every host has."""
        host.sandbox.run(python_inside(["-c", SWITCH, value]))

    with network(host, "lan", LAN.format(VXLAN)):
        assert host.said("offload") == [], "a veth's driver segments packets of tunnels"
        switch("0")
        (row,) = host.said("offload")
        assert (row["about"], row["level"]) == ("up0", "note")
        assert row["do"] == "ethtool -K up0 tx-udp_tnl-segmentation on"
        switch("1")
        assert host.said("offload") == []
