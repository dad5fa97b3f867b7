"""Which addresses a port has by what its metadata and its network say, before anything reaches the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.datapath.port import filters, held_sets, port_facts
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import address_sets
from libvirt_guestnet.hook.read import network_receipts, port_receipts, wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.xmlread import Node, parse

MAC = "52:54:00:00:00:01"
XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
LAN = NetworkReceipt("lan", "t", True, "br0", subnets=("10.0.0.0/24", "fd00::/64"), hosts=("10.0.0.1",))
SERVED = LAN._replace(dynamic=(("10.0.0.100", "10.0.0.200"),), lease=3600, mac="52:54:00:00:00:ff")
SLAAC = "fd00::5054:ff:fe00:1"


def domain(policy: str = "", attributes: str = "", bridge: str = "br0") -> Node:
    return parse(
        f"""<domain><name>a</name><uuid>u</uuid><metadata><g:domain {XMLNS} topology="t" guest="a">
      <g:port mac="{MAC}" name="p" network="lan" guarded="yes" {attributes}>{policy}</g:port></g:domain></metadata>
      <devices><interface type='network'><mac address='{MAC}'/><source network='lan' bridge='{bridge}'/>
      <target dev='tap0'/></interface></devices></domain>""".encode()
    )


def receipt(network: NetworkReceipt | None, policy: str = "", attributes: str = "", bridge: str = "br0") -> PortReceipt:
    (found,) = port_receipts.port_receipts(Domain(domain(policy, attributes, bridge), lambda _name: network))
    return found


@pytest.mark.parametrize("network", [None, LAN, SERVED], ids=["unknown", "no DHCP", "DHCP"])
def test_none_is_none_whatever_the_network_says(network: NetworkReceipt | None) -> None:
    found = receipt(network, attributes='addresses="none"')
    assert (found.owned, found.dhcp, found.dynamic, found.bare) == ((), (), (), True)
    text = filters.own(port_receipts.guard_of(found))
    assert "udp sport 68" not in text
    assert "fe80" not in text


ANYWHERE = ("2000::/3", "fc00::/7", "fe80::/64")
FORMS = ("fd00::/64", "fe80::/64")


@pytest.mark.parametrize(
    ("network", "claims"),
    [
        (None, ANYWHERE),
        (LAN._replace(subnets=(), hosts=()), ANYWHERE),
        (LAN._replace(subnets=("10.0.0.0/24",), hosts=()), ANYWHERE),
        (LAN, FORMS),
        (LAN._replace(hosts=()), FORMS),
        (LAN._replace(subnets=(), announced=("fd00::/64",)), FORMS),
        (LAN._replace(subnets=("10.0.0.0/24",)), ()),
        (LAN._replace(dynamic=(("fd00::9", "fd00::f"),)), FORMS[1:]),
        (LAN._replace(reservations=(("", "fd00::9"),)), FORMS[1:]),
    ],
)
def test_a_port_claims_where_the_host_or_the_lan_lets_it_form_addresses(
    network: NetworkReceipt | None, claims: tuple[str, ...]
) -> None:
    for policy in ("", '<g:address ip="10.0.0.9"/>', '<g:address ip="fd00::9"/>'):
        found = receipt(network, policy)
        assert (found.claims, found.privacy) == (claims, False)
        assert receipt(network, policy, 'privacy="strict"').claims == ()
        private = receipt(network, policy, 'privacy="yes"')
        assert (private.claims, private.privacy) == (claims, True)
    assert receipt(network, attributes='addresses="none" privacy="yes"').claims == ()
    opened = receipt(network, attributes='addresses="any" privacy="yes"')
    assert bool(opened.claims) is (claims != () and not any("::/" in text for text in opened.owned))


def test_what_a_network_says_of_formed_addresses_a_port_may_say_otherwise() -> None:
    strict = LAN._replace(strict=True, mac="52:54:00:00:00:fe", hosts=("10.0.0.1", "fd00::1"))
    assert receipt(strict).claims == ()
    found = receipt(strict, attributes='privacy="no"')
    assert (found.claims, found.unclaimed) == (FORMS, ("fd00::1", "fe80::5054:ff:fe00:fe"))


def test_any_is_what_somebody_wrote() -> None:
    assert receipt(None, attributes='addresses="any"').owned == ("0.0.0.0/0", "::/0")
    found = receipt(LAN._replace(reservations=(("", "10.0.0.7"),)), attributes='addresses="any"')
    assert (found.owned, found.excluded) == (LAN.subnets, ("10.0.0.1", "10.0.0.7"))
    for network in (None, LAN, SERVED):
        for policy in ("", '<g:pair prefix="10.0.0.9/32"/>'):
            assert port_facts.open_prefixes(port_receipts.guard_of(receipt(network, policy)), 4) == []


def test_what_nobody_says_follows_from_the_mac_or_is_learnt() -> None:
    assert receipt(None).owned == ()
    assert receipt(LAN).owned == (SLAAC,)
    assert (receipt(SERVED).owned, receipt(SERVED).dhcp) == ((SLAAC,), ("10.0.0.1",))
    # A range whose server cannot be told from others is not the port's, as a whole, either.
    assert receipt(SERVED._replace(hosts=())).owned == (SLAAC,)


FORMED = '<ip family="ipv6" address="fd00:7::1" prefix="64"/>'
SERVES6 = (
    '<ip family="ipv6" address="fd00:8::1" prefix="64"><dhcp><range start="fd00:8::9" end="fd00:8::f"/></dhcp></ip>'
)


@pytest.mark.parametrize(
    ("ips", "announced"),
    [
        (FORMED, ("fd00:7::/64",)),
        (FORMED + SERVES6, ()),
        (FORMED.replace('"64"', '"80"'), ()),
        ('<ip address="10.0.0.1" prefix="24"><dhcp><range start="10.0.0.9" end="10.0.0.99"/></dhcp></ip>', ()),
    ],
)
def test_what_guests_form_addresses_of_is_what_libvirt_announces(ips: str, announced: tuple[str, ...]) -> None:
    network = parse(
        f"""<network><name>n</name><bridge name="br0"/><metadata><g:network {XMLNS} topology="t" name="n"
        guarded="yes"/></metadata>{ips}</network>""".encode()
    )
    found = network_receipts.network_receipt(network)
    assert found and found.announced == announced


@pytest.mark.parametrize("policy", ['<g:address ip="10.0.0.9"/>', '<g:address ip="fd00::9"/>', ""])
def test_what_a_guest_must_form_is_its_own_whatever_else_it_has(policy: str) -> None:
    announcing = LAN._replace(subnets=(), announced=("fd00::/64", "fd00:1::/64"))
    formed = (SLAAC, SLAAC.replace("fd00:", "fd00:1:"))
    for network in (announcing, announcing._replace(subnets=("fd00::/64",))):
        assert receipt(network, policy).owned[-2:] == formed
    assert receipt(announcing, f'<g:address ip="{SLAAC}"/>').owned == (f"{SLAAC}/128", formed[1])
    assert receipt(announcing, attributes='addresses="none"').owned == ()
    # What is somebody's is not formed by anybody else.
    taken = announcing._replace(hosts=(SLAAC,), reservations=(("52:54:00:00:00:09", formed[1]),))
    assert receipt(taken, '<g:address ip="10.0.0.9"/>').owned == ("10.0.0.9/32",)


@pytest.mark.parametrize(
    ("attributes", "policy", "complaint"),
    [
        ('addresses="none"', '<g:address ip="10.0.0.9"/>', "contradicts the port's <guestnet:address>"),
        ('addresses="all"', "", "is neither none nor any"),
    ],
)
def test_other_words_are_refused(attributes: str, policy: str, complaint: str) -> None:
    with pytest.raises(GuestnetError, match=f"domain 'a': interface {MAC}: metadata: .*{complaint}"):
        receipt(LAN, policy, attributes)


def test_a_link_is_a_bridge_and_the_vlan_of_its_network() -> None:
    assert receipt(LAN).segment == "br0"
    assert receipt(LAN._replace(vlan=100)).segment == "br0/100"
    assert receipt(LAN, bridge="a-bridge-of-15c").segment == "a-bridge-of-15c"
    assert receipt(LAN._replace(vlan=4094), bridge="a-bridge-of-15c").segment == "a-bridge-of-15c/4094"
    # Nobody keeps account where the name could not be written.
    assert receipt(LAN, bridge="br 0;}").segment == ""
    for vlan in (0, 4094):
        found = receipt(LAN._replace(vlan=vlan), '<g:address ip="10.0.0.9"/>', bridge="a-bridge-of-15c")
        assert f"owned4-{found.segment} {{ 0xa000009 }}" in filters.own(port_receipts.guard_of(found))


def test_a_receipt_is_read_back(tmp_path: Path) -> None:
    state = UnlockedState(str(tmp_path))
    for attributes in ("", 'addresses="none"', 'addresses="any"'):
        found = receipt(LAN, attributes=attributes)
        with state.lock() as locked:
            locked.put_ports("u", [found])
        assert state.port("tap0") == found


def test_large_pairs_are_ranges_in_the_account_merged_and_rewritten_with_each_change(tmp_path: Path) -> None:
    state = UnlockedState(str(tmp_path))
    large = receipt(LAN, '<g:pair prefix="10.0.0.0/25"/><g:pair prefix="10.0.2.0/23"/>')
    assert len(held_sets.held(port_receipts.guard_of(large))) == 128 + 2  # and link-local, SLAAC
    with state.lock() as locked:
        locked.put_ports("u", [large])
    other = receipt(LAN, '<g:pair prefix="10.0.0.0/22"/>')._replace(tap="tap1", uuid="v")
    assert "add element netdev guestnet wide4-br0 { 0xa000000-0xa0003ff }" in address_sets.spread([], [other], state)
    assert "add element netdev guestnet wide4-br0 { 0xa000200-0xa0003ff }" in address_sets.spread([other], [], state)
    assert "add element" not in address_sets.spread([large], [], state)
    elsewhere = other._replace(segment="br1")
    assert "wide4-br0" not in address_sets.spread([], [elsewhere], state)
    assert address_sets.spread([], [receipt(LAN)], state) == ""


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('<g:address ip="10.0.0.5"/>' * 1025, "1024 addresses, prefixes, forwards and the like at most, not 1025"),
        ('<g:behind prefix="10.0.0.0/24"/>' * 65, "64 prefixes behind its ports at most, not 65"),
    ],
)
def test_a_domain_asks_for_no_more_than_a_host_can_carry(policy: str, said: str) -> None:
    with pytest.raises(GuestnetError, match=said):
        receipt(LAN, policy)


def test_forwards_move_no_more_ports_than_a_host_can_carry() -> None:
    forward = '<g:forward protocol="tcp" ports="{}-{}" first="1" to="10.0.0.5"/>'
    policy = "".join(forward.format(1000 * number, 1000 * number + 999) for number in range(2, 8))
    with pytest.raises(GuestnetError, match="may move 4096 ports at most, not 6000"):
        wanted_forwards.port_forwards(Domain(domain(policy), lambda _name: LAN))


def test_forwards_list_no_more_clients_than_a_host_can_carry() -> None:
    """Of 65,000, which 1,024 forwards could list, nft takes longer than any other guest's start may wait."""
    clients = ",".join(f"10.{number}.0.0/17" for number in range(64))
    policy = "".join(f'<g:forward protocol="tcp" ports="{n}" to="10.0.0.5" from="{clients}"/>' for n in range(1, 66))
    with pytest.raises(GuestnetError, match="may list 4096 prefixes of clients at most, not 4160"):
        wanted_forwards.port_forwards(Domain(domain(policy), lambda _name: LAN))


def test_a_word_that_nobody_knows_is_no_answer() -> None:
    """A host would go without what somebody insists on."""
    for word, said in (("refuse", "refuse"), ("", "")):
        assert receipt(LAN, attributes=f'offload="{word}"').offload == said
    for word in ("Refuse", "refuse ", "require"):
        with pytest.raises(GuestnetError, match=f"<guestnet:port> offload: '{word}' is not refuse"):
            receipt(LAN, attributes=f'offload="{word}"')
    for attribute, word in (("guarded", "Required"), ("offload", "deny")):
        ours = f'<g:network {XMLNS} topology="t" name="lan" {attribute}="{word}"/>'
        network = parse(f"<network><name>lan</name><metadata>{ours}</metadata></network>".encode())
        with pytest.raises(GuestnetError, match=f"<guestnet:network> {attribute}: '{word}' is not "):
            network_receipts.network_receipt(network)


def test_a_port_is_on_the_link_of_its_own_vlan() -> None:
    vlan100 = LAN._replace(vlan=100)
    assert receipt(vlan100, '<g:vlan tag="200"/>').segment == "br0/200"
    assert receipt(vlan100, '<g:vlan trunk="100-110" native="5"/>', 'addresses="none"').segment == "br0"
    # Another bridge may be called like that with a dot between.
    assert receipt(LAN, bridge="br0.100").segment != receipt(vlan100).segment


def test_a_link_is_a_bridge_or_a_vlan_of_one_whatever_devices_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_sets.links, "is_bridge", lambda name: name == "br0")
    names = ("br0", "br0.5", "br0.5000", "br0.x", "br0.", "eth0.5")
    assert [address_sets._link_of(name) for name in names] == ["br0", "br0/5", "", "", "", ""]
