"""Hooks killed at any of their steps leave a bridge guard that the next call puts right.

Kernels without nft_meta_bridge refuse the rules themselves, so these stand without them; what is in the sets, and when,
is the same. The lab VM has the real rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import killed
from support.box import Box
from support.hooks import NS

CALL = killed.CALL.replace(
    killed.PREPARE,
    f"""{killed.PREPARE}
from libvirt_guestnet.datapath.port import bridge_filter as bridgeguard
bridgeguard._CHAINS = dict.fromkeys(bridgeguard._CHAINS, "counter accept")
""",
)


def network(name: str, uplink: str = "") -> bytes:
    inside = f'<guestnet:uplink device="{uplink}"/>' if uplink else ""
    forward = "<forward mode='bridge'/>" if uplink else ""
    mark = f'<guestnet:network {NS} topology="t" name="{name}">{inside}</guestnet:network>'
    return f"""<hookData><network><name>{name}</name><metadata>{mark}</metadata>{forward}<bridge name='br-{name}'/>
      </network></hookData>""".encode()


def domain(name: str) -> bytes:
    return f"""<domain><name>{name}</name><uuid>{name}</uuid><devices><interface type='network'>
      <mac address='52:54:00:00:00:0{len(name)}'/><source network='one' bridge='br-one'/><target dev='{name}'/>
      </interface></devices></domain>""".encode()


class Host:
    def __init__(self, box: Box) -> None:
        self.box = box

    def call(self, hook: str, name: str, operation: str, xml: bytes, step: int = 0) -> bool:
        """Whether it got as far as that step."""
        done = self.box.run(*killed.command(step, hook, name, operation, CALL), stdin=xml)
        assert done.stdout in (b"137\n", b"0\n"), done.stderr
        assert done.stdout == b"137\n" or done.stderr == b""
        return done.stdout == b"137\n"

    def plug(self, *taps: str) -> None:
        for tap in taps:
            self.box.ok("ip", "tuntap", "add", tap, "mode", "tap")

    def has(self, *, bridges: set[str], ports: set[str]) -> None:
        for name, wanted in (("bridges", bridges), ("ports", ports)):
            listed = self.box.run("nft", "-j", "list", "set", "bridge", "guestnet", name).stdout
            found = [item["set"] for item in json.loads(listed or '{"nftables": []}')["nftables"] if "set" in item]
            assert {str(element) for each in found for element in each.get("elem", ())} == wanted, name


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with another network, whose bridge has an uplink, and on it the guest `other`, running."""
    box = Box()
    host = Host(box)
    host.plug("nic", "other")
    assert not host.call("network", "wire", "start", network("wire", "nic"))
    assert not host.call("network", "wire", "started", network("wire", "nic"))
    assert not host.call("qemu", "other", "start", domain("other").replace(b"one", b"wire"))
    host.has(bridges={"br-wire"}, ports={"nic", "other"})
    yield host
    box.close()


def test_a_killed_network_start_is_made_good_by_its_first_guest(host: Host) -> None:
    step, going = 1, True
    host.plug("guest")
    while going:
        going = host.call("network", "one", "started", network("one"), step)
        assert not host.call("qemu", "guest", "start", domain("guest"))
        if Path(f"/proc/{host.box.pid}/root/run/libvirt-guestnet/networks/one.json").exists():
            host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other", "guest"})
        assert not host.call("qemu", "guest", "release", domain("guest"))
        assert not host.call("network", "one", "stopped", network("one"))
        host.has(bridges={"br-wire"}, ports={"nic", "other"})
        step += 1
    assert step > 10


def test_a_killed_start_is_made_good_by_the_next(host: Host) -> None:
    assert not host.call("network", "one", "started", network("one"))
    step, going = 1, True
    while going:
        host.plug("guest")
        going = host.call("qemu", "guest", "start", domain("guest"), step)
        if step % 2:
            host.box.ok("ip", "link", "del", "guest")  # QEMU was never there; another guest has its tap's name next
            host.plug("guest")
        assert not host.call("qemu", "guest", "start", domain("guest"))
        host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other", "guest"})
        host.box.ok("ip", "link", "del", "guest")
        assert not host.call("qemu", "guest", "release", domain("guest"))
        host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other"})
        step += 1
    assert step > 10


def test_what_a_killed_release_leaves_goes_with_anybodys_call(host: Host) -> None:
    assert not host.call("network", "one", "started", network("one"))
    step, going = 1, True
    while going:
        host.plug("guest", "another")
        assert not host.call("qemu", "guest", "start", domain("guest"))
        host.box.ok("ip", "link", "del", "guest")
        going = host.call("qemu", "guest", "release", domain("guest"), step)
        assert not host.call("qemu", "another", "start", domain("another"))
        host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other", "another"})
        host.box.ok("ip", "link", "del", "another")
        assert not host.call("qemu", "another", "release", domain("another"))
        step += 1
    assert step > 10


def test_a_killed_network_stop_leaves_nothing_that_its_next_start_does_not_mend(host: Host) -> None:
    step, going = 1, True
    while going:
        assert not host.call("network", "one", "started", network("one"))
        going = host.call("network", "one", "stopped", network("one"), step)
        assert not host.call("network", "one", "started", network("one"))
        host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other"})
        assert not host.call("network", "one", "stopped", network("one"))
        host.has(bridges={"br-wire"}, ports={"nic", "other"})
        step += 1
    assert step > 10


def test_an_uplink_that_is_a_new_device_is_admitted_when_its_network_starts(host: Host) -> None:
    host.box.ok("ip", "link", "del", "nic")
    host.plug("nic")
    for operation in ("start", "started"):
        assert not host.call("network", "wire", operation, network("wire", "nic"))
    host.has(bridges={"br-wire"}, ports={"nic", "other"})


def test_what_somebody_flushed_comes_back_with_anybodys_call(host: Host) -> None:
    assert not host.call("network", "one", "started", network("one"))
    host.box.ok("nft", "flush", "ruleset")
    host.plug("guest")
    assert not host.call("qemu", "guest", "start", domain("guest"))
    host.has(bridges={"br-wire", "br-one"}, ports={"nic", "other", "guest"})
    assert "chain tap-other" in host.box.ok("nft", "list", "chains", "netdev")


def test_a_kernel_that_cannot_starts_guests_all_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CALL", CALL.replace('"counter accept"', '"accept accept"'))
    for operation in ("stopped", "start", "started"):
        assert not host.call("network", "wire", operation, network("wire", "nic"))
    host.plug("guest")
    assert not host.call("network", "one", "started", network("one"))
    assert not host.call("qemu", "guest", "start", domain("guest"))
    assert "chain tap-guest" in host.box.ok("nft", "list", "chains", "netdev")
    said = json.loads(host.box.ok("cat", "/run/libvirt-guestnet/bridges.json"))
    assert (sorted(said["networks"]), said["settled"]) == (["br-one", "br-wire"], True)
    assert said["cannot"].startswith("nft refused the change:")
