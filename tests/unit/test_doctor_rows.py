"""`guestnet doctor` on made-up hosts: every row it can say, and that it says nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from steps import steps

from libvirt_guestnet import topology
from libvirt_guestnet.cli.doctor import text
from libvirt_guestnet.datapath.firewalls.chains import RefusingChain
from libvirt_guestnet.datapath.firewalls.nftables import Nftables
from libvirt_guestnet.datapath.firewalls.registry import IN_NFTABLES, IPTABLES
from libvirt_guestnet.doctor import host_ways, path
from libvirt_guestnet.doctor.claimed import claimed
from libvirt_guestnet.doctor.facts import asleep, kernel_features, wanted_by
from libvirt_guestnet.doctor.finding import FINE, MUST, NOTE, Finding
from libvirt_guestnet.doctor.host_facts import Asleep, Claimed, HostFacts, NetworkFacts
from libvirt_guestnet.doctor.judge import FEATURES, judge
from libvirt_guestnet.doctor.ways import InUse, Loose, Measured, Renamed, SilentVlan, WayFacts
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import LeftOut
from libvirt_guestnet.importing.survey import nic_named
from libvirt_guestnet.install.hook_files import HookStatus
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.drift import Drift
from libvirt_guestnet.model.held_addresses import Refusal
from libvirt_guestnet.status.unguarded import UnguardedRow

NAT = NetworkFacts("web", "br-web", "nat", frozenset({4, 6}), reached=True)
ISOLATED = NetworkFacts("in", "br-in", "isolated", frozenset({4}), reached=True)
LAN = NetworkFacts("lan", "br0", "bridge")
ROUTED = NetworkFacts("vme1", "vme1", "host-routed")
UNTRANSLATED = NetworkFacts("public", "br-public", "nat", frozenset({4, 6}), reached=True, untranslated=True)
IN_VRF = replace(ROUTED, vrf="red")
HOOK = HookStatus("qemu", "/etc/h", installed=True, current=True, restart_needed=False)
OWN = RefusingChain("inet filter forward", "forward", (4, 6), "its policy is drop")
FIREWALLD = RefusingChain(
    "inet firewalld filter_FORWARD",
    "forward",
    (4, 6),
    "it ends in a reject",
    "firewalld",
    dnat=True,
    inward=frozenset({"br-public"}),
    outward=frozenset({"br-public"}),
)
DOCKER = RefusingChain("iptables FORWARD", "forward", (4,), "its policy is DROP", "docker", ours=True, libvirts=True)


def said(facts: HostFacts, check: str) -> list[tuple[str, str, str, str]]:
    return [(r.level, r.about, r.found, r.do) for r in judge(facts) if r.check == check and r.level != FINE]


def test_a_host_without_the_checksum_guard_is_told_why() -> None:
    (row,) = [row for row in judge(HostFacts(offload="no BTF")) if row.check == "checksum guard"]
    assert (row.level, row.found.endswith(": no BTF"), "BTF" in row.do) == (MUST, True, True)
    (row,) = [row for row in judge(HostFacts(offload=None)) if row.check == "checksum guard"]
    assert (row.level, row.do) == (NOTE, "run guestnet doctor as root")


def test_nothing_is_wrong() -> None:
    healthy = HostFacts(
        hooks=(HOOK,),
        kernel=dict.fromkeys(FEATURES, True),
        networks=(NAT, ISOLATED, LAN),
        forwarding={4: True, 6: True},
        bridged={4: False},
        chains=(DOCKER,),
        labels={"lan1": "eth1"},
        devices=frozenset({"eth1"}),
    )
    rows = judge(healthy)
    assert {row.level for row in rows} == {FINE}
    assert {row.check for row in rows} == {
        "libvirt",
        "hooks",
        "library",
        "kernel",
        "checksum guard",
        "kernel state",
        "address",
        "forwarding",
        "labels",
        "firewall",
        "network manager",
    }
    assert text(rows) == f"{len(rows)} of {len(rows)} things are fine"


CASES = {
    "a router that somebody undefined": (
        HostFacts(left_routers={"edge": "t"}),
        "router",
        NOTE,
        "and no domain",
        "guestnet destroy --name t, or",
    ),
    "one of before": (HostFacts(left_routers={"edge": ""}), "router", NOTE, "and no domain", "rm -r /var/lib/"),
    "an address of two": (
        HostFacts(claimed=(Claimed("a b", "10.0.0.5 on 'web' is claimed by 'a' and 'b'"),)),
        "metadata",
        NOTE,
        "10.0.0.5 on 'web'",
        "virsh dumpxml --inactive",
    ),
    "what import leaves out": (
        HostFacts(left_out=(LeftOut("domain 'a'", "it is transient"),)),
        "import",
        NOTE,
        "`guestnet import` leaves it out: it is transient",
        "",
    ),
    "a dispatcher": (
        HostFacts(hooks=(replace(HOOK, run_by="/etc/libvirt/hooks/qemu"),)),
        "hooks",
        MUST,
        "/etc/libvirt/hooks/qemu runs /etc/h a second time",
        "take that out of it",
    ),
    "a tap that is down": (
        HostFacts(wrong=(Drift("guest", "a", "vme0", "is down", "ip link set vme0 up"),)),
        "kernel state",
        MUST,
        "is down",
        "ip link set vme0 up",
    ),
    "an observed port": (
        HostFacts(observed=("a 52:54:00:00:00:01",)),
        "ports",
        NOTE,
        "only observed",
        "guestnet suggest",
    ),
    "not at boot": (
        HostFacts(asleep=(Asleep("default", ("a",)),)),
        "network",
        MUST,
        "neither are a",
        "net-autostart default",
    ),
    "not active": (
        HostFacts(asleep=(Asleep("x", now=("b", "c")),)),
        "network",
        NOTE,
        "b, c cannot start",
        "net-start x",
    ),
    "somebody's address": (
        HostFacts(
            taken=(Refusal("domain 'a'", "address 192.0.2.1 is this host's own, on device up0", "give it another"),)
        ),
        "address",
        MUST,
        "address 192.0.2.1 is this host's own, on device up0; its next start is refused",
        "give it another",
    ),
    "no libvirt": (HostFacts(libvirt=None), "libvirt", MUST, "no libvirt daemon is installed", "install the package"),
    "old libvirt": (HostFacts(libvirt=(6, 0, 0)), "libvirt", MUST, "6.0.0 runs no hooks", "upgrade libvirt to 6.5.0"),
    "no answer": (HostFacts(unreachable="no socket\nstart it"), "libvirt", MUST, "no socket", "start it"),
    "no hook": (HostFacts(hooks=(replace(HOOK, installed=False),)), "hooks", MUST, "/etc/h is not in", "hooks install"),
    "old hook": (HostFacts(hooks=(replace(HOOK, current=False),)), "hooks", MUST, "another version", "hooks install"),
    "restart": (
        HostFacts(hooks=(replace(HOOK, restart_needed=True),)),
        "hooks",
        MUST,
        "before its",
        "systemctl restart",
    ),
    "loose": (HostFacts(loose="/opt can be changed: move it"), "library", MUST, "/opt can be changed", "move it"),
    "any owner": (HostFacts(loose="/opt: move it", hooks=(HOOK,)), "library", NOTE, "/opt", "move it"),
    "no ingress": (HostFacts(kernel={"netdev ingress": False}), "kernel", MUST, "port sec", "CONFIG_NF_TABLES_NETDEV;"),
    "no vxlan": (HostFacts(kernel={"vxlan": False}), "kernel", NOTE, "this kernel cannot", "the module vxlan"),
    "vxlan wanted": (
        *(HostFacts(kernel={"vxlan": False}, needed=frozenset({"vxlan"})), "kernel", MUST),
        *("this kernel cannot", "CONFIG_VXLAN and the module vxlan"),
    ),
    "unknown": (HostFacts(kernel={"vlan filtering": None}), "kernel", NOTE, "cannot be told", ""),
    "stale": (HostFacts(stale=("vnet9",)), "receipts", MUST, "no such tap", "guestnet hooks sync"),
    "unguarded": (HostFacts(unguarded=(("vnet9", "br0"),)), "ports", MUST, "is on br0", "guestnet hooks sync"),
    "unmapped": (HostFacts(labels={"lan1": ""}), "labels", MUST, "no device", "write lan1: DEVICE"),
    "device gone": (HostFacts(labels={"lan1": "eth9"}), "labels", MUST, "mapped to eth9, which", "write lan1: DEVICE"),
    "forwarding": (
        *(HostFacts(networks=(NAT, ISOLATED, LAN), forwarding={4: False}), "forwarding", MUST),
        *("is off, and the host forwards for web, in", "sysctl -w net.ipv4.ip_forward=1"),
    ),
    "not root": (HostFacts(chains=None), "firewall", NOTE, "only root", "as root"),
    "docker only": (HostFacts(bridged={4: True}), "bridged frames", NOTE, "walk the forward chains", ""),
    "docker": (
        *(HostFacts(bridged={4: True}, networks=(NAT, LAN), chains=(DOCKER,)), "bridged frames", MUST),
        *("iptables FORWARD refuses: guests of lan cannot", "sysctl -w net.bridge.bridge-nf-call-iptables=0"),
    ),
    "isolated": (
        *(HostFacts(bridged={6: True}, networks=(replace(NAT, isolated=frozenset({6})),)), "bridged frames", MUST),
        *("isolated ports of web get no answer from", "sysctl -w net.bridge.bridge-nf-call-ip6tables=0"),
    ),
    "a bridge that is there": (
        HostFacts(ways=WayFacts(in_use=(InUse("web", "there is a device br-web", "ip link del br-web"),))),
        "network",
        MUST,
        "is not active and cannot start: there is a device br-web",
        "ip link del",
    ),
    "no link": (
        *(HostFacts(ways=WayFacts(cut=(("eth1", "lan, dmz"),))), "uplink", MUST),
        *("is up, but has no link: nothing leaves or comes by it, for lan, dmz", "cable"),
    ),
    "a silent VLAN": (
        *(HostFacts(ways=WayFacts(silent=(SilentVlan("lan", "eth1.100", "eth1", 0, 9, 5),))), "vlan", NOTE),
        *("received nothing in 5 minutes, and eth1 has: does the switch have VLAN 100", "tcpdump -eni eth1 vlan"),
    ),
    "a renamed bridge": (
        *(HostFacts(ways=WayFacts(renamed=(Renamed("web", "br-web", "br7", ("edge", "a")),))), "bridge name", MUST),
        *("bridge br-web is called br7 now", "ip link set br7 name br-web"),
    ),
    "segments": (
        *(HostFacts(ways=WayFacts(unsegmented=(("eth1", "vx"),))), "offload", NOTE),
        *("leaves it to the processor", "ethtool -K eth1 tx-udp_tnl-segmentation on"),
    ),
    "a short queue": (
        *(HostFacts(ways=WayFacts(dropped=7)), "backlog", NOTE),
        *("7 frames were dropped", "sysctl -w net.core.netdev_max_backlog=4000"),
    ),
    "loose files": (
        *(HostFacts(ways=WayFacts(loose=(Loose("/etc/x", "can be changed", "chmod go-w /etc/x"),))), "permissions"),
        *(MUST, "can be changed", "chmod go-w /etc/x"),
    ),
    "a narrow path": (
        *(HostFacts(ways=WayFacts(measured=(Measured("vx", "192.0.2.2", 1550, 1500),))), "path", MUST),
        *("packets of 1500 bytes arrive, larger ones vanish, and this network's take 1550", "or say mtu: 1450"),
    ),
    "a narrow path of IPv6": (
        *(HostFacts(ways=WayFacts(measured=(Measured("vx", "2001:db8::2", 1570, 1500),))), "path", MUST),
        *("and this network's take 1570", "or say mtu: 1430"),
    ),
    "a deaf path": (
        *(HostFacts(ways=WayFacts(measured=(Measured("vx", "192.0.2.2", 1550, 0),))), "path", NOTE),
        *("answers no echo request", "ping 192.0.2.2"),
    ),
    "no path": (
        *(HostFacts(ways=WayFacts(measured=(Measured("vx", ""),))), "path", NOTE),
        *("names a multicast group", ""),
    ),
    "arptables": (
        *(HostFacts(ways=WayFacts(arptables=True)), "bridged frames", NOTE),
        *("Port security needs neither", "sysctl -w net.bridge.bridge-nf-call-arptables=0"),
    ),
    "vlan wanted": (
        *(HostFacts(kernel={"vlan": False}, needed=frozenset({"vlan"}), wanting={"vlan": "eth1.100"}), "kernel"),
        *(MUST, "this kernel cannot: device eth1.100 does not exist", "the module 8021q"),
    ),
    "legacy": (HostFacts(legacy={"ip": ["filter"]}), "iptables-legacy", NOTE, "(filter)", "iptables-legacy -S"),
    "active": (HostFacts(firewalls=("ufw",)), "firewall", NOTE, "is active", ""),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_row(name: str) -> None:
    facts, check, level, found, do = CASES[name]
    [(its_level, _, its_found, its_do)] = said(facts, check)
    assert (its_level, found in its_found, do in its_do) == (level, True, True), (its_found, its_do)
    row = next(row for row in judge(facts) if row.level == level)
    assert f"{level.upper()}: {check}" in text([row])


@pytest.mark.parametrize(
    "silent",
    [SilentVlan("lan", "eth1.100", "eth1", *counts) for counts in ((1, 9, 5), (0, 0, 5), (0, 9, 1))],
)
def test_a_vlan_is_silent_only_while_others_speak_and_for_a_while(silent: SilentVlan) -> None:
    assert said(HostFacts(ways=WayFacts(silent=(silent,))), "vlan") == []


def test_a_path_that_is_wide_enough() -> None:
    (row,) = [row for row in judge(HostFacts(ways=WayFacts(measured=(Measured("vx", "::1", 1570, 1570),)))) if row.check == "path"]  # fmt: skip  # noqa: E501
    assert (row.level, row.found) == (FINE, "packets of 1570 bytes arrive whole")


@pytest.mark.parametrize(("limit", "expected"), [(1500, 1500), (1550, 1550), (9000, 1550), (101, 101), (99, 0)])
def test_the_largest_packet_is_searched_for(limit: int, expected: int) -> None:
    asked: list[int] = []

    def passes(size: int) -> bool:
        asked.append(size)
        return size <= limit

    assert path.search(passes, 1550) == expected
    assert len(asked) < 14


def test_files_that_others_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root owns what is judged, who runs this does here."""
    monkeypatch.setattr(host_ways, "OWNER", os.getuid())
    run, etc = tmp_path / "run", tmp_path / "etc"
    for folder in (run, run / "ports", etc):
        folder.mkdir(mode=0o700)
    (etc / "host.yaml").write_text("")
    (etc / "host.yaml").chmod(0o644)

    def found() -> list[tuple[str, str]]:
        rows = host_ways.loose(str(run), etc)
        return [(str(Path(each.path).relative_to(tmp_path)), each.do.split()[0]) for each in rows if str(tmp_path) in each.path]  # fmt: skip  # noqa: E501

    assert found() == []
    for path_, mode in ((run, 0o755), (run / "ports", 0o777), (etc / "host.yaml", 0o664), (etc, 0o777)):
        path_.chmod(mode)
    assert found() == [(path_, "chmod") for path_ in ("run", "run/ports", "etc", "etc/host.yaml")]
    monkeypatch.setattr(host_ways, "OWNER", os.getuid() + 1)
    assert {do for _, do in found()} == {"chown"}


def test_a_nic_that_nobody_can_guard_is_said_once() -> None:
    nic = UnguardedRow("", "a", "52:54:00:00:00:01", "user", "", "a program makes connections", "nat", False)
    left = LeftOut(nic_named("a", nic.mac), "a program makes connections; use nat")
    facts = HostFacts(unguardable=(nic,), left_out=(left,))
    assert said(facts, "import") == []
    assert [about for _, about, _, _ in said(facts, "ports")] == [f"a {nic.mac}"]


@pytest.mark.parametrize(
    ("chain", "networks", "expected"),
    [
        (OWN, (NAT,), ["web cannot get out", "web cannot be reached"]),
        (OWN, (ISOLATED,), ["in cannot be reached"]),
        (OWN, (replace(ISOLATED, reached=False), LAN), []),
        (OWN._replace(inward=frozenset({"br-*"})), (NAT,), ["web cannot be reached"]),
        (OWN._replace(inward=frozenset({"br-*"}), outward=frozenset({"br-web"})), (NAT,), []),
        (OWN._replace(versions=(6,)), (ISOLATED,), []),
        (OWN._replace(dnat=True), (NAT,), ["web cannot get out"]),
        (DOCKER, (NAT, ISOLATED), []),
        # libvirt's rules are in nftables, and its accepts do not count here.
        (DOCKER._replace(libvirts=False), (NAT, ISOLATED), ["web cannot get out"]),
        (DOCKER._replace(ours=False), (NAT, ISOLATED), ["web, in cannot be reached"]),
        (DOCKER, (ROUTED,), []),
        (DOCKER._replace(ours=False), (ROUTED,), ["vme1 cannot get out", "vme1 cannot be reached"]),
        (OWN._replace(dnat=True), (ROUTED,), ["vme1 cannot get out", "vme1 cannot be reached"]),
        # firewalld passes what is translated, and by name what is in libvirt's zones; for the rest it must know us.
        (FIREWALLD, (UNTRANSLATED,), ["public cannot be reached"]),
        (FIREWALLD, (ROUTED,), ["vme1 cannot get out", "vme1 cannot be reached"]),
        (FIREWALLD._replace(ours=True), (UNTRANSLATED, ROUTED), []),
        # What comes from a VRF does not come from a device in it.
        (OWN._replace(inward=frozenset({"vme*"}), outward=frozenset({"vme*"})), (IN_VRF,), ["vme1 cannot get out"]),
        (OWN._replace(within=frozenset({"vme*"}), outward=frozenset({"vme*"})), (IN_VRF,), []),
        (OWN._replace(inward=frozenset({"red"}), outward=frozenset({"vme*"})), (IN_VRF,), []),
        (DOCKER, (IN_VRF,), []),
    ],
)
def test_forward_chains(chain: RefusingChain, networks: tuple[NetworkFacts, ...], expected: list[str]) -> None:
    rows = said(HostFacts(chains=(chain,), networks=networks), "firewall")
    assert [found.rpartition("guests of ")[2] for _, _, found, _ in rows] == expected
    assert {(level, about) for level, about, _, _ in rows} <= {(MUST, chain.name)}


def test_the_hosts_own_chain() -> None:
    chain = RefusingChain("inet filter input", "input", (4, 6), "it ends in a reject")
    [(level, about, found, do)] = said(HostFacts(chains=(chain,), networks=(NAT, LAN, ROUTED)), "firewall")
    assert (level, about, do) == (NOTE, chain.name, 'nft insert rule inet filter input iifname "br-web" accept')
    assert "guests of web get neither" in found
    served = HostFacts(chains=(chain._replace(inward=frozenset({"br-web"})),), networks=(NAT,))
    assert said(served, "firewall") == []


@pytest.mark.parametrize(
    ("tool", "name", "do"),
    [
        ("nft", "inet f c", "nft insert rule inet f c RULE, for each RULE of 'iifname \"br-web\" accept' 'oifname"),
        (
            "firewalld",
            "inet firewalld c",
            "firewall-cmd --permanent --zone=libvirt --add-interface=br-web && firewall-",
        ),
        ("ufw", "iptables FORWARD", "ufw route allow in on br-web && ufw route allow out on br-web"),
        ("docker", "iptables FORWARD", "iptables -I DOCKER-USER -i br-web -j ACCEPT && iptables -I DOCKER-USER -o br-"),
        ("iptables", "ip6tables FORWARD", "ip6tables -I FORWARD -i br-web -j ACCEPT"),
    ],
)
def test_advice_is_in_the_words_of_the_tool(tool: str, name: str, do: str) -> None:
    chain = RefusingChain(name, "forward", (4, 6), "its policy is drop", tool)
    assert said(HostFacts(chains=(chain,), networks=(NAT,)), "firewall")[0][3].startswith(do)


@pytest.mark.parametrize(
    ("tool", "name", "do"),
    [
        ("nft", "inet f c", "'meta sdifname \"vme*\" accept' 'oifname \"vme*\" accept'"),
        ("firewalld", "inet firewalld c", "guestnet hooks sync"),
        ("ufw", "iptables FORWARD", "ufw route allow in on red && ufw route allow out on vme+"),
        ("iptables", "ip6tables FORWARD", "-I FORWARD -i red -j ACCEPT && ip6tables -I FORWARD -o vme+ -j ACCEPT, at"),
    ],
)
def test_advice_for_guests_in_a_vrf(tool: str, name: str, do: str) -> None:
    chain = RefusingChain(name, "forward", (4, 6), "its policy is drop", tool)
    assert do in said(HostFacts(chains=(chain,), networks=(IN_VRF,)), "firewall")[0][3]


def rule(chain: str, *expr: Mapping[str, object]) -> dict[str, object]:
    return {"chain": chain, "expr": list(expr)}


def on(key: str, right: object) -> dict[str, object]:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}


BASE = {"family": "inet", "table": "f", "name": "c", "hook": "forward", "policy": "accept"}


def test_a_chain_of_nft() -> None:
    rules = [
        rule("c", on("iifname", {"set": ["br-web", "x"]}), {"accept": None}),
        rule("c", on("oifname", "br-*"), {"jump": {"target": "d"}}),
        rule("c", on("iifname", "bad"), {"drop": None}),
        rule("d", {"counter": {}}, {"drop": None}),
    ]
    assert Nftables(IN_NFTABLES).chain(BASE, rules) is None
    found = Nftables(IN_NFTABLES).chain({**BASE, "policy": "drop"}, rules)
    assert found == OWN._replace(name="inet f c", inward=frozenset({"br-web", "x"}), outward=frozenset({"br-*"}))
    translated = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
    firewalld = Nftables(IN_NFTABLES).chain({**BASE, "policy": "drop"}, [rule("c", translated, {"accept": None})])
    assert firewalld is not None and firewalld.dnat
    ended = Nftables(IN_NFTABLES).chain(BASE, [*rules, rule("c", {"counter": {}}, {"reject": {"type": "icmpx"}})])
    assert ended is not None and ended.refuses == "it ends in a reject"


UFW = """\
-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N GUESTNET-FORWARD
-N LIBVIRT_FWX
-N ufw-user-forward
-A FORWARD -j GUESTNET-FORWARD
-A FORWARD -j LIBVIRT_FWX
-A GUESTNET-FORWARD -i br-ours -j ACCEPT
-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT
-A ufw-user-forward -i br-in -j ACCEPT
-A ufw-user-forward ! -i lo -o vm+ -j ACCEPT
""".splitlines()


def test_chains_of_iptables() -> None:
    forward, inward = IPTABLES.chains("iptables", UFW)
    expected = DOCKER._replace(tool="ufw", inward=frozenset({"br-in"}), outward=frozenset({"vm*"}))
    assert forward == expected
    assert (inward.name, inward.hook, inward.ours, inward.libvirts) == ("iptables INPUT", "input", False, False)
    assert IPTABLES.chains("iptables", ["-P FORWARD ACCEPT", "-A FORWARD -i x -j DROP"]) == []
    [ended] = IPTABLES.chains("ip6tables", ["-P FORWARD ACCEPT", "-A FORWARD -j REJECT --reject-with x"])
    assert (ended.refuses, ended.versions, ended.tool) == ("it ends in a REJECT", (6,), "iptables")


def test_features_follow_from_the_kernels_configuration() -> None:
    config = "CONFIG_NF_TABLES_NETDEV=y\nCONFIG_VXLAN=m\nCONFIG_NFT_BRIDGE_META=m\n# CONFIG_VLAN_8021Q is not set\n"
    found = kernel_features(config, lambda module: module == "vxlan")
    assert {name for name, has in found.items() if has} == {"netdev ingress", "vxlan"}
    unknown = kernel_features(None, lambda module: module == "vxlan")
    assert {name: has for name, has in unknown.items() if has is not None} == {"vxlan": True}


def test_what_a_topology_asks_for() -> None:
    found = topology.loads(
        """
name: t
physical-networks: { lan1: {}, lan2: {} }
networks:
  a: { mode: bridge, physical-network: lan1 }
  b: { mode: bridge, physical-network: lan2, vlan: 7 }
  c: { mode: nat, subnets: [10.61.1.0/24] }
""",
        "t.yaml",
    )
    wanted = wanted_by(found, HostMap({"lan1": "br0/eth1"}, lambda _device: True))
    assert wanted == {"labels": {"lan1": "br0", "lan2": ""}, "needed": frozenset({"vlan"})}


def test_rows_are_flat() -> None:
    [row] = [row for row in judge(HostFacts(libvirt=None)) if row.check == "libvirt"]
    assert row.json().keys() == {"check", "level", "about", "found", "do"}
    assert all(isinstance(value, str) for value in row.json().values())
    assert isinstance(row, Finding)


def test_networks_that_guests_would_miss() -> None:
    """Debian starts libvirt's `default` only when asked to."""
    mark = f"<metadata><domain xmlns='{NAMESPACE}' topology='t' guest='g'/></metadata>"
    nic = "<devices><interface type='network'><source network='default'/></interface></devices>"
    theirs, ours = (etree.fromstring(f"<domain>{each}{nic}</domain>") for each in ("", mark))
    network = NetworkState("default", "n", etree.fromstring("<network/>"))
    domains = (
        DomainState("a", "1", theirs, autostart=True),
        DomainState("b", "2", theirs),
        DomainState("g", "3", ours),
    )

    def found(each: NetworkState) -> list[Asleep]:
        return list(asleep(Snapshot(networks=(each, replace(each, name="other")), domains=domains)))

    assert found(network) == [Asleep("default", ("a",), ("g",))]
    assert found(replace(network, live=network.config)) == [Asleep("default", ("a",))]
    assert found(replace(network, live=network.config, autostart=True)) == []


def _claiming(name: str, number: int, inside: str, on: str = "network='web'") -> DomainState:
    address = f"52:54:00:00:00:0{number}"
    port = f"<port mac='{address}' name='p' network='web'>{inside}</port>"
    xml = f"""<domain><metadata><domain xmlns='{NAMESPACE}' topology='t' guest='{name}'>{port}</domain></metadata>
    <devices><interface type='network'><mac address='{address}'/><source {on}/></interface></devices></domain>"""
    return DomainState(name, name, etree.fromstring(xml))


def test_what_two_definitions_have_is_told_before_one_takes_it_from_the_other() -> None:
    """A start is refused only while the other guest runs."""
    host = "<host mac='52:54:00:00:00:01' ip='10.0.0.5'/><host mac='52:54:00:00:00:99' ip='10.0.0.7'/>"
    web = etree.fromstring(f"<network><ip address='10.0.0.1' prefix='24'><dhcp>{host}</dhcp></ip></network>")
    domains = (
        _claiming("a", 1, "<address ip='10.0.0.5'/><behind prefix='10.9.0.0/16'/><behind prefix='10.8.0.0/16'/>"),
        _claiming("b", 2, "<address ip='10.0.0.5'/><address ip='10.0.0.7'/><behind prefix='10.9.3.0/24'/>"),
        _claiming("c", 3, "<address ip='10.0.0.5'/><behind prefix='8.8.8.0/24'/>", on="network='other'"),
        _claiming("d", 4, "<behind prefix='10.9.3.0/25'/><behind prefix='10.7.0.0/16'/>"),
    )
    found = claimed(Snapshot((NetworkState("web", "n", web),), domains))
    assert [(each.domains, each.found.partition(":")[0]) for each in found] == [
        ("a b", "10.0.0.5 on 'web' is claimed by 'a' and 'b' in their metadata"),
        ("b", "10.0.0.5, which it claims, is reserved for 52"),
        ("b", "10.0.0.7, which it claims, is reserved for 52"),
        ("c", "8.8.8.0/24, which it says is behind it, is public"),
        ("b a", "10.9.3.0/24 behind 'b' is in 10.9.0.0/16 behind 'a', and goes to the former"),
        ("d b", "10.9.3.0/25 behind 'd' is in 10.9.3.0/24 behind 'b', and goes to the former"),
    ]


def test_thousands_of_prefixes_of_one_domain_take_no_longer_than_they_are_many() -> None:
    def work(number: int) -> int:
        behind = "".join(f"<behind prefix='10.{n >> 8}.{n & 255}.0/24'/>" for n in range(number))
        host = Snapshot((), (_claiming("a", 1, behind), _claiming("b", 2, "<behind prefix='10.0.0.0/8'/>")))
        return steps(lambda each: list(claimed(each)), host)

    assert work(800) < 3.2 * work(400)
