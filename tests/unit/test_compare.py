"""Comparison by meaning: what libvirt adds is nothing, what we own is everything."""

from pathlib import Path

import pytest
from lxml import etree
from steps import steps
from support.elements import inside

from libvirt_guestnet.plan.compare import differences
from libvirt_guestnet.plan.nic import merged

DATA = Path(__file__).parents[1] / "data" / "plan"

NETWORK = """
<network>
  <name>vlan1</name>
  <metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" guarded="yes">
    <g:subnet prefix="10.61.1.0/24" host="10.61.1.1"/></g:network></metadata>
  <forward mode="nat"><nat ipv6="yes"/></forward>
  <bridge name="virbr1" stp="on" delay="0"/>
  <dns><host ip="10.61.1.9"><hostname>c</hostname></host></dns>
  <ip address="10.61.1.1" prefix="24"><dhcp>
    <range start="10.61.1.100" end="10.61.1.200"/>
    <host mac="52:54:00:AA:00:01" name="a" ip="10.61.1.5"/>
    <host mac="52:54:00:aa:00:02" name="b" ip="10.61.1.6"/></dhcp></ip>
  <ip family="ipv6" address="fd61:0001::1" prefix="64"/>
</network>"""

# The same as libvirt dumps it: reordered, completed, in its own spelling.
DUMPED = """
<network connections='1' xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>vlan1</name>
  <uuid>02f0886c-ee25-438a-818c-c8c25549300e</uuid>
  <metadata><other:x xmlns:other="urn:other"/>
    <guestnet:network xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1" guarded="yes" topology="t">
      <guestnet:subnet host="10.61.1.1" prefix="10.61.1.0/24"/>
    </guestnet:network>
  </metadata>
  <forward mode='nat'><nat ipv6='yes'><port start='1024' end='65535'/></nat></forward>
  <bridge name='virbr1' stp='on' delay='0'/>
  <mac address='52:54:00:11:22:33'/>
  <dns><host ip='10.61.1.9'><hostname>c</hostname></host></dns>
  <ip family='ipv6' address='fd61:1::1' prefix='64'/>
  <ip address='10.61.1.1' netmask='255.255.255.0'><dhcp>
    <range start='10.61.1.100' end='10.61.1.200'/>
    <host mac='52:54:00:aa:00:02' name='b' ip='10.61.1.6'/>
    <host mac='52:54:00:aa:00:01' name='a' ip='10.61.1.5'/></dhcp></ip>
</network>"""


def xml(text: str) -> etree._Element:
    return etree.fromstring(text)


def found(wanted: str, actual: str, inherited: frozenset[str] = frozenset()) -> list[str]:
    return [str(difference) for difference in differences(xml(wanted), xml(actual), inherited)]


def test_what_libvirt_adds_reorders_and_respells_is_no_difference() -> None:
    assert found(NETWORK, DUMPED) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("mode='nat'", "mode='route'", "forward/@mode: route -> nat"),
        ("<nat ipv6='yes'>", "<nat>", "forward/nat/@ipv6: yes is missing"),
        ("virbr1", "virbr9", "bridge/@name: virbr9 -> virbr1"),
        (
            "ip='10.61.1.6'",
            "ip='10.61.1.7'",
            "ip[10.61.1.1/24]/dhcp/host[52:54:00:aa:00:02]/@ip: 10.61.1.7 -> 10.61.1.6",
        ),
        (
            "<range ",
            "<range start='10.61.1.30' end='10.61.1.40'/><range ",
            "ip[10.61.1.1/24]/dhcp/range[10.61.1.30-10.61.1.40]: start=10.61.1.30 end=10.61.1.40 is not wanted",
        ),
        (
            "<hostname>c</hostname>",
            "<hostname>c</hostname><hostname>d</hostname>",
            "dns/host[10.61.1.9]/hostname[d]: d is not wanted",
        ),
        (
            "<ip family",
            "<ip address='10.9.9.1' prefix='24'/><ip family",
            "ip[10.9.9.1/24]: address=10.9.9.1 prefix=24 is not wanted",
        ),
        ("<mac ", "<mtu size='1400'/><mac ", "mtu: size=1400 is not wanted"),
        ('guarded="yes"', 'guarded="no"', "metadata/network/@guarded: no -> yes"),
        ("<dns>", "<portgroup name='x'/><dns>", "portgroup[x]: name=x is not wanted"),
    ],
)
def test_what_we_own_must_be_as_wanted(before: str, after: str, expected: str) -> None:
    assert before in DUMPED
    differing = found(NETWORK, DUMPED.replace(before, after))
    assert any(expected in text for text in differing), differing


def test_of_a_long_text_only_the_lines_that_differ_are_told() -> None:
    old = "<sysinfo><entry name='c'>guestnet 1\nnic net0 up\ngateway net0 10.0.0.1\n</entry></sysinfo>"
    new = old.replace("gateway", "nic net1 up\ngateway").replace("10.0.0.1", "10.0.0.2")
    expected = "sysinfo/entry[c]: -gateway net0 10.0.0.1, +nic net1 up, +gateway net0 10.0.0.2"
    assert found(f"<domain>{new}</domain>", f"<domain>{old}</domain>") == [expected]


def test_a_missing_reservation_is_named() -> None:
    gone = DUMPED.replace("<host mac='52:54:00:aa:00:01' name='a' ip='10.61.1.5'/>", "")
    assert found(NETWORK, gone) == [
        "ip[10.61.1.1/24]/dhcp/host[52:54:00:aa:00:01]: mac=52:54:00:AA:00:01 name=a ip=10.61.1.5 is missing"
    ]


def test_a_missing_dhcp_is_said_entry_by_entry_so_that_it_can_be_added_live() -> None:
    actual = "<network><ip address='10.0.0.1' prefix='24'/></network>"
    wanted = actual.replace("/></n", "><dhcp><range start='10.0.0.5' end='10.0.0.6'/></dhcp></ip></n")
    assert found(wanted, actual) == [
        "ip[10.0.0.1/24]/dhcp/range[10.0.0.5-10.0.0.6]: start=10.0.0.5 end=10.0.0.6 is missing"
    ]
    assert found(actual, wanted) == [
        "ip[10.0.0.1/24]/dhcp/range[10.0.0.5-10.0.0.6]: start=10.0.0.5 end=10.0.0.6 is not wanted"
    ]


def test_names_are_compared_to_the_letter() -> None:
    assert found("<network><name>Vlan</name></network>", "<network><name>vlan</name></network>")


NIC = """
<interface type='network'><mac address='52:54:00:61:0A:01'/><source network='vlan1'/><target dev='vme1'/>
<model type='virtio'/></interface>"""
LIVE_NIC = """
<interface type='bridge'><mac address='52:54:00:61:0a:01'/>
<source network='vlan1' portid='02f0886c-ee25-438a-818c-c8c25549300e' bridge='virbr1'/>
<target dev='vme1'/><model type='virtio'/><driver name='vhost'/><alias name='net1'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/></interface>"""


def test_a_live_nic_of_a_bridge_network_is_still_of_that_network() -> None:
    assert found(NIC, LIVE_NIC) == []


def test_a_link_state_of_up_is_the_same_as_none() -> None:
    assert found(NIC, LIVE_NIC.replace("<alias", "<link state='up'/><alias")) == []
    assert found(NIC.replace("<model", "<link state='up'/><model"), LIVE_NIC) == []
    assert found(NIC, LIVE_NIC.replace("<alias", "<link state='down'/><alias")) == ["link: state=down is not wanted"]


def test_what_a_nic_inherits_from_its_network_is_no_difference() -> None:
    isolated = LIVE_NIC.replace("<alias", "<port isolated='yes'/><alias")
    assert found(NIC, isolated) == ["port: isolated=yes is not wanted"]
    assert found(NIC, isolated, frozenset({"port"})) == []


def test_what_the_user_added_to_a_nic_survives_a_merge() -> None:
    wanted = xml(NIC.replace("vlan1", "vlan2").replace("<model", "<link state='down'/><model"))
    result = merged(wanted, xml(LIVE_NIC.replace("<alias", "<bandwidth><inbound average='9'/></bandwidth><alias")))
    assert not differences(wanted, result)
    assert result.find("driver").get("name") == "vhost"
    assert result.find("address").get("slot") == "0x03"
    assert result.find("source").attrib == {"network": "vlan2"}
    assert result.get("type") == "network"


def test_a_real_domain_of_libvirt_9_has_what_was_defined_and_nothing_more() -> None:
    """guesta.xml was given to `virsh define`; guesta-live.xml is what a running libvirt 9.0.0 made of it."""
    wanted, live = (etree.parse(DATA / name).getroot() for name in ("guesta.xml", "guesta-live.xml"))
    assert [str(d) for d in differences(wanted, live)] == []
    live.find("devices").remove(inside(live, "devices/interface"))
    assert len(differences(wanted, live)) == 1


def test_a_real_network_of_libvirt_9_differs_in_the_one_thing_that_was_edited_since() -> None:
    wanted, live = (etree.parse(DATA / name).getroot() for name in ("vlan1.xml", "vlan1-live.xml"))
    assert [str(d) for d in differences(wanted, live)] == ["bridge/@stp: on -> off"]


def test_memory_is_compared_as_a_size() -> None:
    wanted = "<domain><memory unit='MiB'>128</memory><vcpu>1</vcpu></domain>"
    dumped = "<domain><memory unit='KiB'>131072</memory><vcpu placement='static'>1</vcpu></domain>"
    assert found(wanted, dumped) == []
    assert found(wanted, dumped.replace("131072", "131073")) == ["memory: 131073 KiB -> 131072 KiB"]


def test_a_machine_alias_means_its_versions() -> None:
    os = "<domain><os><type arch='x86_64' machine='{}'>hvm</type></os></domain>"
    assert found(os.format("pc"), os.format("pc-i440fx-7.2")) == []
    assert found(os.format("q35"), os.format("pc-q35-7.2")) == []
    assert found(os.format("q35"), os.format("pc-i440fx-7.2")) != []


def test_reservations_are_compared_in_linear_time() -> None:
    def compare(size: int) -> None:
        one, other = (xml(network.format("".join(order))) for order in (hosts[:size], hosts[:size][::-1]))
        assert differences(one, other) == ()

    hosts = [
        f"<host mac='52:54:00:00:{n // 256:02x}:{n % 256:02x}' ip='10.0.{n // 256}.{n % 256}'/>" for n in range(900)
    ]
    network = "<network><ip address='10.0.0.1' prefix='16'><dhcp>{}</dhcp></ip></network>"
    few, many = (steps(compare, size) for size in (300, 900))
    assert 2.5 < many / few < 3.2
