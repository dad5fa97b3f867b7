"""The archnetwork lab: everything as expected, and every deliberate breakage noticed."""

from __future__ import annotations

import re

from support.lab import Lab

from libvirt_guestnet.model.topology import FORGERIES
from libvirt_guestnet.sandbox import Sandbox

ROUTED = {f"c > lan2 {check} {family}" for check in ("icmp", "tcp/80", "udp/53") for family in ("ipv4", "ipv6")}
NOTICED = {
    f"c > lan2 {check} {family}"
    for check in ("via b > host", "seen as host", "seen as host by udp")
    for family in ("ipv4", "ipv6")
}


def test_everything_is_as_expected(archnetwork: Lab) -> None:
    rows = archnetwork.verify()
    assert [row for row in rows if row["result"] != "ok"] == []
    checked = {(row["from"], row["to"], row["family"]) for row in rows}
    for pair in (("a", "lan1"), ("a", "lan2"), ("b", "lan2"), ("c", "b.vlan2"), ("c", "lan2"), ("lan2", "c")):
        assert {(*pair, "ipv4"), (*pair, "ipv6")} <= checked
    assert sum(row["check"].startswith("forged") for row in rows) == 21


def test_a_second_apply_changes_nothing(archnetwork: Lab) -> None:
    labels = ["--map", "lan1=lan-lan1", "--map", "lan2=lan-lan2"]
    assert archnetwork.guestnet("plan", *labels, "-").stdout == "nothing to do\n"
    assert archnetwork.guestnet("apply", *labels, "-").stdout == "nothing to do\n"


def test_status_tells_what_is_guarded(archnetwork: Lab) -> None:
    done = archnetwork.guestnet("status")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\bvme[0-9a-f]{8}\b", done.stdout)) == 5


def test_a_router_that_does_not_forward_is_noticed(archnetwork: Lab) -> None:
    archnetwork.agent("b", "set_forwarding(False)")
    try:
        # Nobody may switch it on again behind the check's back, so the lines "without forwarding" are left out.
        text = "".join(f"{x}\n" for x in archnetwork.topology.read_text().splitlines() if "without-forwarding" not in x)
        assert archnetwork.unexpected(text) == ROUTED | NOTICED
    finally:
        archnetwork.agent("b", "set_forwarding(True)")


def test_missing_nat_is_noticed(archnetwork: Lab) -> None:
    sandbox = archnetwork.sandbox
    saved = {tool: sandbox.run([f"{tool}-save", "-t", "nat"]).stdout for tool in ("iptables", "ip6tables")}
    for tool in saved:
        sandbox.run([tool, "-t", "nat", "-F", "LIBVIRT_PRT"])
    try:
        unexpected = archnetwork.unexpected()
    finally:
        for tool, rules in saved.items():
            sandbox.run([f"{tool}-restore", "-T", "nat"], stdin=rules)
    assert {"a > lan2 seen as host ipv4", "b > lan2 seen as host ipv4", "c > lan2 seen as host ipv6"} <= unexpected


def test_a_guest_on_the_wrong_network_is_noticed(archnetwork: Lab) -> None:
    _move(archnetwork, "vlan2", "vlan1")
    try:
        unexpected = archnetwork.unexpected()
    finally:
        _move(archnetwork, "vlan1", "vlan2")
    assert ROUTED | {"c > b.vlan2 icmp ipv4", "c > b.vlan2 layer2 ipv6"} <= unexpected


def _move(lab: Lab, old: str, new: str) -> None:
    nic = re.search(r"<interface.*?</interface>", lab.virsh("dumpxml", "c"), re.DOTALL)
    assert nic is not None
    moved = re.sub(r" portid='[^']*'| bridge='[^']*'", "", nic.group()).replace(f"network='{old}'", f"network='{new}'")
    lab.sandbox.run(["tee", "/run/moved.xml"], stdin=moved)
    lab.virsh("update-device", "c", "/run/moved.xml", "--live")


def test_a_wider_policy_is_noticed(archnetwork: Lab) -> None:
    archnetwork.agent("b", "run('nft insert rule inet guestnet forward tcp dport 25 accept'.split())")
    try:
        assert archnetwork.unexpected() == {"c > lan2 tcp/25 ipv4", "c > lan2 tcp/25 ipv6"}
    finally:
        archnetwork.agent("b", "run('nft flush ruleset'.split()), a.run('nft -f /etc/ruleset'.split())")
    assert archnetwork.unexpected() == set()


def test_missing_hooks_are_noticed(archnetwork: Lab) -> None:
    assert archnetwork.guestnet("hooks", "uninstall").returncode == 0
    try:
        unexpected = archnetwork.unexpected()
    finally:
        assert archnetwork.guestnet("hooks", "install", "--any-owner").returncode == 0
        assert archnetwork.guestnet("hooks", "sync").returncode == 0
    # All of them: uninstalling takes the filters of the running guests away too.
    ports = ("a.lan1", "a.vlan1", "c.vlan2")
    assert unexpected == {f"{port} > anywhere forged {kind}" for port in ports for kind in FORGERIES}
    # The forged frames have poisoned the guests by now; but no more of them get out.
    assert not [problem for problem in archnetwork.unexpected() if "forged" in problem]


def test_nothing_is_left_after_down(archnetwork: Lab) -> None:
    down = archnetwork.guestnet("lab", "down", "--here", "-")
    assert down.returncode == 0, down.stderr
    sandbox: Sandbox = archnetwork.sandbox
    assert archnetwork.virsh("list", "--all", "--name").strip() == ""
    assert archnetwork.virsh("net-list", "--all", "--name").strip() == ""
    devices = sandbox.run(["ls", "/sys/class/net"]).stdout.split()
    assert [d for d in devices if d not in ("lo", "bonding_masters")] == []
    assert sandbox.run(["find", "/run/libvirt-guestnet", "-name", "*.json"]).stdout == ""
    assert sandbox.run(["nft", "list", "table", "netdev", "guestnet"], check=False).stdout.count("chain tap-") == 0
