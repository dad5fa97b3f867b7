"""Guests that run while guestnet is replaced by this version: nothing of them is lost, and in the end nothing is left.

What 0.2.0 left under /run is in tests/data/state/1. That version's own code made it, unpacked into a folder, by

    PYTHONPATH=tests python3 tests/kernel/test_upgrade.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import kernel_lan
from support.box import Box
from support.hooks import DATA as HOOK_DATA
from support.hooks import DOMAIN, NETWORK, SETTLED, Hooks, with_metadata
from support.kernel_lan import FLOAT, FLOATING, FORWARDS, HOST, LAN, LanHost, agent, seen, start
from support.kernel_routed import A, domain, tap
from support.old_state import DATA, placed

DOM_START = HOOK_DATA / "9.0.0/dom-start"
LIBRARY = str(Path(__file__).parents[2])
STATE = "/run/libvirt-guestnet"
TAPS = ("vnet0", "vnet1", tap(A))
# Besides what `kernel_lan` has: a NIC without a bridge.
SETUP = f"""set -e
ip link set vnet0 up
ip tuntap add {tap(A)} mode tap; ip link set {tap(A)} up
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""
ROUTED_GUEST = domain("routed", A)
FORWARDS_GUEST = start(FORWARDS + FLOAT)
GUESTS = {"guesta": FORWARDS_GUEST, "routed": ROUTED_GUEST}
STRANGER = b"<domain><name>other</name><uuid>61000009-0000-4000-8000-000000000009</uuid><devices/></domain>"
SYNC = f"""
import sys
sys.path.insert(0, {LIBRARY!r})
from types import SimpleNamespace
from lxml import etree
from libvirt_guestnet.apply import sync
live = [etree.fromstring(text) for text in sys.argv[1:]]
guests = [SimpleNamespace(name=each.findtext("name"), uuid=each.findtext("uuid"), live=each) for each in live]
sync.host_snapshot = lambda _: SimpleNamespace(networks=[], domains=guests)
told = sync.sync(None)
print([*told.failures, *told.unrouted])
"""


def _set_up(box: Box) -> None:
    box.ok("sh", "-c", kernel_lan.SETUP)
    box.ok("sh", "-c", SETUP)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LanHost]:
    """On it both guests run, and the hooks are this version's by now."""
    with ExitStack() as stack:
        box = Box()
        stack.callback(box.close)
        _set_up(box)
        enter = ["nsenter", "-t", box.pid, "--net", "--mount", "--"]
        (tmp_path / "agents").mkdir()
        host = LanHost(box, tmp_path)
        host.agents = {
            who: stack.enter_context(agent(tmp_path / "agents" / who, [*enter, "ip", "netns", "exec", who]))
            for who in ("lan", "guest")
        }
        host.agents["guest"].listen(tcp=[80], udp=[53])
        before = host.rules()
        for name, xml in GUESTS.items():
            host.record(name, xml)
            assert host.started(xml, name) == [(0, "")] * 2
        _as_left(box, tmp_path / "old")
        yield host
        assert host.rules() == before


def _as_left(box: Box, folder: Path) -> None:
    """Has the box's folder be as 0.2.0 left its own; the checksum guard's numbers are this kernel's."""
    placed(folder, {each: int(box.ok("cat", f"/sys/class/net/{each}/ifindex")) for each in TAPS})
    packed = subprocess.run(["tar", "c", "-C", str(folder), "."], capture_output=True, check=True).stdout
    unpack = f"cd {STATE} && mv checksum .. && rm -r {STATE}/* && tar x --no-same-owner && mv ../checksum ."
    assert box.run("sh", "-c", f"{SETTLED}; {unpack}", stdin=packed).returncode == 0


def _kernel(host: LanHost) -> tuple[object, ...]:
    """What must be there as long as the guests run."""
    return host.chains(), host.routes(), host.rules()


def _is_connected(host: LanHost) -> None:
    for address in (HOST, FLOATING):
        assert seen(host.tcp("lan", address, 8080 if address == HOST else 80)) == LAN
    assert set(TAPS) == set(host.chains())
    assert all(address in host.routes() for address in ("192.0.2.10", "2001:db8::a", FLOATING))
    assert "169.255.30.1/32" in host.box.ok("ip", "address", "show", "dev", tap(A))


def _synced(host: LanHost, *guests: bytes) -> str:
    return host.box.ok(sys.executable, "-c", SYNC, *(each.decode() for each in guests)).strip()


def test_they_go_on_under_this_version_and_end_under_it(host: LanHost) -> None:
    _is_connected(host)
    before = _kernel(host)
    # Whoever calls first takes over what is there, and changes nothing of it.
    assert host.call("qemu", "other", "start", "begin", STRANGER) == (0, "")
    assert _kernel(host) == before
    names = set(host.box.ok("ls", STATE).split())
    assert ("host-routes" in names, "forwards" in names, {"reach", "ways", "settled"} & names) == (True, True, set())
    for name, xml in GUESTS.items():
        assert host.call("qemu", name, "reconnect", "begin", xml) == (0, "")
        assert host.call("qemu", name, "started", "begin", xml) == (0, "")
    _is_connected(host)
    for _ in range(2):
        assert _synced(host, *GUESTS.values()) == "[]"
        _is_connected(host)
        assert _kernel(host)[:2] == before[:2]
    for name, xml in GUESTS.items():
        assert host.gone(xml, name) == (0, "")
    assert (host.receipts(), host.chains()) == ([], [])
    assert host.box.ok("sh", "-c", "ip route show table all proto 71; ip -6 route show table all proto 71") == ""
    assert host.box.ok("sh", "-c", "ip neigh show proxy; ip -6 neigh show proxy") == ""


def test_a_sync_alone_takes_them_over(host: LanHost) -> None:
    before = _kernel(host)
    for _ in range(2):
        assert _synced(host, *GUESTS.values()) == "[]"
        _is_connected(host)
    assert _kernel(host)[1] == before[1]
    for name, xml in GUESTS.items():
        assert host.gone(xml, name) == (0, "")
    assert _synced(host) == "[]"
    assert host.receipts() == []


def test_what_ended_while_it_was_replaced_is_taken_away(host: LanHost) -> None:
    """The hooks were not there at `release`: the tap is gone, and nobody says so."""
    host.box.ok("ip", "link", "del", tap(A))
    host.box.ok("rm", "/run/libvirt/qemu/routed.xml")
    assert _synced(host, FORWARDS_GUEST) == "[]"
    assert "192.0.2.10" not in host.routes()
    assert host.gone(FORWARDS_GUEST) == (0, "")
    assert host.receipts() == []


# What 0.2.0 called the chain at a tap's egress that sees the DHCP server's answers.
RENAMED = """set -e
nft -s list chain netdev guestnet leases-vnet1 | sed s/leases-/told-/ >/run/old.nft
nft -f - <<END
delete chain netdev guestnet leases-vnet1
include "/run/old.nft"
END
"""


def _egress(hooks: Hooks) -> set[str]:
    listed = hooks.box.ok("nft", "list", "table", "netdev", "guestnet")
    return set(re.findall(r"chain ((?:told|leases)-\S+)", listed))


@pytest.mark.parametrize("metadata", [None, DOMAIN], ids=["learns", "has addresses"])
@pytest.mark.parametrize("call", ["reconnect", "start", "sync"])
def test_the_chain_of_the_version_before_goes_once_the_new_one_is_there(
    hooks: Hooks, call: str, metadata: str | None
) -> None:
    hooks.replay("9.0.0", "dom-start", "port-created", NETWORK)
    xml = (DOM_START / "003-qemu-guesta-start-begin.xml").read_bytes()
    xml = xml if metadata is None else with_metadata(xml, metadata)
    assert hooks.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    hooks.box.ok("sh", "-c", f"{SETTLED}; {RENAMED}")
    assert _egress(hooks) == {"told-vnet1"}
    if call == "sync":
        assert hooks.box.ok(sys.executable, "-c", SYNC, xml.decode()).strip() == "[]"
    else:
        assert hooks.call("qemu", "guesta", call, "begin", xml) == (0, "")
    assert _egress(hooks) == {"leases-vnet1"}
    hooks.box.ok("sh", "-c", f"{SETTLED}; {RENAMED}")
    assert hooks.call("qemu", "guesta", "release", "end", xml) == (0, "")
    assert (hooks.chains(), _egress(hooks)) == ([], set())


# By that version's code. Its own tag would fail here: the kernel of a machine for tests may lack VLAN-aware bridges.
INSTALL = """
import sys; from pathlib import Path; from libvirt_guestnet import install
install.install(Path(sys.argv[1]), any_owner=True)
"""
TAGGED = """
from libvirt_guestnet.datapath.vlan import TapVlans
from libvirt_guestnet.state import State
with State().lock():
    State().put_tap_vlans(TapVlans("vnet0", "61000001-0000-4000-8000-000000000001", "lan1", "", 7)._asdict())
"""


def _make(old: Path) -> None:
    """Writes tests/data/state/1 by the code of that version in a folder, whatever is there."""
    box = Box()
    try:
        with tempfile.TemporaryDirectory() as root:
            _set_up(box)
            path = {"PYTHONPATH": str(old)}
            subprocess.run([sys.executable, "-c", INSTALL, root], env=path, check=True, cwd=root)
            hooks = LanHost.__new__(LanHost)
            hooks.box, hooks.root = box, Path(root)
            for name, xml in GUESTS.items():
                hooks.record(name, xml)
                assert hooks.started(xml, name) == [(0, "")] * 2
            box.ok("env", f"PYTHONPATH={old}", sys.executable, "-c", TAGGED)
            _write(box)
    finally:
        box.close()


def _write(box: Box) -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    (DATA / "run").mkdir(parents=True)
    packed = box.run("sh", "-c", f"{SETTLED}; cd {STATE} && rmdir settling; tar c --exclude=./reconnect.lock .").stdout
    subprocess.run(["tar", "x", "-C", str(DATA / "run")], input=packed, check=True)


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
