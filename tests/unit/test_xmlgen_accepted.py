"""The reference output against libvirt's own schemas and its in-process test driver: no daemon, no root."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.elements import attribute, inside

from libvirt_guestnet.metadata.policy import NAMESPACE, PREFIX
from libvirt_guestnet.xmlgen import api_text

pytestmark = pytest.mark.system
GOLDEN = Path(__file__).parents[2] / "xml"
SCHEMAS = Path("/usr/share/libvirt/schemas")
FILES = sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("*.xml"))
EMPTY_DOMAIN = """
<domain type='test'>
  <name>around-an-interface</name><memory>8192</memory><os><type>hvm</type></os><devices/>
</domain>"""


@cache
def schema(file: Path) -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(file))


def files(kind: str) -> list[str]:
    return [name for name in FILES if Path(name).name.startswith(kind)]


def read(name: str) -> etree._Element:
    return etree.parse(GOLDEN / name).getroot()


def in_a_domain(interface: etree._Element) -> etree._Element:
    domain = etree.fromstring(EMPTY_DOMAIN)
    domain.find("devices").append(interface)
    return domain


@pytest.fixture(scope="module")
def test_driver() -> Iterator[Any]:
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


@pytest.mark.parametrize("name", files("network-"))
def test_network_is_valid_for_libvirts_schema(name: str) -> None:
    schema(SCHEMAS / "network.rng").assertValid(read(name))


@pytest.mark.parametrize("name", files("image-"))
def test_the_domain_of_an_image_file_is_valid_for_libvirts_schema(name: str) -> None:
    schema(SCHEMAS / "domain.rng").assertValid(read(name))


@pytest.mark.parametrize("name", files("domain-"))
def test_domain_is_valid_for_libvirts_schema(name: str) -> None:
    schema(SCHEMAS / "domain.rng").assertValid(read(name))


@pytest.mark.parametrize("name", files("interface-"))
def test_interface_is_valid_for_libvirts_schema(name: str) -> None:
    schema(SCHEMAS / "domain.rng").assertValid(in_a_domain(read(name)))


@pytest.mark.parametrize("name", files("network-"))
def test_network_is_accepted_by_the_test_driver(name: str, test_driver: Any) -> None:
    network = test_driver.networkDefineXML((GOLDEN / name).read_text())
    dumped = etree.fromstring(network.XMLDesc(0))
    assert dumped.findtext("name") == read(name).findtext("name")
    mark = f"metadata/{{{NAMESPACE}}}network"
    assert attribute(inside(dumped, mark), "topology") == attribute(inside(read(name), mark), "topology") != ""
    network.undefine()


@pytest.mark.parametrize("name", files("interface-"))
def test_interface_is_accepted_by_the_test_driver(name: str, test_driver: Any) -> None:
    domain = test_driver.defineXML(etree.tostring(in_a_domain(read(name)), encoding="unicode"))
    dumped = etree.fromstring(domain.XMLDesc(0)).find("devices/interface")
    assert (dumped.get("type"), dumped.find("mac").get("address")) == (
        read(name).get("type"),
        read(name).find("mac").get("address"),
    )
    domain.undefine()


@pytest.mark.parametrize("name", files("domain-"))
def test_domain_is_accepted_by_the_test_driver(name: str, test_driver: Any) -> None:
    wanted = read(name)
    wanted.set("type", "test")  # the only hypervisor this driver has
    domain = test_driver.defineXML(etree.tostring(wanted, encoding="unicode"))
    dumped = etree.fromstring(domain.XMLDesc(0))
    assert len(dumped.findall("devices/interface")) == len(wanted.findall("devices/interface"))
    assert dumped.findtext("sysinfo/entry") == wanted.findtext("sysinfo/entry")
    domain.undefine()


@pytest.mark.parametrize("name", files("domain-"))
def test_guest_configuration_has_no_comma(name: str) -> None:
    """libvirt 9.0 hands it to QEMU without doubling commas, and the domain does not start."""
    text = read(name).findtext("sysinfo/entry")
    assert (text is None) == ("virtual-router" in name)
    assert "," not in (text or "")


def canonical(element: etree._Element) -> bytes:
    # The stubs know no strip_text.
    return etree.tostring(element, method="c14n2", strip_text=True)  # type: ignore[call-overload, no-any-return]


def test_metadata_can_be_set_on_a_users_own_domain(test_driver: Any) -> None:
    import libvirt

    metadata = read("domain/metadata-of-a-users-domain.xml")
    domain = test_driver.defineXML(EMPTY_DOMAIN)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, api_text(metadata), PREFIX, NAMESPACE)
    kept = inside(etree.fromstring(domain.XMLDesc(0)), f"metadata/{{{NAMESPACE}}}domain")
    assert canonical(kept) == canonical(metadata)
    domain.undefine()


def test_libvirt_refuses_metadata_that_has_the_namespace_already(test_driver: Any) -> None:
    """Why api_text exists; when this fails, libvirt has changed and api_text can go."""
    import libvirt

    metadata = (GOLDEN / "domain/metadata-of-a-users-domain.xml").read_text()
    domain = test_driver.defineXML(EMPTY_DOMAIN)
    with pytest.raises(libvirt.libvirtError, match="namespace"):
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, metadata, PREFIX, NAMESPACE)
    domain.undefine()
