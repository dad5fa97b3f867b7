"""Roles where people say them, and MAC addresses that pairs lend: in the file, metadata, `import`, and hooks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from lxml import etree

from libvirt_guestnet.datapath.port.port_facts import ROLES, forwarded_groups
from libvirt_guestnet.errors import NotAdmittedError, TopologyError
from libvirt_guestnet.hook.admission import guardable
from libvirt_guestnet.hook.read import port_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.importing import text as imported
from libvirt_guestnet.metadata.policy import DomainPolicy, Pair, PortPolicy
from libvirt_guestnet.metadata.writer import domain_element
from libvirt_guestnet.model.notes import notes
from libvirt_guestnet.model.topology import Role
from libvirt_guestnet.parse import address, prefix
from libvirt_guestnet.plan import link_roles
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.topology import loads, schema
from libvirt_guestnet.xmlread import parse

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:61:0a:01"
XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'


def test_one_list_of_roles_is_everywhere() -> None:
    declared = re.search(r'<element name="role">.*?</element>', (ROOT / "xml/metadata.rng").read_text(), re.S)
    assert declared
    documented = re.search(r"\| role \|.*?\n\n", (ROOT / "docs/port-security.md").read_text(), re.S)
    assert documented
    lists = {
        "model": [str(role) for role in Role],
        "metadata": re.findall("<value>(.*?)</value>", declared[0]),
        "editors": re.findall(r'"enum": (\[[^]]*"dhcp-server"[^]]*\])', json.dumps(schema.json_schema())),
        "docs": re.findall(r"^\| `(.*?)` \|", documented[0], re.M),
    }
    lists["editors"] = json.loads(lists["editors"][0])
    assert {name: sorted(words) for name, words in lists.items()} == dict.fromkeys(lists, sorted(ROLES))


def test_import_writes_the_roles_that_were_set_without_a_file() -> None:
    said = "\n".join(imported._said(PortPolicy(MAC, "p", "n", roles=("dhcp-relay", "pppoe-server", "stp"))))
    assert yaml.safe_load(said)["roles"] == ["dhcp-relay", "pppoe-server", "stp"]


def test_a_mistyped_role_is_an_error_with_a_hint() -> None:
    with pytest.raises(TopologyError, match=r"t:4:46: unknown role 'dhcp-really'; did you mean 'dhcp-relay'\?"):
        loads("""
name: t
networks: { n: { mode: isolated } }
guests: { g: { ports: [{ network: n, roles: [dhcp-really] }] } }
""", "t")  # fmt: skip


def domain(*roles: str, more: str = "") -> Domain:
    listed = "".join(f'<g:role name="{role}"/>' for role in roles)
    port = f'<g:port mac="{MAC}" name="p" network="" guarded="yes" {more}><g:address ip="10.0.0.2"/>{listed}</g:port>'
    return Domain(
        parse(
            f"""<domain><name>a</name><uuid>u</uuid><metadata><g:domain {XMLNS} topology="t" guest="a">{port}</g:domain>
      </metadata><devices><interface type='bridge'><mac address='{MAC}'/><source bridge='br0'/><target dev='vnet0'/>
      </interface></devices></domain>""".encode()
        )
    )


def test_a_hook_takes_over_the_roles_that_it_knows() -> None:
    (receipt,) = port_receipts.port_receipts(domain("lldp", "of-a-later-version", "dhcp-relay"))
    assert receipt.roles == ("lldp", "dhcp-relay")
    assert forwarded_groups(receipt.roles) == 0x4009
    assert forwarded_groups(("ospf", "isis", "mpls", "pppoe")) == 0


def test_who_speaks_the_spanning_tree_protocol_is_kept_from_bridges_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardable.links, "runs_spanning_tree", lambda bridge: bridge == "br0")
    guardable.check(domain("lldp", "ospf"), refuse=False)
    with pytest.raises(NotAdmittedError, match=f"domain 'a': interface {MAC}: its role stp .* bridge br0 takes part"):
        guardable.check(domain("stp"), refuse=False)
    monkeypatch.setattr(guardable.links, "runs_spanning_tree", lambda _bridge: False)
    guardable.check(domain("stp"), refuse=False)


def test_who_sends_spanning_tree_to_a_switch_is_told() -> None:
    found = loads(
        """
name: t
physical-networks: { lan: {} }
networks:
  out: { mode: bridge, physical-network: lan }
  in: { mode: isolated }
guests:
  a: { ports: [{ network: out, addresses: [], roles: [stp] }] }
  b: { ports: [{ network: in, addresses: [], roles: [stp] }, { network: out, addresses: [], roles: [lldp] }] }
""",
        "t",
    )
    (note,) = notes(found)
    assert "port 'a.out' has role stp: its frames leave the host by physical network 'lan'" in note


def test_a_plan_says_which_roles_this_hosts_bridges_are_not_for() -> None:
    found = loads(
        """
name: t
networks:
  tree: { external: { bridge: br0 } }
  ovs: { external: { bridge: br-int } }
guests:
  a: { ports: [{ network: tree, addresses: [], roles: [stp, lldp] }, { network: ovs, addresses: [], roles: [isis] }] }
  b: { ports: [{ network: ovs, addresses: [], roles: [stp, ospf, lldp] }] }
  c: { ports: [{ network: tree, addresses: [], roles: [lldp, mpls] }] }
""",
        "t",
    )
    said = list(link_roles.notes(found, {"tree": "br0", "ovs": "br-int"}, {"br0"}, {"br-int"}))
    assert [line.partition(":")[0] for line in said] == [
        "port 'a.tree' has role stp, and bridge br0 speaks the spanning tree protocol itself",
        "port 'b.ovs' has roles stp, lldp, and Open vSwitch drops their frames",
    ]
    assert list(link_roles.notes(found, {"tree": "br0", "ovs": "br-int"}, (), ())) == []


def test_the_address_of_a_guest_inside_may_be_reserved_for_its_own_mac() -> None:
    found = loads(
        """
name: t
networks:
  n:
    mode: nat
    subnets: [10.0.0.0/24]
    dhcp: { reservations: [{ mac: "52:54:00:00:99:0a", address: 10.0.0.60 }] }
guests:
  outer: { ports: [{ network: n, allowed-pairs: [{ mac: "52:54:00:00:99:0a", address: 10.0.0.60 }] }] }
  other: { ports: [{ network: n }] }
""",
        "t",
    )
    (pair,) = found.guest("outer").ports[0].pairs
    assert (pair.mac, str(pair.prefix)) == ("52:54:00:00:99:0a", "10.0.0.60/32")


INSIDE = "52:54:00:00:99:0a"
LENDING = PortPolicy("52:54:00:00:00:0a", "p", "n", lent=(INSIDE,))
HOST = ("10.0.0.1",)
SERVED = NetworkReceipt("n", "t", True, "br-n", ("10.0.0.0/24",), HOST, dynamic=(("10.0.0.100", "10.0.0.103"),))


@pytest.mark.parametrize(
    ("policy", "network", "lent", "pairs", "learns"),
    [
        (LENDING, SERVED, (INSIDE,), (), True),
        (LENDING._replace(addresses=(address("10.0.0.9"),)), SERVED, (INSIDE,), (), True),
        (LENDING._replace(addressing="none"), SERVED, (INSIDE,), (), True),
        (LENDING._replace(lent=()), SERVED._replace(dynamic=()), (), (), False),
        (LENDING._replace(addresses=(address("10.0.0.9"),), lent=()), SERVED, (), (), False),
        (LENDING, SERVED._replace(dynamic=()), (INSIDE,), (), False),
        (LENDING, SERVED._replace(reservations=((INSIDE, "10.0.0.60"),)), (), ((INSIDE, "10.0.0.60"),), True),
        (
            LENDING._replace(pairs=(Pair(prefix("10.0.0.61/32"), INSIDE),)),
            SERVED,
            (),
            ((INSIDE, "10.0.0.61/32"),),
            True,
        ),
    ],
)
def test_a_guest_inside_learns_its_address_or_has_what_is_reserved_or_listed_for_it(
    policy: PortPolicy,
    network: NetworkReceipt,
    lent: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    learns: bool,
) -> None:
    """The port itself learns only where nothing is listed for it."""
    said = etree.tostring(domain_element(DomainPolicy("t", "g", ports=(policy,)))).decode()
    nic = f"""<interface type="bridge"><mac address="{policy.mac}"/><source network="n" bridge="br-n"/>
    <target dev="vme0"/></interface>"""
    xml = f"<domain><name>g</name><metadata>{said}</metadata><devices>{nic}</devices></domain>"
    (receipt,) = port_receipts.port_receipts(Domain(parse(xml.encode()), {"n": network}.get))
    assert (receipt.lent, receipt.pairs, bool(receipt.dhcp)) == (lent, pairs, learns)
