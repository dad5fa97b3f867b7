"""Ways in, without a kernel: who may ask for what, from the file to the metadata to the hooks' rules."""

from __future__ import annotations

import time
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from libvirt_guestnet import topology, xmlread
from libvirt_guestnet.datapath.forwards import listeners, table
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model import claims
from libvirt_guestnet.model.claims import Claim, clash, clashes
from libvirt_guestnet.state.receipts import Floating, ForwardRule, PortForwards
from libvirt_guestnet.xmlgen import domain_metadata

TOPOLOGY = """
name: t
networks:
  web: { mode: nat, subnets: [10.0.1.0/24, "fd00:1::/64"] }
  inside: { mode: isolated, gateway: host, subnets: [10.0.2.0/24] }
  behind: { mode: nat, gateway: r, subnets: [10.0.3.0/24] }
guests:
  r: { router: {}, ports: [{ network: behind, addresses: [10.0.3.2] }] }
  g:
    ports:
      - network: web
        addresses: [10.0.1.10, "fd00:1::10"]
        forwards:
          - { services: [tcp/8080, udp/8000-8010], at: [198.18.1.1, "fd61::1"], to: 80 }
          - { services: [tcp/22] }
        floating: [198.18.1.50, "fd61::50"]
      - { network: inside, addresses: [10.0.2.10], forwards: [{ services: [tcp/5000-5001] }] }
  h:
    ports: [{ network: behind, addresses: [10.0.3.9], forwards: [{ services: [tcp/6000], to: 1 }] }]
"""


def hooks_see(guest: str) -> list[PortForwards]:
    """What a hook makes of the metadata that is generated for a guest."""
    found = topology.loads(TOPOLOGY, "t.yaml")
    metadata = etree.tostring(domain_metadata(found, found.guest(guest), HostMap({})), encoding="unicode")
    nics = "".join(
        f"<interface type='network'><mac address='{port.mac}'/><source network='{port.network}' bridge='br{i}'/>"
        f"<target dev='{port.tap}'/></interface>"
        for i, port in enumerate(found.guest(guest).ports)
    )
    xml = f"<domain><name>{guest}</name><uuid>u</uuid><metadata>{metadata}</metadata><devices>{nics}</devices></domain>"
    return wanted_forwards.port_forwards(Domain(xmlread.parse(xml.encode()), lambda _: None))


def test_from_the_file_to_the_hooks() -> None:
    web, inside = hooks_see("g")
    assert (web.bridge, inside.bridge) == ("br0", "br1")
    assert web.forwards == (
        ForwardRule("tcp", 8080, 8080, "10.0.1.10", 80, "198.18.1.1"),
        ForwardRule("tcp", 8080, 8080, "fd00:1::10", 80, "fd61::1"),
        ForwardRule("udp", 8000, 8010, "10.0.1.10", 80, "198.18.1.1"),
        ForwardRule("udp", 8000, 8010, "fd00:1::10", 80, "fd61::1"),
        ForwardRule("tcp", 22, 22, "10.0.1.10", 22),
        ForwardRule("tcp", 22, 22, "fd00:1::10", 22),
    )
    assert web.floating == (
        Floating("198.18.1.50", "10.0.1.10"),
        Floating("fd61::50", "fd00:1::10"),
    )
    # Its default route leaves by the first port: asked through the second, it would answer past the host's translation.
    assert inside.forwards == (ForwardRule("tcp", 5000, 5001, "10.0.2.10", 5000, hide=True),)


def test_a_guest_behind_another_guest_sees_the_host() -> None:
    ((forward,),) = [each.forwards for each in hooks_see("h")]
    assert forward.hide


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('protocol="gre" ports="1" to="10.0.0.1"', "no forward can be of gre/1 at any to 10.0.0.1"),
        ('protocol="gre" to="10.0.0.1"', "no forward can be of gre at any to 10.0.0.1"),
        ('protocol="gre" to="10.0.0.1" at="192.0.2.1" first="5"', "no forward can be of gre at 192.0.2.1"),
        ('protocol="ah" to="10.0.0.1" at="192.0.2.1"', "<guestnet:forward> protocol: ah: AH is there to notice"),
        (
            'protocol="icmp" ports="1" to="10.0.0.1"',
            "'icmp' is not tcp, udp, sctp, ipip, 6in4, gre, esp or proto/NUMBER",
        ),
        ('protocol="tcp" ports="2-1" to="10.0.0.1"', "'2-1' is not a range"),
        ('protocol="tcp" ports="0" to="10.0.0.1"', "<guestnet:forward> ports: '0' is not a number from 1 to 65535"),
        ('protocol="tcp" ports="1;drop" to="10.0.0.1"', "'1;drop' is not a number"),
        ('protocol="tcp" ports="65535-65536" to="10.0.0.1"', "'65536' is not a number"),
        ('protocol="tcp" ports="1-10" first="65530" to="10.0.0.1"', "no forward can be"),
        ('protocol="tcp" ports="1-2000" first="2" to="10.0.0.1"', "no forward can be"),
        ('protocol="tcp" ports="1" to="10.0.0.1}"', "'10.0.0.1}' is not an IP address"),
        ('protocol="tcp" ports="1" to="10.0.0.1" at="fd00::1"', "no forward can be"),
        ('protocol="tcp" ports="1"', "'' is not an IP address"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(attributes: str, message: str) -> None:
    ns = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
    xml = f"""<domain><name>d</name><uuid>u</uuid><metadata><g:domain {ns}><g:port mac="52:54:00:00:00:01">
    <g:forward {attributes}/></g:port></g:domain></metadata><devices><interface type="network">
    <mac address="52:54:00:00:00:01"/><source bridge="br0"/><target dev="vnet0"/></interface></devices></domain>"""
    with pytest.raises(GuestnetError, match=message.replace("(", r"\(")):
        wanted_forwards.port_forwards(Domain(xmlread.parse(xml.encode()), lambda _: None))


def test_every_pair_of_claims_that_quarrel() -> None:
    here, there, any4, any6 = "10.0.0.1", "10.0.0.2", "0.0.0.0", "::"
    web = Claim(here, "tcp", 80, 90)
    assert clash(web, Claim(here, "tcp", 90, 99))
    assert clash(web, Claim(any4, "tcp", 1, 80))
    assert clash(web, Claim(here, "", 0, 65535))
    assert clash(Claim(here, "", 0, 65535), Claim(here, "", 0, 65535))
    for other in (
        Claim(here, "tcp", 91, 99), Claim(here, "udp", 80, 90), Claim(there, "tcp", 80, 90),
        Claim(any6, "tcp", 80, 80), Claim(there, "", 0, 65535),
    ):  # fmt: skip
        assert not clash(web, other)
        assert not clash(other, web)
    # A floating address is never meant by "any address of the host".
    assert not clash(Claim(any4, "tcp", 80, 80), Claim(here, "", 0, 65535))


ADDRESSES = ("0.0.0.0", "::", "10.0.0.1", "10.0.0.2", "fd00::1")


@settings(max_examples=300)
@given(
    *[
        st.lists(
            st.builds(
                lambda at, protocol, first, more: Claim(at, protocol, first, first + more),
                st.sampled_from(ADDRESSES),
                st.sampled_from(["tcp", "udp", ""]),
                st.integers(1, 20),
                st.integers(0, 6),
            ),
            max_size=8,
        )
    ]
    * 2
)
def test_a_clash_is_found_among_many_as_between_two(new: list[Claim], taken: list[Claim]) -> None:
    for each_other in (False, True):
        expected = []
        for number, claim in enumerate(new):
            known = [*taken, *new[:number]] if each_other else taken
            expected += [(claim, other) for other in known if clash(claim, other)][:1]
        assert list(clashes(new, taken, each_other=each_other)) == expected


def test_many_forwards_are_checked_in_the_time_of_reading_them() -> None:
    """Each against all before it would be fifty million comparisons, and all guests wait meanwhile."""
    at = [str(ip_address("10.0.0.0") + number) for number in range(50)]
    many = [Claim(ip, "tcp", port, port, "guest 'a'") for ip in at for port in range(1, 201)]
    asked, meeting = count(), claims._Spans.meeting

    def counted(spans: claims._Spans, first: int, last: int) -> int:
        next(asked)
        return meeting(spans, first, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims._Spans, "meeting", counted)
        assert list(clashes(many, [], each_other=True)) == []
    assert next(asked) <= 2 * len(many)
    begun = time.process_time()
    assert list(clashes([many[0]], many)) == [(many[0], many[0])]
    assert list(clashes(many, [Claim("0.0.0.0", "tcp", 201, 999)], each_other=True)) == []
    assert time.process_time() - begun < 2, "of the processor, on a slow one"


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1
   1: 010212C6:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1
   2: 00000000:1F92 0A0212C6:1234 01 00000000:00000000 00:00000000 00000000     0        0 13 1
"""
TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:1F93 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 14
   1: 000061FD000000000000000001000000:1F94 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 15
"""
SCTP = """ ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
0000000000000000 0000000000000000 0   10  29   36412     0 12 127.0.0.1 198.18.2.1
0000000000000000 0000000000000000 2   10  29   36413     0 13 0000:0000:0000:0000:0000:0000:0000:0000
0000000000000000 0000000000000000 0   1   29   36414     0 14 198.18.2.1
"""


@pytest.fixture
def proc(tmp_path: Path) -> str:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    (tmp_path / "net/tcp6").write_text(TCP6)
    (tmp_path / "net/sctp").mkdir()
    (tmp_path / "net/sctp/eps").write_text(SCTP)
    (tmp_path / "77/fd").mkdir(parents=True)
    (tmp_path / "77/comm").write_text("nginx\n")
    (tmp_path / "77/fd/3").symlink_to("socket:[12]")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("claim", "owner"),
    [
        (Claim("0.0.0.0", "tcp", 8080, 8080), None),  # loopback
        (Claim("0.0.0.0", "tcp", 8081, 8081), "nginx (process 77)"),
        (Claim("198.18.2.1", "tcp", 8000, 8081), "nginx (process 77)"),
        (Claim("198.18.2.2", "tcp", 8081, 8081), None),
        (Claim("198.18.2.2", "tcp", 8082, 8082), None),  # a connection, not a listener
        (Claim("198.18.2.2", "tcp", 8083, 8083), "the kernel or another program"),
        (Claim("fd61::1", "tcp", 8084, 8084), "the kernel or another program"),
        (Claim("fd61::2", "tcp", 8084, 8084), None),
        (Claim("198.18.2.1", "udp", 8081, 8081), None),
        (Claim("198.18.2.1", "sctp", 36412, 36412), "nginx (process 77)"),
        (Claim("198.18.2.2", "sctp", 36412, 36412), None),
        (Claim("198.18.2.2", "sctp", 36413, 36413), "the kernel or another program"),
        (Claim("198.18.2.1", "sctp", 36414, 36414), None),  # not listening
        (Claim("198.18.2.1", "", 0, 65535), None),  # a floating address is not the host's own
    ],
)
def test_what_the_host_listens_on(proc: str, claim: Claim, owner: str | None) -> None:
    found = listeners.taken([claim], proc)
    assert (found[1].owner if found else None) == owner


def test_the_table_is_removed_with_the_last_forward() -> None:
    assert table.batch([]) == "add table inet guestnet\ndelete table inet guestnet\n"
