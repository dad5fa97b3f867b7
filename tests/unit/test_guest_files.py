"""Guests' disks and seeds on the host: what an image says of itself is not believed, and nothing is lost silently."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from support.elements import attribute, inside

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply import topology as topologies
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Run
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.guest import files, qcow2
from libvirt_guestnet.guest.files import GuestFiles
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot, Wanted
from libvirt_guestnet.model.disk_image import ImageFormat
from libvirt_guestnet.plan.order import plan, plan_destroy
from libvirt_guestnet.plan.problems import PlanError
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen.render import render

GIB = 1 << 30
TOPOLOGY = """
name: t
networks: { web: { mode: isolated, subnets: [10.0.1.0/24] } }
guests: { web1: { image: IMAGE, disk: 4G, MORE ports: [{ network: web }] } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of guests' files, and images beside it that everybody reads."""
    monkeypatch.setattr(files, "FOLDER", tmp_path / "lib" / "guests")
    monkeypatch.setattr(files, "check_folders", lambda _path: None)  # pytest's own folders are its user's alone
    return tmp_path


def image(folder: Path, name: str, data: bytes, size: int = 0) -> str:
    path = folder / name
    path.write_bytes(data)
    if size:
        os.truncate(path, size)
    path.chmod(0o644)
    return str(path)


def standalone(size: int = GIB) -> bytes:
    """A qcow2 that stands on nothing."""
    data = bytearray(qcow2.overlay("x", "raw", size))
    struct.pack_into(">QI", data, 8, 0, 0)
    return bytes(data)


def disk_of(folder: Path, kind: str = "qcow2") -> str:
    if kind == "raw":
        return image(folder, "debian.raw", bytes(510) + b"\x55\xaa", GIB)
    return image(folder, "debian.qcow2", standalone())


# ---- images


def test_an_images_size_is_read(folder: Path) -> None:
    assert files.image_size(disk_of(folder), ImageFormat.QCOW2) == GIB
    assert files.image_size(disk_of(folder, "raw"), ImageFormat.RAW) == GIB


@pytest.mark.parametrize("backing", ["/etc/shadow", "json:{'driver':'file','filename':'/etc/shadow'}", "nbd://h/x"])
def test_an_image_that_names_another_file_is_refused(folder: Path, backing: str) -> None:
    path = image(folder, "evil.qcow2", qcow2.overlay(backing, "raw", GIB))
    with pytest.raises(GuestnetError, match=r"it stands on another file, .* make it whole"):
        files.image_size(path, ImageFormat.QCOW2)


def with_feature(bits: int) -> bytes:
    data = bytearray(standalone())
    struct.pack_into(">Q", data, 72, bits)
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(standalone())
    struct.pack_into(">I", data, 32, 2)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (with_feature(4), "its data is in another file"),  # an external data file
        (with_feature(1 << 40), "features that are not known"),
        (encrypted(), "it is encrypted"),
        (b"QFI\xfb" + bytes(68), "its qcow2 header is broken"),
        (b"QFI\xfb", "it is no qcow2 file"),
        (b"", "it is no qcow2 file"),
        (bytes(510) + b"\x55\xaa", "it is no qcow2 file"),
    ],
)
def test_a_qcow2_that_is_not_plain_is_refused(folder: Path, data: bytes, why: str) -> None:
    with pytest.raises(GuestnetError, match=why):
        files.image_size(image(folder, "x.qcow2", data), ImageFormat.QCOW2)


def test_a_name_that_says_the_wrong_thing_is_refused(folder: Path) -> None:
    with pytest.raises(GuestnetError, match="it is a qcow2 file"):
        files.image_size(image(folder, "x.raw", standalone()), ImageFormat.RAW)
    with pytest.raises(GuestnetError, match="no boot sector"):
        files.image_size(image(folder, "shadow.raw", b"root:*:19000:0:99999:7:::\n" * 40), ImageFormat.RAW)


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.raw")
    for path in (str(folder / "pipe.raw"), "/dev/zero", str(folder)):
        with pytest.raises(GuestnetError, match="no regular file"):
            files.image_size(path, ImageFormat.RAW)


def test_an_image_that_qemus_user_cannot_read_is_said(folder: Path) -> None:
    path = disk_of(folder)
    Path(path).chmod(0o600)
    with pytest.raises(GuestnetError, match=f"chmod o\\+r {path}"):
        files.image_size(path, ImageFormat.QCOW2)


def test_a_folder_that_qemus_user_cannot_enter_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(GuestnetError, match=f"cannot enter {tmp_path}"):
        files.image_size(disk_of(tmp_path), ImageFormat.QCOW2)


# ---- a new disk


@pytest.mark.parametrize("size", [1 << 20, GIB, 10 * GIB, qcow2.MOST_BYTES])
def test_a_disk_stands_on_its_image(size: int) -> None:
    data = qcow2.overlay("/srv/x.raw", "raw", size)
    assert qcow2.read_head(data) == (size, "/srv/x.raw")
    assert len(data) % (1 << 16) == 0 and len(data) < 3 << 20


def test_a_disk_is_made_once(folder: Path) -> None:
    files.make_disk("web1", "/srv/x.raw", ImageFormat.RAW, GIB)
    assert files.place("web1").disk.stat().st_mode & 0o777 == 0o600
    with pytest.raises(GuestnetError, match="File exists"):
        files.make_disk("web1", "/srv/y.raw", ImageFormat.RAW, GIB)
    assert files.look("web1").disk == (GIB, "/srv/x.raw")


def test_a_link_in_the_place_of_a_disk_is_not_followed(folder: Path) -> None:
    files.write_seed("web1", b"seed")
    files.place("web1").disk.symlink_to(folder / "elsewhere")
    with pytest.raises(GuestnetError, match="File exists"):
        files.make_disk("web1", "/srv/x.raw", ImageFormat.RAW, GIB)
    with pytest.raises(GuestnetError):
        files.look("web1")
    assert not (folder / "elsewhere").exists()


def test_a_seed_is_replaced_and_removed(folder: Path) -> None:
    for data in (b"one", b"two"):
        files.write_seed("web1", data)
        assert files.look("web1") == GuestFiles(None, data)
    assert files.place("web1").seed.stat().st_mode & 0o777 == 0o600
    files.remove_seed("web1")
    files.remove_seed("web1")
    assert not files.place("web1").seed.parent.exists()


# ---- plans


def want(file: str, more: str = "") -> Wanted:
    topology = loads(TOPOLOGY.replace("IMAGE", file).replace("MORE", more), "t.yaml")
    hosts = HostMap({})
    return wanted(topology, hosts, lambda guest: xmlgen.domain(topology, guest, hosts, None, "qemu"))


def seen(wished: Wanted, domains: tuple[DomainState, ...] = ()) -> Snapshot:
    there, problems = topologies._guest_files(wished)
    return Snapshot(domains=domains, files=there, taken=tuple(problems))


def defined(wished: Wanted, live: bool = False) -> DomainState:
    element = wished.guests[0].definition
    assert element is not None
    return DomainState("web1", element.findtext("uuid", ""), element, element if live else None)


def lines(changes: object) -> list[str]:
    return [each.text() for each in changes if "network" not in each.KIND]  # type: ignore[attr-defined]


def make(changes: object) -> list[object]:
    """Makes the changes of files; returns their undos."""
    undos: list[object] = []
    run = Run(None, None, lambda _what, undo: undos.append(undo), lambda _step: None)  # type: ignore[arg-type]
    for each in changes:  # type: ignore[attr-defined]
        if each.KIND in ("guest disk", "guest seed"):
            each.run(run)
    return undos


def test_a_guests_files_are_made_before_it_is_defined_and_then_stay(folder: Path) -> None:
    wished = want(disk_of(folder))
    made = plan(wished, seen(wished))
    assert lines(made.changes) == [
        f"make guest disk web1: 4G, of {folder}/debian.qcow2",
        "write guest seed web1",
        "define guest web1: 1 NIC",
    ]
    make(made.changes)
    assert files.look("web1").disk == (4 * GIB, f"{folder}/debian.qcow2")
    again = plan(wished, seen(wished, (defined(wished),)))
    assert lines(again.changes) == []


def test_what_fails_takes_the_new_files_back(folder: Path) -> None:
    wished = want(disk_of(folder))
    for undo in reversed(make(plan(wished, seen(wished)).changes)):
        undo()  # type: ignore[operator]
    assert files.look("web1") == GuestFiles()


def test_a_seed_that_changed_is_written_again(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    after = want(disk_of(folder), 'user-data: "#cloud-config",')
    made = plan(after, seen(after, (defined(after, live=True),)))
    assert lines(made.changes) == ["write guest seed web1: its text changes"]
    assert any("is running and is told at its next start" in note for note in made.notes)
    files.place("web1").seed.write_bytes(b"somebody else's")
    assert lines(plan(wished, seen(wished, (defined(wished),))).changes) == ["write guest seed web1: its text changes"]
    without = want(disk_of(folder), "seed: none,")
    assert lines(plan(without, seen(without, (defined(without),))).changes) == ["remove guest seed web1"]


def test_a_disk_is_not_put_on_another_image(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    other = want(disk_of(folder, "raw"))
    with pytest.raises(PlanError, match=r"stands on .*debian\.qcow2', not on .*debian\.raw: what a disk stands on"):
        plan(other, seen(other))


def test_another_size_is_a_note(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    larger = replace(wished, guests=tuple(replace(g, disk=replace(g.disk, size=8 * GIB)) for g in wished.guests))  # type: ignore[type-var]
    made = plan(larger, seen(larger, (defined(wished),)))
    assert lines(made.changes) == []
    assert "virsh blockresize web1 vda 8G" in made.text()


def test_an_image_that_does_not_fit_or_is_not_there_is_said(folder: Path) -> None:
    wished = want(image(folder, "large.raw", bytes(510) + b"\x55\xaa", 5 * GIB))
    with pytest.raises(PlanError, match=r"disk: 4G is smaller than its image, .*/large.raw: 5G"):
        plan(wished, seen(wished))
    absent = want("/srv/there-is-no-such-image.qcow2")
    with pytest.raises(PlanError, match=r"guest 'web1': image /srv/there-is-no-such-image.qcow2: No such file"):
        plan(absent, seen(absent))


def test_destroying_keeps_the_disk_and_says_so(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    snapshot = Snapshot(domains=(defined(wished, live=True),))
    made = plan_destroy("t", snapshot)
    assert [change.text().split(":")[0] for change in made.changes] == [
        "remove guest web1 (interrupts web1)",
        "remove guest seed web1",
    ]
    assert f"rm {files.place('web1').disk}" in made.text()
    make(made.changes)
    assert files.look("web1") == GuestFiles(disk=qcow2.Head(4 * GIB, f"{folder}/debian.qcow2"))
    assert "gets the disk again that it had" in plan(wished, seen(wished)).text()


def test_destroying_removes_the_disk_where_that_is_said(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    made = plan_destroy("t", Snapshot(domains=(defined(wished),)), remove_disks=True)
    assert lines(made.changes)[-1] == f"remove guest disk web1: {files.place('web1').disk}, with all that is on it"
    make(made.changes)
    assert not files.place("web1").disk.parent.exists()


def test_a_guest_that_leaves_the_file_keeps_its_disk(folder: Path) -> None:
    wished = want(disk_of(folder))
    make(plan(wished, seen(wished)).changes)
    made = plan(replace(wished, guests=()), Snapshot(domains=(defined(wished, live=True),)))
    assert [type(change).__name__ for change in made.changes][-2:] == ["RemoveDomain", "RemoveSeed"]
    assert "the disk of guest 'web1' stays" in made.text()


def test_a_users_domain_that_only_says_so_is_not_ours(folder: Path) -> None:
    wished = want(disk_of(folder))
    state = defined(wished)
    assert state.ours
    source = state.config.find("devices/disk/source")
    assert source is not None
    source.set("file", "/srv/their-own.qcow2")
    assert not state.ours
    assert [type(change).__name__ for change in plan_destroy("t", Snapshot(domains=(state,))).changes] != []
    assert "RemoveDomain" not in {type(c).__name__ for c in plan_destroy("t", Snapshot(domains=(state,))).changes}


# ---- XML


def domain(more: str) -> xmlgen.Element:
    made = want("/srv/debian.qcow2", more).guests[0].definition
    assert made is not None
    return made


def test_all_that_qemu_opens_is_named_and_the_chain_ends() -> None:
    made = domain("")
    assert made.xpath("devices/disk/@device") == ["disk", "disk"]
    below = made.find("devices/disk/backingStore")
    assert below is not None
    assert (attribute(inside(below, "format"), "type"), attribute(inside(below, "source"), "file")) == (
        "qcow2",
        "/srv/debian.qcow2",
    )
    end = below.find("backingStore")
    assert end is not None and len(end) == 0 and not end.attrib
    assert below.xpath("source/seclabel/@relabel") == ["no"]
    assert len(made.findall("devices/disk/driver[@type]")) == 2


def test_the_users_xml_is_merged_in() -> None:
    more = "<cputune><shares>5</shares></cputune><devices><video/></devices>"
    text = f"<domain><!-- mine --><os><loader/></os>{more}</domain>"
    made = domain(f"domain-xml: {text!r},")
    assert [each.tag for each in made.findall("os/*")] == ["loader"]
    assert made.findtext("cputune/shares") == "5"
    assert [each.tag for each in made.findall("devices/*")] == ["disk", "disk", "interface", "serial", "rng", "video"]
    assert "mine" not in etree.tostring(made).decode()


def tuned(size: str) -> str:
    limit = f"<memtune><hard_limit>{size}</hard_limit></memtune>"
    more = "<os><type>hvm</type></os><devices><input type='tablet' bus='virtio'/></devices>"
    return f'domain-xml: "<domain>{limit}{more}</domain>",'


def test_the_users_xml_is_compared_as_it_was_written(folder: Path) -> None:
    wished = want(disk_of(folder), tuned("1 "))
    make(plan(wished, seen(wished)).changes)
    there = defined(wished)
    inside(there.config, "memtune/hard_limit").text = "1024"  # in libvirt's words
    inside(there.config, "devices/input").set("type", "in its words, too")
    inside(there.config, "os/type").text = "hvm, in its words"
    assert lines(plan(wished, seen(wished, (there,))).changes) == []
    other = want(disk_of(folder), tuned("2"))
    (changed,) = lines(plan(other, seen(other, (there,))).changes)
    assert re.match("redefine guest web1: domain-xml: [0-9a-f]{8} -> [0-9a-f]{8}; ", changed)
    without = want(disk_of(folder))
    (changed,) = lines(plan(without, seen(without, (there,))).changes)
    assert re.match("redefine guest web1: domain-xml: [0-9a-f]{8} -> none", changed)
    inside(there.config, "vcpu").text = "3"
    assert lines(plan(wished, seen(wished, (there,))).changes) == ["redefine guest web1: vcpu: 3 -> 1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<domain><devices><interface/></devices></domain>", "leave <interface> out: NICs are the guest's ports"),
        ("<domain><metadata/></domain>", "leave <metadata> out"),
        ("<domain><memory>1</memory></domain>", "leave <memory> out: say memory: of the guest"),
        ("<network/>", "<network> stands there, not <domain>"),
        ("<domain", "XML cannot be read"),
        ("<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain>&x;</domain>", "XML"),
        ("<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:commandline/></domain>", "another namespace"),
        ("<domain><devices><disk><target dev='vda'/></disk></devices></domain>", "disk vda is guestnet's own"),
    ],
)
def test_xml_that_is_not_for_the_user_to_say_is_an_error(text: str, why: str) -> None:
    with pytest.raises(TopologyError, match=why) as caught:
        domain(f"domain-xml: {text!r},")
    assert str(caught.value).startswith("t.yaml:4:")


# ---- what is in files of its own


def complaint(more: str) -> str:
    with pytest.raises(TopologyError) as caught:
        want("/srv/debian.qcow2", more)
    return str(caught.value)


def test_user_data_is_read_from_a_file(folder: Path) -> None:
    (folder / "user-data").write_text("#cloud-config\n")
    found = want("/srv/debian.qcow2", f"user-data: {folder}/user-data,")
    assert found.guests[0].seed is not None and b"#cloud-config\n" in found.guests[0].seed


def test_a_user_data_of_a_megabyte_is_refused_with_its_place(folder: Path) -> None:
    (folder / "user-data").write_bytes(b"x" * (1 << 20))
    said = complaint(f"user-data: {folder}/user-data,")
    assert said == f"t.yaml:4:66: user-data: {folder}/user-data: it has 1048576 bytes, more than 16384"
    assert complaint(f"user-data: '{'x' * (1 << 20)}',").startswith(
        "t.yaml:4:66: a user-data of 1048576 bytes: at most"
    )


def test_what_is_no_text_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "latin").write_bytes(b"caf\xe9")
    (folder / "zero").write_bytes(b"a\0b")
    for name, why in (
        ("pipe", "no regular file"),
        ("latin", "not UTF-8"),
        ("zero", "zero byte"),
        ("no", "No such file"),
    ):
        for key in ("user-data", "domain-xml"):
            assert why in complaint(f"{key}: {folder}/{name},")
    assert "no regular file" in complaint("user-data: /dev/zero,")


def test_only_root_reads_a_rendered_seed(folder: Path) -> None:
    topology = loads(TOPOLOGY.replace("IMAGE", "/srv/x.raw").replace("MORE", ""), "t.yaml")
    written = render(topology, HostMap({}), folder / "out")
    modes = {str(path.relative_to(folder / "out")): path.stat().st_mode & 0o777 for path in written}
    assert modes == {
        "networks/web.xml": 0o644,
        "guests/web1/domain.xml": 0o644,
        "guests/web1/interface-web.xml": 0o644,
        "guests/web1/metadata.xml": 0o644,
        **dict.fromkeys(
            (f"guests/web1/seed/{name}" for name in ("meta-data", "network-config", "user-data", "vendor-data")), 0o600
        ),
    }
