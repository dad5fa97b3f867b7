"""One guest's bad value, in its metadata or its receipts, on the real kernel: it is refused, and others go on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import DATA, DOMAIN, NETWORK, NS, START, Hooks, with_metadata
from support.kernel_lan import FLOAT, FORWARDS, GUEST6, HOST, NEAR, LanHost, start

pytestmark = pytest.mark.kernel

# With `via` it went to ip6tables-restore alone, whose first line took fd00::1%1 for an address on device 1.
ATTACK = "fd00::1%1&#10;-I INPUT 1 -s 2001:db8::66"
RECEIPT = "/run/libvirt-guestnet/forwards/{}.json"


ATTACKS = {
    "<guestnet:floating> ip": f'<guestnet:floating ip="{ATTACK}" via="{GUEST6}"/>',
    "<guestnet:floating> to": f'<guestnet:floating ip="fd61::50" to="{ATTACK}"/>',
    "<guestnet:forward> at": f'<guestnet:forward at="{ATTACK}" protocol="tcp" ports="80" to="{GUEST6}"/>',
    "<guestnet:forward> to": f'<guestnet:forward protocol="tcp" ports="80" to="{ATTACK}"/>',
    "<guestnet:behind> prefix": f'<guestnet:behind prefix="{ATTACK}"/>',
    "<guestnet:source> prefix": f'<guestnet:source prefix="{ATTACK}"/>',
}


def test_a_rule_in_an_address_fails_at_start(host: LanHost) -> None:
    before = host.box.ok("ip6tables", "-S"), host.box.ok("iptables", "-S")
    for where, policy in ATTACKS.items():
        status, stderr = host.call("qemu", "guesta", "start", "begin", start(policy))
        # Libvirt would not go on; but it is `started` that put the rule there.
        host.call("qemu", "guesta", "started", "begin", start(policy))
        assert "2001:db8::66" not in host.box.ok("ip6tables", "-S"), where
        assert status == 1, where
        assert f"qemu guesta start: metadata: {where}: 'fd00::1%1\\n-I INPUT 1 -s 2001:db8::66' is not an IP" in stderr
        host.gone(start(policy))
        assert (host.box.ok("ip6tables", "-S"), host.box.ok("iptables", "-S")) == before, where
        assert "guestnet" not in host.box.ok("nft", "list", "tables"), where
        assert host.receipts() == [], where


TAKEN_OVER = f"""<network><name>lan</name><metadata><guestnet:network {NS} topology="t" name="lan"/></metadata>
<bridge name="virbr9"/></network>"""
FOLLOWED = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import live
from libvirt_guestnet.state.locked import UnlockedState
live.adopt_network(sys.argv[1].encode())
try:
    live.guard_domain(sys.argv[2].encode())
except GuestnetError as error:
    print(UnlockedState().bridges(), error)
"""


def test_a_guest_that_follows_last_and_cannot_keeps_no_bridge_open(tmp_path: Path) -> None:
    box = Box()
    box.add_taps("vnet0", "vnet1")
    hooks = Hooks(box, tmp_path)
    assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
    bad = with_metadata(START, DOMAIN.replace("10.61.1.10", "nonsense")).decode()
    said = box.ok(sys.executable, "-IS", "-c", FOLLOWED, TAKEN_OVER, bad)
    assert said.startswith("Bridges(networks={'virbr9': 'lan'}, settled=True, ")
    assert hooks.chains() == ["vnet0", "vnet1"], "it is guarded as before"
    box.close()


def test_a_receipt_that_nft_refuses_is_left_out_by_name(host: LanHost) -> None:
    """Two ranges in one that overlap: no metadata gives that, but a receipt may say anything."""
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    _write(host, "near0", forwards=[_range(9000, 9010), _range(9005, 9015)])
    network = with_metadata((DATA / "9.0.0/net-lifecycle/002-network-vlan1-started-begin.xml").read_bytes(), NETWORK)
    for call in (
        ("network", "vlan1", "started", "begin", network),
        ("qemu", "guesta", "started", "begin", start(FORWARDS)),
    ):
        status, stderr = host.call(*call)
        assert status == 0, stderr
        assert "guests cannot be reached yet: nft refused the change" in stderr
        assert "(guest 'bad')" in stderr
        assert stderr.count("guest '") == 1
        assert host.tcp("lan", HOST, 8080).open
    assert host.gone(start(FORWARDS))[0] == 0
    assert "8080" not in host.rules()
    host.box.ok("rm", RECEIPT.format("near0"))
    assert host.started(start(FORWARDS)) == [(0, "")] * 2


def test_a_network_without_a_bridges_name_is_in_nobodys_way(host: LanHost) -> None:
    network = with_metadata((DATA / "9.0.0/net-lifecycle/002-network-vlan1-started-begin.xml").read_bytes(), NETWORK)
    text = network.decode().replace("<name>vlan1</name>", "<name>nameless</name>")
    nameless = re.sub(r"<bridge name='[^']*'", "<bridge name=''", text).encode()
    assert host.call("network", "nameless", "started", "begin", nameless) == (0, "")
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    assert host.gone(start(FORWARDS)) == (0, "")


DAMAGED: list[dict[str, object]] = [
    {"forwards": [["tcp", 80, 80, GUEST6, 80, "fd00:1::1%1", False]]},
    {"forwards": [["tcp", 80, 80, GUEST6]]},
    {"floating": [["fd00::1%1\n-I INPUT 1 -s 2001:db8::66", GUEST6, ""]]},
    {"bridge": "virbr1\n-I INPUT 1"},
    {"ifindex": "3"},
    {"active": 1},
    {"tap": 7},
]


def test_a_damaged_receipt_is_skipped_and_named(host: LanHost) -> None:
    xml = start(FORWARDS + FLOAT)
    for change in DAMAGED:
        _write(host, "near0", **change)
        complaint = f"libvirt-guestnet: {RECEIPT.format('near0')} is damaged ({next(iter(change))}: "
        for status, stderr in host.started(xml):
            assert (status, stderr.count("\n")) == (0, 1)
            assert stderr.startswith(complaint)
            assert stderr.endswith("): remove it and run `guestnet hooks sync`\n")
        assert host.tcp("lan", HOST, 8080).open
        assert "2001:db8::66" not in host.box.ok("ip6tables", "-S")
        assert host.gone(xml)[0] == 0


FOLDERS = ("ports", "host-routes", "vlans", "forwards", "plugging", "networks", "domains", "uplinks", "insisting")
ALONE = ("bridges.json", "forwards-in-kernel.json", "checksum", "shared")


@pytest.mark.parametrize("text", ["{", "[]", '{"tap": "x"}', "\\377"])
def test_no_damaged_file_blocks_another_guest(host: LanHost, text: str) -> None:
    for path in (*(f"{folder}/zz.json" for folder in FOLDERS), *ALONE):
        file = f"/run/libvirt-guestnet/{path}"
        host.box.ok("sh", "-c", f"mkdir -p ${{0%/*}}; printf '{text}' > $0", file)
    for status, stderr in (
        *host.started(start(FORWARDS)),
        host.call("qemu", "guesta", "reconnect", "begin", start(FORWARDS)),
    ):
        assert status == 0, stderr
        assert "internal error" not in stderr
    assert host.tcp("lan", HOST, 8080).open
    status, stderr = host.gone(start(FORWARDS))
    assert (status, "internal error" in stderr) == (0, False)


def _range(first: int, last: int) -> list[object]:
    return ["tcp", first, last, NEAR, first, HOST, False]


def _write(host: LanHost, device: str, **change: object) -> None:
    """A receipt of another guest that runs, with something else in it."""
    index = int(host.box.ok("cat", f"/sys/class/net/{device}/ifindex"))
    plain = {"tap": device, "mac": "52:54:00:61:0a:99", "uuid": "bad", "domain": "bad", "bridge": "virbr1"}
    fields = {**plain, "ifindex": index, "active": True, "forwards": [], "floating": [], **change}
    path = RECEIPT.format(device)
    host.box.ok("sh", "-c", f"mkdir -p {path.rpartition('/')[0]}")
    assert host.box.run("sh", "-c", f"cat > {path}", stdin=json.dumps(fields).encode()).returncode == 0
