"""VLANs that would have no effect are refused, on every kernel; tests/labvm shows what happens where they have one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box

from libvirt_guestnet.install import hook_files

NS = 'xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"'
NETWORK = f"""<hookData><network><name>red</name><metadata><guestnet:network {NS} topology="t" name="red">
<guestnet:vlan tag="100" label="lan" uplink="eth1"/></guestnet:network></metadata>
<forward mode="bridge"/><bridge name="br0"/></network></hookData>"""
DOMAIN = f"""<domain><name>a</name><uuid>61000001-0000-4000-8000-000000000001</uuid><metadata>
<guestnet:domain {NS} topology="t" guest="a"><guestnet:port mac="52:54:00:00:00:01" name="p" network="red" guarded="no">
<guestnet:vlan trunk="100-110" native="1"/></guestnet:port></guestnet:domain></metadata>
<devices><interface type="bridge"><mac address="52:54:00:00:00:01"/><source network="red" bridge="br0"/>
<target dev="tap0"/></interface></devices></domain>"""


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    box.ok("ip", "link", "add", "br0", "type", "bridge")
    box.ok("ip", "tuntap", "add", "tap0", "mode", "tap")
    box.ok("ip", "link", "set", "tap0", "master", "br0")
    yield box
    box.close()


@pytest.mark.parametrize(
    ("hook", "name", "xml", "who"), [("network", "red", NETWORK, "network 'red'"), ("qemu", "a", DOMAIN, "tap tap0")]
)
def test_a_bridge_that_ignores_vlans_is_refused(
    box: Box, tmp_path: Path, hook: str, name: str, xml: str, who: str
) -> None:
    hook_files.install(tmp_path, any_owner=True)
    file = str(tmp_path / f"etc/libvirt/hooks/{hook}.d/50-guestnet")
    done = box.run(file, name, "start", "begin", "-", stdin=xml.encode())
    assert done.returncode == 1
    message = done.stderr.decode()
    assert f"{who}: bridge br0 does not tell VLANs apart" in message
    assert "ip link set br0 type bridge vlan_filtering 1" in message
    assert message.count("\n") == 1
