"""`guestnet guard` and `guestnet forward` on real libvirtds, of guests as virt-install makes them, without a file."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from support.adopted_host import OTHER, WEB, Flow, Host, leased, two_on_default, wires
from support.libvirt_wire import Wire

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.libvirt
DOCUMENT = Path(__file__).parents[2] / "docs/existing-hosts.md"
BESIDE, POOL = "192.168.122.250", "192.168.122.240-192.168.122.250"
POOL_AS_PREFIXES = "192.168.122.240/29, 192.168.122.248/31, 192.168.122.250"
CONNECT = "import socket; s = socket.socket(); s.settimeout(10); s.connect_ex(('192.168.122.1', 8080))"


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    yield made
    made.guestnet("destroy", "--name", "direct", status=None)
    made.clear()


def test_a_running_guest_is_guarded_also_at_its_next_start_and_given_back(host: Host) -> None:
    two_on_default(host)
    before, tap = host.texts(), host.tap("web", WEB)
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        with Flow(sender, receiver, ip) as flow:
            said = host.guestnet("guard", "on", "web")
            assert f"web: NIC {WEB} on network default (tap {tap}): guarded; addresses by DHCP, now {ip}" in said
            flow.forge()
            assert host.guarded() == {tap: WEB}, "nobody else is"
            assert "nothing to do" in host.guestnet("guard", "on", "web")
            assert re.search(rf"direct +web +default .*{tap}", host.guestnet("status"))
            assert "guarded: true  # set without a file" in host.guestnet("import")
            flow.says(BESIDE, "forged: it is not the guest's yet")
            said = host.guestnet("address", "add", "web", POOL)
            assert f"(tap {tap}): guarded; addresses by DHCP, now {ip}, and {POOL_AS_PREFIXES}" in said
            assert f"note: {BESIDE} is in the DHCP range of network 'default'" in said
            flow.says("192.168.122.251", "forged: it is behind the pool")
            flow.says(BESIDE, "beside its lease")
            assert flow.arrives("beside its lease")
            assert f"web.default: {BESIDE}, which others may share" in host.guestnet("address", "list", "web")
            assert f'address: "{BESIDE}/32"' in host.guestnet("import")
            host.guestnet("address", "remove", "web", POOL)
            flow.says(BESIDE, "forged: it is the guest's no more")
            flow.forge()
            said = host.guestnet("guard", "off", "web")
            assert f"web: NIC {WEB} on network default (tap {tap}): not guarded" in said
    assert host.guarded() == {}
    assert host.differences(before) == []
    assert host.files("networks") == {}
    host.guestnet("guard", "on", f"web.{WEB}")
    host.virsh("destroy", "web")
    host.virsh("start", "web")
    assert host.guarded() == {host.tap("web", WEB): WEB}


def test_a_network_is_observed_then_guarded_and_one_domain_is_let_out(host: Host) -> None:
    two_on_default(host)
    before = host.texts()
    taps = {host.tap("web", WEB): WEB, host.tap("other", OTHER): OTHER}
    said = host.guestnet("guard", "observe", "default")
    assert "network default: ports that say nothing themselves are observed" in said
    assert "; running there: other, web" in said
    assert f"would be: other.{OTHER}, web.{WEB}" in host.guestnet("status")
    host.guestnet("guard", "on", "default")
    assert host.guarded() == taps
    assert {port["observed"] for port in host.files("ports").values()} == {False}
    host.guestnet("guard", "off", "other")
    assert host.guarded() == {host.tap("web", WEB): WEB}
    host.guestnet("guard", "off", "default")
    assert host.guarded() == {}
    assert host.differences(before) == []


def test_what_fails_half_way_leaves_all_as_it_was(host: Host) -> None:
    two_on_default(host)
    before = host.texts()
    ports = "/run/libvirt-guestnet/ports"
    # The receipt of the port cannot be written: by then the network and the domain's definition have been changed.
    host.sandbox.run(
        ["sh", "-c", f"mkdir -p -m 700 {ports} && mount --bind {ports} {ports} && mount -o remount,bind,ro {ports}"]
    )
    try:
        said = host.guestnet("guard", "on", "web", status=1)
    finally:
        host.sandbox.run(["umount", ports])
    assert "set guest metadata web" in said
    assert "rolled back: everything is as before" in said, said
    assert host.differences(before) == []
    assert host.guarded() == {}
    assert host.files("networks") == {}


def syn_arrived(host: Host, wire: Wire, port: int) -> bool:
    """Whether a connection of the host to port 8080 of its own address reaches that port of the guest."""
    connect = python_inside(["-c", CONNECT], host.sandbox.root)
    client = threading.Thread(target=lambda: host.sandbox.run(connect, check=False), daemon=True)
    client.start()
    deadline = time.monotonic() + 120
    while (frame := wire._frame(deadline)) is not None:
        packet = Ether(frame)
        if TCP in packet and packet[TCP].dport == port:
            client.join(120)
            return True
    return False


def test_a_forward_follows_the_lease_of_a_guest_that_nobody_guards(host: Host) -> None:
    two_on_default(host)
    before = host.texts()
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        said = host.guestnet("forward", "add", "web", "tcp/8080:80", "--from", "192.168.122.1", "--from", "10.0.0.0/8")
        told = "tcp/8080 at every address of the host to its IPv4 address by DHCP, port 80"
        assert f"{told}, only from 10.0.0.0/8, 192.168.122.1/32" in said
        assert host.guarded() == {}
        assert re.search(rf"192\.168\.122\.1/32 +{ip}:80 +yes", host.guestnet("status"))
        # Nobody in the guest would answer the host's question who has it.
        host.sandbox.run(["ip", "neigh", "replace", ip, "lladdr", WEB, "dev", "virbr0"])
        assert syn_arrived(host, sender, 80)
        assert f"web.default: {told}, only from 10.0.0.0/8, 192.168.122.1/32" in host.guestnet("forward", "list")
        imported = host.guestnet("import")
        assert "guarded: false" in imported
        assert 'services: ["tcp/8080"], to: 80, from: ["10.0.0.0/8", "192.168.122.1/32"] }' in imported
        refused = host.guestnet("forward", "add", "other", "tcp/8000-8100", status=1)
        assert "already forwarded to domain 'web'" in refused
        assert "no forwards" in host.guestnet("forward", "remove", "web", "tcp/8080")
        host.guestnet("forward", "add", "web", "gre", "--at", "192.168.122.1")
        told = "gre at 192.168.122.1 to its IPv4 address by DHCP"
        assert f"web.default: {told}" in host.guestnet("forward", "list")
        assert re.search(rf"192\.168\.122\.1 +gre +\S* *{ip} +yes", host.guestnet("status"))
        assert "services: [gre], at: [192.168.122.1] }" in host.guestnet("import")
        assert "no forwards" in host.guestnet("forward", "remove", "web", "gre", "--at", "192.168.122.1")
    assert host.differences(before) == []
    assert host.files("forwards") == {}


def documented(what: str) -> list[str]:
    """The lines of one block of the document."""
    rest = DOCUMENT.read_text().partition(f"<!-- {what}")[2].partition("-->\n\n")[2]
    return [line.strip() for line in rest.partition("\n\n")[0].splitlines()]


def do(host: Host, what: str) -> None:
    lines = documented(what)
    assert len(lines) == 3
    for line in lines:
        if line.startswith("guestnet "):
            host.guestnet(*line.split()[1:])
        else:
            host.sandbox.run(["sh", "-c", line])


def test_the_same_by_virsh_as_the_document_says(host: Host) -> None:
    two_on_default(host)
    before, tap = host.texts(), host.tap("web", WEB)
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        with Flow(sender, receiver, ip) as flow:
            do(host, "guard on web")
            assert host.guarded() == {tap: WEB}
            flow.forge()
            assert "nothing to do" in host.guestnet("guard", "on", "web"), "it is the same"
            do(host, "guard off web")
            assert host.guarded() == {}
        do(host, "address add web 192.168.122.250")
        assert "nothing to do" in host.guestnet("address", "add", "web", BESIDE), "it is the same"
        assert "not guarded" in host.guestnet("address", "remove", "web", BESIDE)
        do(host, "forward add web tcp/8080:80")
        assert "nothing to do" in host.guestnet("forward", "add", "web", "tcp/8080:80"), "it is the same"
        assert f"{ip}:80" in host.guestnet("status")
        host.guestnet("guard", "on", "web")
        assert host.guarded() == {tap: WEB}
        host.guestnet("guard", "off", "web")
        host.guestnet("forward", "remove", "web", "tcp/8080")
    assert host.differences(before) == [], "and no NIC was unplugged"


def test_what_a_guest_says_of_itself_holds_up_nobody_else(host: Host) -> None:
    """It claims the host's own address, and that guestnet set that: who may edit a domain may write so."""
    two_on_default(host)
    uri, named = "https://libvirt-guestnet.org/xmlns/1", 'name="default" network="default" guarded="yes"'
    port = f'<port mac="{OTHER}" {named}><address ip="192.168.122.1"/></port>'
    claims = f'<domain topology="direct" guest="other">{port}</domain>'
    host.virsh("metadata", "other", uri, "--key", "guestnet", "--live", "--config", "--set", claims)
    said = host.guestnet("guard", "on", "web")
    assert "note: guest other: " in said and "192.168.122.1 is this host's own" in said
    assert host.guarded() == {host.tap("web", WEB): WEB}
    said = host.guestnet("apply", "/tmp/mine.yaml")
    assert "note: domain 'other' is on network 'default', and keeps what guestnet guard, forward or address set" in said
    assert re.search(r"mine +web +default", host.guestnet("status", status=None))
    host.guestnet("destroy", "/tmp/mine.yaml")
    assert host.files("networks")["default"]["topology"] == "direct"
    host.guestnet("destroy", "--name", "direct")
    assert host.files("networks") == {}


def test_no_guest_on_a_bridge_of_the_hosts_gets_the_hosts_address(host: Host) -> None:
    for command in ("link add br7 type bridge", "link set br7 up", "address add 198.51.100.1/24 dev br7"):
        host.sandbox.run(["ip", *command.split()])
    host.domain("web", f"<interface type='bridge'><mac address='{WEB}'/><source bridge='br7'/></interface>")
    said = host.guestnet("address", "add", "web", "198.51.100.0/28", status=1)
    assert "198.51.100.1 (of 198.51.100.0/28) is the host's own" in said
    assert "addresses 198.51.100.2" in host.guestnet("address", "add", "web", "198.51.100.2")
