"""Networks and domains made with virsh alone from what `guestnet render` wrote: the hooks guard them like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from support.libvirt_wire import Wire, arrived, domain

from libvirt_guestnet.cli.main import main
from libvirt_guestnet.datapath.port.port_facts import link_local
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox

LAB = Path(__file__).parents[2] / "labs/archnetwork.yaml"
ALL = "ff:ff:ff:ff:ff:ff"
B_MAC, B_IP = "52:54:00:82:49:93", "10.61.2.1"
C_MAC, C_IP, C_TAP = "52:54:00:f3:ed:f1", "10.61.2.19", "vmea7de2629"
STRANGER = "52:54:00:00:00:07"


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    return each_sandbox


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's XML; LAN labels stand for NICs that nobody touches here."""
    directory = tmp_path_factory.mktemp("rendered")
    assert main(["render", str(LAB), "--map", "lan1=nic:lan1", "--map", "lan2=nic:lan2", "-o", str(directory)]) == 0
    return directory


class Virsh:
    """virsh in the sandbox, and what it has made."""

    def __init__(self, sandbox: Sandbox, rendered: Path) -> None:
        self.sandbox, self.rendered = sandbox, rendered

    def __call__(self, *argv: str, stdin: str = "") -> str:
        return self.sandbox.run(["virsh", "-q", *argv], stdin=stdin).stdout

    def edit(self, name: str, *script: str) -> None:
        """`virsh edit` with sed as the editor."""
        expressions = " ".join(f"-e '{part}'" for part in script)
        self.sandbox.run(["env", f"EDITOR=sed -i {expressions}", "virsh", "-q", "edit", name])

    def text(self, name: str) -> str:
        return (self.rendered / name).read_text()

    @contextmanager
    def network(self) -> Iterator[None]:
        self("net-define", "/dev/stdin", stdin=self.text("networks/vlan2.xml"))
        self("net-start", "vlan2")
        try:
            yield
        finally:
            self("net-destroy", "vlan2")
            self("net-undefine", "vlan2")

    @contextmanager
    def defined(self, name: str, xml: str) -> Iterator[None]:
        self("define", "/dev/stdin", stdin=xml)
        try:
            yield
        finally:
            self.sandbox.run(["virsh", "-q", "destroy", name], check=False)
            self("undefine", name)

    @contextmanager
    def wired(self, name: str) -> Iterator[Wire]:
        """A started domain with a wire on its first NIC."""
        self("start", name)
        with Wire(self.sandbox, name) as wire:
            yield wire
        self("destroy", name)


@pytest.fixture(scope="module")
def virsh(sandbox: Sandbox, rendered: Path) -> Iterator[Virsh]:
    """The network, and a guest b on it that hears everything."""
    made = Virsh(sandbox, rendered)
    guest_b = domain("b", made.text("guests/b/interface-vlan2.xml"), metadata=made.text("guests/b/metadata.xml"))
    with made.network(), made.defined("b", guest_b):
        yield made


@pytest.fixture(scope="module")
def ear(virsh: Virsh) -> Iterator[Wire]:
    with virsh.wired("b") as wire:
        yield wire


def arp(address: str, mac: str = C_MAC, claimed: str = "") -> bytes:
    return bytes(Ether(src=mac, dst=ALL) / ARP(hwsrc=claimed or mac, psrc=address, pdst="10.61.2.250"))


def packet(address: str, mac: str = C_MAC) -> bytes:
    return bytes(Ether(src=mac, dst=ALL) / IP(src=address, dst="255.255.255.255") / UDP(sport=9, dport=9) / b"plain")


def chains(sandbox: Sandbox) -> str:
    return sandbox.run(["nft", "list", "table", "netdev", "guestnet"]).stdout


def test_a_domain_from_rendered_parts_is_guarded(virsh: Virsh, ear: Wire, sandbox: Sandbox) -> None:
    guest_c = domain("c", virsh.text("guests/c/interface-vlan2.xml"), metadata=virsh.text("guests/c/metadata.xml"))
    with virsh.defined("c", guest_c):
        with virsh.wired("c") as wire:
            assert C_TAP in chains(sandbox)
            forged = [arp(B_IP), arp(C_IP, mac=B_MAC), arp(C_IP, claimed=B_MAC), packet(B_IP), packet(C_IP, mac=B_MAC)]
            assert arrived(wire, ear, forged, arp(C_IP)) == []
            assert arrived(wire, ear, [arp(C_IP)], packet(C_IP)) == [arp(C_IP)]
        assert C_TAP not in chains(sandbox)


def test_the_wire_itself_hides_nothing(virsh: Virsh, ear: Wire, sandbox: Sandbox) -> None:
    guest_c = domain("c", virsh.text("guests/c/interface-vlan2.xml"), metadata=virsh.text("guests/c/metadata.xml"))
    unguarded = guest_c.replace('guarded="yes"', 'guarded="no"')
    assert unguarded != guest_c
    with virsh.defined("c", unguarded), virsh.wired("c") as wire:
        assert C_TAP not in chains(sandbox)
        forged = [arp(B_IP), arp(C_IP, mac=STRANGER), arp(C_IP, claimed=B_MAC), packet(B_IP)]
        assert arrived(wire, ear, forged, arp(C_IP)) == forged


@pytest.mark.parametrize("way", ["edit", "metadata"])
def test_ones_own_domain_gets_rendered_parts_by_attach_device(virsh: Virsh, ear: Wire, way: str) -> None:
    """As xml/README.md says, where the key must not be the prefix that the file has."""
    with ExitStack() as stack:
        stack.enter_context(virsh.defined("c", domain("c")))
        nic = virsh.text("guests/c/interface-vlan2.xml").replace('"virtio"', '"rtl8139"')
        virsh("attach-device", "c", "/dev/stdin", "--config", stdin=nic)
        metadata = virsh.text("guests/c/metadata.xml")
        if way == "edit":
            virsh.sandbox.run(["tee", "/run/metadata.xml"], stdin=metadata)
            script = (r"/<memory/i <metadata>", "/<memory/{e cat /run/metadata.xml", "}", r"/<memory/i </metadata>")
            virsh.edit("c", *script)
        else:
            virsh("metadata", "c", NAMESPACE, "--key", "g", "--config", "--set", metadata)
        assert "10.61.2.19" in virsh("dumpxml", "c", "--inactive")
        wire = stack.enter_context(virsh.wired("c"))
        assert arrived(wire, ear, [arp(B_IP), packet("10.61.2.99")], arp(C_IP)) == []


def test_a_domain_without_metadata_has_the_networks_defaults(virsh: Virsh, ear: Wire, sandbox: Sandbox) -> None:
    nic = f"<mac address='{STRANGER}'/><source network='vlan2'/><model type='virtio'/>"
    stranger = domain("stranger", f"<interface type='network'>{nic}</interface>")
    with virsh.defined("stranger", stranger), virsh.wired("stranger") as wire:
        tap = virsh("domiflist", "stranger").split()[0]
        assert tap in chains(sandbox)
        # Nobody says its address, and nobody here tells it one: it has what follows from its MAC.
        honest = bytes(
            Ether(src=STRANGER, dst=ALL) / IPv6(src=str(link_local(STRANGER)), dst="ff02::1") / UDP() / b"plain"
        )
        forged = [arp("10.61.2.200", mac=B_MAC), arp("10.61.2.200", mac=STRANGER, claimed=B_MAC)]
        forged += [packet("192.0.2.1", mac=STRANGER), packet("10.61.2.200", mac=C_MAC)]
        forged += [arp("10.61.2.200", mac=STRANGER), packet("10.61.2.200", mac=STRANGER)]
        assert arrived(wire, ear, forged, honest) == []


def test_edited_metadata_holds_from_the_next_start(virsh: Virsh, ear: Wire) -> None:
    guest_c = domain("c", virsh.text("guests/c/interface-vlan2.xml"), metadata=virsh.text("guests/c/metadata.xml"))
    with virsh.defined("c", guest_c):
        with virsh.wired("c") as wire:
            assert arrived(wire, ear, [arp("10.61.2.99")], arp(C_IP)) == []
        virsh.edit("c", "s/10.61.2.19/10.61.2.99/")
        with virsh.wired("c") as wire:
            assert arrived(wire, ear, [arp(C_IP)], arp("10.61.2.99")) == []
