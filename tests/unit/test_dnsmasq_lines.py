"""Nothing becomes a line of dnsmasq's configuration but what a few forms allow: where it is read, and written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.topology_files import HOSTMAP

from libvirt_guestnet import xmlgen
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.model import dhcp_options
from libvirt_guestnet.model.dhcp_options import DhcpOption, OptionError
from libvirt_guestnet.model.services import Boot, Dhcp, Dns, DnsService, DnsText, Forwarder, Reservation
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen.dnsmasq import checked

PLAIN = "name: t\nnetworks: { n: { mode: nat, subnets: [10.0.0.0/24], dhcp: {} } }\n"
HOSTILE = ["x\ndhcp-script=/tmp/x", 'x",y', "x,dhcp-script", "\\n", "x#y", "\x00", "é", "x\r", '"', " x", ""]
NAMES = sorted({*dhcp_options.names(4), "43", "252", "132"} - {"classless-static-route"})


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", NAMES)
def test_no_option_of_dhcp_takes_a_hostile_value(name: str, text: str) -> None:
    with pytest.raises(OptionError):
        dhcp_options.option(4, name, [text])


@given(st.sampled_from(NAMES), st.text(max_size=60))
def test_what_an_option_takes_may_be_written(name: str, text: str) -> None:
    try:
        found = dhcp_options.option(4, name, [text])
    except OptionError:
        return
    line = f"dhcp-option={found.dnsmasq}"
    assert checked(line, "n") == line
    assert line.isprintable() and line.count(",") == 1


@pytest.mark.parametrize(
    ("version", "name", "values", "line"),
    [
        (4, "42", ["10.0.0.1", "10.0.0.2"], "option:ntp-server,10.0.0.1,10.0.0.2"),
        (4, "252", ["http://x/y.dat"], '252,"http://x/y.dat"'),
        (4, "252", ["10b"], "252,10b"),
        (4, "43", ["01:02:AB"], "43,01:02:ab"),
        (4, "43", ["255"], "43,255b"),  # without a size, dnsmasq writes 8,192 bytes
        (4, "43", ["256"], "43,256s"),
        (4, "43", ["65536"], "43,65536i"),
        (4, "43", ["5i"], "43,5i"),
        (4, "mtu", ["1400"], "option:mtu,1400"),
        (4, "ip-forward-enable", ["false"], "option:ip-forward-enable,0"),
        (
            4,
            "classless-static-route",
            ["10.1.0.0/16", "10.0.0.2"],
            "option:classless-static-route,10.1.0.0/16,10.0.0.2",
        ),
        (6, "56", ["FD00::1"], "option6:ntp-server,[fd00::1]"),
        (6, "bootfile-url", ["http://[fd00::1]/x"], 'option6:bootfile-url,"http://[fd00::1]/x"'),
    ],
)
def test_values_have_their_options_types(version: int, name: str, values: list[str], line: str) -> None:
    found = dhcp_options.option(version, name, values)
    assert found.dnsmasq == line
    assert checked(f"dhcp-option={line}", "n")


@pytest.mark.parametrize(
    ("version", "name", "values"),
    [
        (4, "200", ["1", "2"]),  # dnsmasq 2.90: bad IPv4 address
        (4, "81", ["01:02"]),  # dnsmasq answers it itself
        (4, "118", ["10.0.0.0"]),  # clients alone say it
        (4, "200", ["01:02", "01:02"]),  # a text of it
        (4, "200", ["text", "10.0.0.1"]),
        (4, "200", ["256b"]),  # 0
        (4, "200", ["9999999999"]),
        (4, "68", ["5"]),  # bad IP address
        (6, "28", ["text"]),
        (6, "200", ["::1", "5"]),  # bad IPv6 address
    ],
)
def test_what_dnsmasq_would_not_start_with_or_read_as_something_else(
    version: int, name: str, values: list[str]
) -> None:
    with pytest.raises(OptionError):
        dhcp_options.option(version, name, values)


@pytest.mark.parametrize("values", [["255b"], ["4294967295"], ["a", "b"], ["10.0.0.1", "10.0.0.2"], ["01:02"]])
def test_what_dnsmasq_takes_for_an_option_without_a_name(values: list[str]) -> None:
    assert dhcp_options.option(4, "200", values).values


def with_services(dhcp: Dhcp | None = None, dns: Dns | None = None) -> Topology:
    found = loads(PLAIN, "t.yaml")
    (network,) = found.networks
    return replace(found, networks=(replace(network, dhcp=dhcp or Dhcp(), dns=dns or Dns()),))


@pytest.mark.parametrize("text", ["x\ndhcp-script=/tmp/x", 'x"', "x\\", "x#", "\n"])
def test_what_was_not_checked_before_is_not_written(text: str) -> None:
    """However a hostile text came into the model."""
    (network,) = loads(PLAIN, "t.yaml").networks
    host = network.subnets[0].prefix[9]
    hostile = [
        with_services(Dhcp(options=(DhcpOption(4, "252", (text,)),))),
        with_services(Dhcp(options=(DhcpOption(4, text, ("1",)),))),
        with_services(Dhcp(boot=Boot(uefi=(("x86-64", text),)))),
        with_services(Dhcp(boot=Boot(http=(("x86-64", text),)))),
        with_services(Dhcp(reservations=(Reservation(host, client_id=text),))),
        with_services(Dhcp(reservations=(Reservation(host, client_id="01:02", hostname=text),))),
        with_services(Dhcp(boot=Boot(file=text))),
        with_services(Dhcp(boot=Boot(tftp_root=text))),
        with_services(Dhcp(reservations=(Reservation(host, mac="52:54:00:00:00:01", hostname=text),))),
        with_services(dns=Dns(texts=(DnsText("a", text),))),
        with_services(dns=Dns(services=(DnsService(text, "tcp"),))),
        with_services(dns=Dns(forwarders=(Forwarder(None, text),))),
        with_services(dns=Dns(local=(text,))),
        with_services(dns=Dns(wildcards=((text, host),))),
    ]
    for topology in hostile:
        with pytest.raises(GuestnetError, match="nothing that guestnet gives to dnsmasq"):
            xmlgen.network(topology, topology.networks[0], HOSTMAP)


@pytest.mark.parametrize(
    ("version", "name", "largest"),
    [
        (4, "mtu", 65535),
        (4, "default-ttl", 255),
        (4, "tcp-ttl", 255),
        (4, "boot-file-size", 65535),
        (4, "netbios-nodetype", 255),
        (4, "time-offset", (1 << 32) - 1),
        (6, "information-refresh-time", (1 << 32) - 1),
    ],
)
def test_no_number_is_larger_than_its_option(version: int, name: str, largest: int) -> None:
    assert dhcp_options.option(version, name, [str(largest)]).values == (str(largest),)
    with pytest.raises(OptionError, match=f"DHCP option {name}: "):
        dhcp_options.option(version, name, [str(largest + 1)])


SERVED6 = """
name: t
networks: {{ n: {{ mode: nat, subnets: ["fd00:1::/64"], dhcp6: {dhcp6} }} }}
guests: {{ g: {{ ports: [{{ network: n, mac: "52:54:00:00:00:01"{port} }}] }} }}
"""


@pytest.mark.parametrize("said", ['options: { ntp-server: "fd00:1::1" }', "lease: 2h"])
def test_what_dhcpv6_says_to_nobody_is_an_error(said: str) -> None:
    nobody = SERVED6.partition("guests:")[0]
    with pytest.raises(TopologyError, match="of dhcp6 have no effect: it tells nobody an address"):
        loads(nobody.format(dhcp6=f"{{ {said} }}"), "t.yaml")
    loads(SERVED6.format(dhcp6=f"{{ {said} }}", port=""), "t.yaml")
    for more in (
        'range: ["fd00:1::100", "fd00:1::1ff"], ',
        'reservations: [{ mac: "52:54:00:00:00:09", address: "fd00:1::9" }], ',
    ):
        loads(nobody.format(dhcp6=f"{{ {more}{said} }}"), "t.yaml")


@pytest.mark.parametrize("duid", ["00:03:00:01:52:54:00:00:00:01", "00:01:00:01:2c:00:00:00:52:54:00:00:00:01"])
def test_a_reservation_for_a_duid_that_is_made_of_a_ports_mac_address_is_that_ports(duid: str) -> None:
    reserved = f'{{ reservations: [{{ duid: "{duid}", address: "fd00:1::9" }}] }}'
    with pytest.raises(TopologyError, match="has a reservation for 52:54:00:00:00:01, which is this port's"):
        loads(SERVED6.format(dhcp6=reserved, port=""), "t.yaml")
    twice = reserved.replace("] }", ', { mac: "52:54:00:00:00:01", address: "fd00:1::a" }] }')
    with pytest.raises(TopologyError, match="has a reservation already"):
        loads(SERVED6.format(dhcp6=twice, port="").replace('00:01"}', '00:02"}'), "t.yaml")
    loads(SERVED6.format(dhcp6=reserved.replace(':01"', ':07"'), port=""), "t.yaml")
