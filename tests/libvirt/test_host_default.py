"""`guard:` in host.yaml on a real libvirtd: plain domains without metadata, on a NAT network and on a bridge."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from make import ALL, arp, dhcp
from scapy.all import BOOTP, DHCP, Ether  # type: ignore[attr-defined]
from support.libvirt_host import DOMAIN, Host, uuid
from support.libvirt_wire import Wire
from support.own_programs import watching

from libvirt_guestnet.sandbox import Sandbox, python_inside

DEFAULT = """<network><name>default</name><bridge name='virbr0' stp='off'/><forward/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
</ip></network>"""
NIC = "<interface type='{}'><mac address='{}'/><source {}/><model type='rtl8139'/><rom enabled='no'/></interface>"
# The MAC address of each guest's NIC on the network and on the bridge.
MACS = {name: (f"52:54:00:aa:0{number}:01", f"52:54:00:aa:0{number}:02") for number, name in enumerate(("me", "them"))}
PLUGGED = "52:54:00:aa:00:03"
_numbers = itertools.count(1000)


def nics(network: str, bridge: str) -> tuple[str, str]:
    return NIC.format("network", network, "network='default'"), NIC.format("bridge", bridge, "bridge='br0'")


@pytest.fixture(scope="module")
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    host = Host(each_sandbox)
    each_sandbox.run(["sh", "-c", "ip link add br0 type bridge && ip link set br0 up"])
    host.define("net-define", DEFAULT)
    host.virsh("net-start", "default")
    for number, name in enumerate(MACS):
        user = NIC.format("user", f"52:54:00:aa:0{number}:09", "dev='x'").replace("<source dev='x'/>", "")
        xml = DOMAIN.format(name=name, uuid=uuid(number), policy="", nics="".join((*nics(*MACS[name]), user)))
        host.define("define", xml.replace("<metadata></metadata>", ""))
        host.virsh("start", name)
    yield host
    for name in MACS:
        host.virsh("destroy", name, check=False)
        host.virsh("undefine", name)
    host.virsh("net-destroy", "default")


def guestnet(host: Host, *argv: str, status: int = 0) -> str:
    argv_inside = python_inside(["-m", "libvirt_guestnet.cli", *argv], host.sandbox.root)
    done = host.sandbox.run(argv_inside, check=False, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def default(host: Host, guard: str, *, sync: bool = True) -> None:
    """Says so in host.yaml, and has the hooks know."""
    file = "/etc/libvirt-guestnet/host.yaml"
    host.sandbox.run(["sh", "-c", f"mkdir -p ${{0%/*}} && cat > {file}", file], stdin=f"guard: {guard}\n")
    if sync:
        guestnet(host, "hooks", "sync")


def states(host: Host, name: str = "me", status: int = 0) -> dict[str, tuple[str, str]]:
    """By MAC address, the state of a guest's NICs and the reason."""
    rows = json.loads(guestnet(host, "status", "--json", status=status))
    return {row["mac"]: (row["state"], row["reason"]) for row in rows if row["kind"] == "port" and row["guest"] == name}


class Line:
    """What goes from one guest's NIC to the other guest's on the same bridge; `number` 0 is on the network."""

    def __init__(self, host: Host, number: int) -> None:
        self.number, self.mac = number, MACS["me"][number]
        self.sender, self.receiver = (Wire(host.sandbox, name, f"net{number}") for name in MACS)

    def frames(self) -> list[bytes]:
        """What an honest guest never sends: another's MAC address; a DHCP server's answer; on the network, also ARP for
        an address that it has not got."""
        stolen = bytes(Ether(src="52:54:00:aa:00:77", dst=ALL) / arp("192.0.2.7", hw="52:54:00:aa:00:77"))
        rogue = bytes(Ether(src=self.mac, dst=ALL) / dhcp("offer", op=2, sport=67, dport=68, src="192.0.2.7"))
        other = bytes(Ether(src=self.mac, dst=ALL) / arp("192.168.122.1", hw=self.mac))
        return [stolen, rogue] if self.number else [stolen, rogue, other]

    def passing(self, *more: bytes) -> int:
        """How many of these frames arrive; a DHCP question behind them always does."""
        sent, last = [*(more or self.frames())], self.question("discover")
        for _ in range(60):
            self.sender.send(*sent, last)
            with suppress(AssertionError):  # the bridge takes a moment after a start
                heard = self.receiver.receive_until(last, 4)
                return sum(any(each.startswith(frame) for each in heard) for frame in sent)
        raise AssertionError("no honest frame arrives")

    def question(self, kind: str, *options: tuple[str, str]) -> bytes:
        asked = dhcp(kind, mac=self.mac)
        asked[BOOTP].xid = next(_numbers)
        asked[DHCP].options = [("message-type", kind), *options, "end"]
        return bytes(Ether(src=self.mac, dst=ALL) / asked)

    def leased(self) -> str:
        """The address that the host's DHCP server gives it, as it gives it to any guest."""
        offered = self._asked("discover")
        return self._asked("request", ("requested_addr", offered), ("server_id", "192.168.122.1"))

    def _asked(self, kind: str, *options: tuple[str, str]) -> str:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            self.sender.send(self.question(kind, *options))
            soon = time.monotonic() + 2
            while (frame := self.sender._frame(soon)) is not None:
                answer = Ether(frame)
                if BOOTP in answer and answer[BOOTP].op == 2 and bytes(answer[BOOTP].chaddr[:6]).hex(":") == self.mac:
                    return str(answer[BOOTP].yiaddr)
        raise AssertionError(f"no answer to {kind}")

    def honest(self, ip: str) -> int:
        return self.passing(bytes(Ether(src=self.mac, dst=ALL) / arp(ip, hw=self.mac)))


def lines(host: Host, stack: ExitStack) -> list[Line]:
    found = [Line(host, number) for number in (0, 1)]
    for line in found:
        stack.enter_context(line.sender)
        stack.enter_context(line.receiver)
    return found


def rules(host: Host) -> Any:
    return host.guarded(), host.files("ports"), host.files("networks"), host.files("domains")


def test_the_default_covers_what_runs_is_followed_live_and_leaves_nothing(host: Host) -> None:
    both, names = MACS["me"], [mac for macs in MACS.values() for mac in macs]
    with ExitStack() as stack:
        nat, lan = lines(host, stack)
        assert (nat.passing(), lan.passing()) == (3, 2), "nobody has asked for a guard"
        ip = nat.leased()
        assert rules(host) == ({}, {}, {}, {})

        default(host, "observe")
        assert (nat.passing(), lan.passing()) == (3, 2)
        observed = ("observed", "by this host's default (guard: observe in host.yaml)")
        assert {mac: said for mac, said in states(host).items() if mac in both} == dict.fromkeys(both, observed)
        rows = json.loads(guestnet(host, "status", "--json"))
        assert all(sum(row["reasons"].values()) >= 2 for row in rows if row["kind"] == "port" and row["mac"] in both)

        default(host, "all", sync=False)
        assert "hooks.json" in guestnet(host, "doctor", status=1)
        guestnet(host, "hooks", "sync")
        assert (nat.passing(), lan.passing()) == (0, 0)
        assert (nat.honest(ip), lan.honest("192.0.2.5")) == (1, 1), "the lease of before counts"
        assert nat.leased() == ip
        guarded = ("guarded", "by this host's default (guard: all in host.yaml)")
        assert {mac: said for mac, said in states(host).items() if mac in both} == dict.fromkeys(both, guarded)
        assert sorted(host.guarded().values()) == sorted(names)
        assert "BY THIS HOST'S DEFAULT" in guestnet(host, "status")

        host.sandbox.run(["nft", "delete table netdev guestnet"])
        assert set(states(host, status=3).values()) >= {("unguarded", "its tap has no rules in the kernel")}
        host.restart_daemon()
        host.soon(lambda: sorted(host.guarded().values()) == sorted(names), "guarded again after the daemon's restart")
        assert (nat.passing(), nat.honest(ip), lan.honest("192.0.2.5")) == (0, 1, 1)

        default(host, "declared")
        assert rules(host) == ({}, {}, {}, {})
        assert (nat.passing(), lan.passing()) == (3, 2)
        assert states(host)[both[0]] == ("unguarded", "nobody asked for it")


def test_a_nic_of_type_bridge_is_guarded_as_it_is_plugged_in(host: Host) -> None:
    """libvirt calls no hook for it: the service sees it."""
    default(host, "all")
    for name in set(MACS) - set(host.running()):
        host.virsh("start", name)
    with watching(host.sandbox):
        before = host.guarded()
        host.virsh("attach-interface", "me", "bridge", "br0", "--mac", PLUGGED, "--live")
        host.soon(lambda: PLUGGED in host.guarded().values(), "the new NIC is guarded")
        assert before.items() <= host.guarded().items()
        host.unplug("me", PLUGGED, "bridge")
        default(host, "declared")
        host.virsh("attach-interface", "me", "bridge", "br0", "--mac", PLUGGED, "--live")
        time.sleep(3)
        assert host.guarded() == {}, "nobody asks for it"
        host.unplug("me", PLUGGED, "bridge")


def test_starts_and_plugs_are_covered_and_nothing_is_held_up(host: Host) -> None:
    default(host, "all")
    for name in MACS:
        host.virsh("destroy", name)
    assert rules(host)[:2] == ({}, {})
    assert set(rules(host)[2]) == {"default"}
    for name in MACS:
        host.virsh("start", name)
    assert sorted(host.guarded().values()) == sorted(mac for macs in MACS.values() for mac in macs)
    with ExitStack() as stack:
        nat, lan = lines(host, stack)
        assert (nat.passing(), lan.passing()) == (0, 0)
        assert (nat.honest(nat.leased()), lan.honest("192.0.2.5")) == (1, 1)
    host.virsh("attach-interface", "me", "network", "default", "--mac", PLUGGED, "--live")
    host.soon(lambda: PLUGGED in host.guarded().values() and not host.files("plugging"), "the new NIC is guarded")
    host.unplug("me", PLUGGED)
    host.soon(lambda: PLUGGED not in host.guarded().values(), "and forgotten")
    # A fault of ours: no nft.
    host.virsh("destroy", "them")
    host.sandbox.run(["sh", "-c", "mv /usr/sbin/nft /usr/sbin/nft.away"])
    try:
        host.virsh("start", "them")
    finally:
        host.sandbox.run(["sh", "-c", "mv /usr/sbin/nft.away /usr/sbin/nft"])
    guestnet(host, "hooks", "sync")
    assert set(states(host, "them")) == {*MACS["them"]}
    guestnet(host, "hooks", "uninstall")
    assert rules(host) == ({}, {}, {}, {})
