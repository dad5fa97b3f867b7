"""The files of `guestnet render`."""

from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.topology import load
from libvirt_guestnet.xmlgen.render import render, render_text

ARCHNETWORK = load(Path(__file__).parents[2] / "labs/archnetwork.yaml")
HOSTMAP = HostMap({"lan1": "eth1", "lan2": "eth2"}, device_is_bridge=lambda _device: False)
IMAGE = TinyImage(kernel=Path("/boot/vmlinuz"), initrd=Path("/boot/initrd"))


def names(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


def test_a_file_for_every_object_and_nothing_else(tmp_path: Path) -> None:
    written = render(ARCHNETWORK, HOSTMAP, tmp_path / "new" / "out", IMAGE)
    assert names(tmp_path / "new" / "out") == [
        "guests/a/domain.xml",
        "guests/a/interface-lan1.xml",
        "guests/a/interface-vlan1.xml",
        "guests/a/metadata.xml",
        "guests/b/domain.xml",
        "guests/b/interface-vlan1.xml",
        "guests/b/interface-vlan2.xml",
        "guests/b/metadata.xml",
        "guests/c/domain.xml",
        "guests/c/interface-vlan2.xml",
        "guests/c/metadata.xml",
        "networks/lan1.xml",
        "networks/vlan1.xml",
        "networks/vlan2.xml",
    ]
    assert len(written) == 14
    for file in written:
        etree.parse(file)
        assert file.stat().st_mode & 0o777 == 0o644


def test_rendering_again_replaces(tmp_path: Path) -> None:
    render(ARCHNETWORK, HOSTMAP, tmp_path)
    before = {name: (tmp_path / name).read_text() for name in names(tmp_path)}
    (tmp_path / "networks/vlan1.xml").write_text("<broken")
    render(ARCHNETWORK, HOSTMAP, tmp_path)
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == before
    assert "guests/a/domain.xml" not in before


def test_nothing_is_written_when_something_cannot_be_generated(tmp_path: Path) -> None:
    with pytest.raises(GuestnetError, match="--map lan1=DEVICE"):
        render(ARCHNETWORK, HostMap({"lan2": "eth2"}), tmp_path)
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GuestnetError, match=r"file/networks/vlan1\.xml: cannot be written: Not a directory"):
        render(ARCHNETWORK, HOSTMAP, tmp_path / "file")


def test_text_names_every_file() -> None:
    text = render_text(ARCHNETWORK, HOSTMAP)
    assert "<!-- networks/vlan2.xml -->\n<network" in text
    assert "<!-- guests/c/metadata.xml -->\n<guestnet:domain" in text
