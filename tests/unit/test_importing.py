"""`guestnet import`: what the file says of a host, what it leaves out with the reason, and that it reads back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import SetDomainMetadata
from libvirt_guestnet.changes.network import AdoptNetwork
from libvirt_guestnet.cli.main import main
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing import addresses, gather
from libvirt_guestnet.importing.facts import Imported, Request, Seen
from libvirt_guestnet.importing.survey import bridges, survey
from libvirt_guestnet.importing.survey import left_out as survey_left_out
from libvirt_guestnet.importing.text import comment, scalar, text
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, parse_xml
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import PlanError, plan
from libvirt_guestnet.topology import loads, yamltree

GOLDEN = Path(__file__).parents[1] / "data/import/host.yaml"
DEFAULT = """<network><name>default</name><uuid>n1</uuid><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>
{hosts}</dhcp></ip><ip family='ipv6' address='fd00:122::1' prefix='64'/></network>"""
CLOSED = "<network><name>closed</name><bridge name='virbr1'/><ip address='10.0.9.1' prefix='24'/></network>"
MACVTAP = "<network><name>outside</name><forward mode='bridge'><interface dev='eth0'/></forward></network>"
GROUPS = """<network><name>groups</name><forward mode='bridge'/><bridge name='ovsbr'/><virtualport type='openvswitch'/>
<portgroup name='tagged'><vlan><tag id='7'/></vlan></portgroup><portgroup name='plain'/></network>"""
MARK = f"<guestnet:network xmlns:guestnet='{NAMESPACE}' {{said}}/>"


def mac(number: int) -> str:
    return f"52:54:00:aa:{number >> 8:02x}:{number & 255:02x}"


def nic(number: int, on: str = "network='default'", kind: str = "network", more: str = "") -> str:
    return f"<interface type='{kind}'><mac address='{mac(number)}'/><source {on}/>{more}</interface>"


def network(xml: str = DEFAULT, hosts: str = "", mark: str = "", runs: bool = True) -> NetworkState:
    root = parse_xml(xml.replace("{hosts}", hosts).replace("</name>", f"</name><metadata>{mark}</metadata>"))
    return NetworkState(root.findtext("name") or "", "n1", root, root if runs else None)


def domain(name: str, *nics: str, runs: bool = True, mark: str = "") -> DomainState:
    root = parse_xml(f"<domain><metadata>{mark}</metadata><devices>{''.join(nics)}</devices></domain>")
    return DomainState(name, f"uuid of {name}", root, root if runs else None)


def host(*states: NetworkState | DomainState, **seen: Mapping[str, Sequence[tuple[str, int]]]) -> Seen:
    """`leases` and `neighbours` by bridge: an address and the number of a MAC address."""
    snapshot = Snapshot(
        tuple(state for state in states if isinstance(state, NetworkState)),
        tuple(state for state in states if isinstance(state, DomainState)),
        links={name: Device(is_bridge=True) for name in ("virbr0", "virbr1", "br0", "ovsbr")},
    )
    leases = {
        bridge: {mac(number): frozenset({ip}) for ip, number in pairs}
        for bridge, pairs in seen.get("leases", {}).items()
    }
    neighbours = {
        bridge: tuple((ip_address(ip), mac(number)) for ip, number in pairs)
        for bridge, pairs in seen.get("neighbours", {}).items()
    }
    return Seen(snapshot, leases, neighbours)


def found(seen: Seen, *names: str, observe: bool = True) -> Imported:
    return survey(seen, Request("imported", observe, frozenset(names)))


def left_out(seen: Seen, *names: str) -> dict[str, str]:
    return {each.what: each.why for each in found(seen, *names).left_out}


def read_back(said: Imported) -> Topology:
    return loads(text(said), "import")


def changes(seen: Seen, said: Imported) -> tuple[Change, ...]:
    """The plan of the file, on the host that it was made of."""
    leased = {owner: ips for leases in seen.leases.values() for owner, ips in leases.items()}
    snapshot = replace(seen.snapshot, leased=leased)
    made = plan(wanted(resolved(read_back(said), snapshot), HostMap()), snapshot)
    assert made.interrupts == ()
    return made.changes


RESERVED = f"<host mac='{mac(1)}' name='web' ip='192.168.122.50'/>"
EVERYTHING = host(
    network(hosts=RESERVED + f"<host mac='{mac(9)}' ip='192.168.122.99'/>"),
    network(CLOSED),
    network(MACVTAP),
    network(GROUPS, runs=False),
    domain("web", nic(1), nic(2)),
    domain("db", nic(3, "network='closed'"), nic(4, "bridge='br0'", "bridge"), runs=False),
    domain('a "quoted", name: [ü]', nic(5), nic(6, "network='groups' portgroup='plain'")),
    domain("tagged", nic(7, "network='groups' portgroup='tagged'")),
    domain("direct", nic(8, "dev='eth0' mode='bridge'", "direct"), nic(10, "network='outside'")),
    domain("passed", nic(11, "", "user"), nic(12, "bridge='br0'", "bridge", "<vlan><tag id='3'/></vlan>")),
    leases={"virbr0": [("192.168.122.50", 1), ("192.168.122.51", 2)]},
    neighbours={
        "virbr0": [
            ("192.168.122.50", 1),
            ("192.168.122.77", 2),
            ("fd00:122::abcd", 2),
            ("fe80::1234", 2),
            ("192.168.122.99", 5),
        ],
        "virbr1": [("10.0.9.9", 3)],
        "br0": [("198.51.100.4", 4)],
    },
)


def test_the_file_of_a_host_is_the_same_every_time(regenerate: bool) -> None:
    said = text(found(EVERYTHING))
    backwards = replace(
        EVERYTHING.snapshot,
        networks=EVERYTHING.snapshot.networks[::-1],
        domains=EVERYTHING.snapshot.domains[::-1],
    )
    assert text(found(replace(EVERYTHING, snapshot=backwards))) == said
    if regenerate:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(said, encoding="utf-8")
    assert said == GOLDEN.read_text(encoding="utf-8")


def test_its_plan_is_the_adoption_alone() -> None:
    made = changes(EVERYTHING, found(EVERYTHING))
    others = [each.text() for each in made if not isinstance(each, AdoptNetwork | SetDomainMetadata)]
    # The one network whose host serves names without DHCP.
    assert [each.split(": ")[-1] for each in others] == [
        f"add dns-host 10.0.9.9 db, {kind}" for kind in ("live", "defined")
    ]


def test_also_when_it_is_to_guard_at_once() -> None:
    said = found(EVERYTHING, observe=False)
    assert {type(each) for each in changes(EVERYTHING, said)} >= {AdoptNetwork, SetDomainMetadata}
    nets = {each.name: each for each in read_back(said).networks}
    assert not any(each.observed or (each.external and each.external.guards_all) for each in nets.values())


def test_a_port_of_which_no_address_is_known_is_only_observed_for_now() -> None:
    seen = host(network(CLOSED), domain("db", nic(3, "network='closed'")))
    (port,) = read_back(found(seen, observe=False)).guests[0].ports
    assert port.observed
    assert len(changes(seen, found(seen, observe=False))) == 2
    declared = loads(text(found(seen)).replace("guarded: observe", ""), "t")
    with pytest.raises(PlanError, match="nobody knows the port's addresses"):
        resolved(declared, seen.snapshot)


def test_one_domain_brings_its_networks_and_leaves_their_other_guests_alone() -> None:
    said = found(EVERYTHING, "db")
    assert [each.name for each in said.guests] == ["db"]
    assert [each.name for each in said.networks] == ["br0", "closed"]
    topology = read_back(said)
    assert all(port.observed for port in topology.guests[0].ports)
    assert not any(net.external and net.external.guards_all for net in topology.networks)
    assert left_out(EVERYTHING, "db") == {}
    assert bridges(EVERYTHING.snapshot, Request("t", names=frozenset({"db"}))) == ("br0", "virbr1")


def test_one_network_brings_its_guests_with_their_nics_there() -> None:
    said = found(EVERYTHING, "closed")
    assert [(g.name, [p.network for p in g.ports]) for g in said.guests] == [("db", ["closed"])]
    assert [each.guarded for each in said.networks] == ["observe"]
    assert [g.name for g in found(EVERYTHING, "br0").guests] == ["db"]


def test_a_name_that_nobody_has_is_an_error() -> None:
    with pytest.raises(GuestnetError, match="no domain or network 'wbe'"):
        found(EVERYTHING, "wbe", "web")


def test_a_topology_of_that_name_is_never_written_over() -> None:
    seen = host(
        network(), domain("web", nic(1)), domain("old", mark=f"<d:domain xmlns:d='{NAMESPACE}' topology='imported'/>")
    )
    with pytest.raises(GuestnetError, match=r"'imported' is there already.*--name"):
        found(seen)


@pytest.mark.parametrize(
    "said",
    ["topology=''", "", "topology='other' guarded='sometimes'", "topology='other' external='yes'", "topology='other'"],
)
def test_a_network_with_metadata_is_left_out(said: str) -> None:
    seen = host(network(mark=MARK.format(said=said)), network(CLOSED), domain("web", nic(1)))
    why = left_out(seen)
    assert "cannot be read" in why["network 'default'"] or "is in topology 'other' already" in why["network 'default'"]
    assert f"domain 'web', NIC '{mac(1)}'" in why
    assert [each.name for each in read_back(found(seen)).networks] == ["closed"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "cannot be read (it names no topology): take guestnet:domain out with virsh edit"),
        ("topology='other'", "it is in topology 'other' already"),
        ("topology='other' guest='web2'", "it is a copy of guest 'web2'"),
    ],
)
def test_a_domain_with_metadata_is_left_out(said: str, reason: str) -> None:
    seen = host(network(), domain("web", nic(1), mark=f"<d:domain xmlns:d='{NAMESPACE}' {said}/>"))
    assert reason in left_out(seen)["domain 'web'"]


def test_damaged_metadata_of_a_port_leaves_its_domain_out() -> None:
    mark = f"<d:domain xmlns:d='{NAMESPACE}' topology='other'><d:port mac='x' name='p' network='n'/></d:domain>"
    assert "cannot be read" in left_out(host(network(), domain("web", nic(1), mark=mark)))["domain 'web'"]


def test_what_is_not_clear_is_left_out() -> None:
    half = domain("half", nic(4), nic(5))
    half = replace(half, live=domain("half", nic(5, "network='closed'"), nic(6)).config)
    seen = host(
        network(),
        network(CLOSED),
        domain("one", nic(1)),
        domain("two", nic(1)),
        domain("pair", nic(2), nic(2, "", "hostdev")),
        half,
        domain("gone", nic(7, "network='removed'"), nic(8, "bridge='br9'", "bridge")),
        replace(domain("passing", nic(9)), persistent=False),
        domain("odd", nic(10).replace(mac(10), "fe:54:00:00:00:01")),
    )
    why = left_out(seen)
    assert read_back(found(seen)).guests == ()
    shared = "another domain has a NIC of that MAC address, too"
    for what, reason in {
        f"domain 'one', NIC '{mac(1)}'": shared,
        f"domain 'two', NIC '{mac(1)}'": shared,
        f"domain 'pair', NIC '{mac(2)}'": "two NICs of that MAC address",
        f"domain 'half', NIC '{mac(4)}'": "the running domain does not have it yet",
        f"domain 'half', NIC '{mac(5)}'": "elsewhere than its definition says",
        f"domain 'half', NIC '{mac(6)}'": "in no definition",
        f"domain 'gone', NIC '{mac(7)}'": "libvirt has no network 'removed' now",
        f"domain 'gone', NIC '{mac(8)}'": "this host has no bridge br9 now",
        "domain 'passing'": "it is transient",
        "domain 'odd', NIC 'fe:54:00:00:00:01'": "libvirt keeps MAC addresses that start with fe",
    }.items():
        assert any(each.what == what and reason in each.why for each in found(seen).left_out), (what, why)


def test_names_that_could_be_read_in_two_ways_are_left_out() -> None:
    seen = host(network(), domain("a", nic(1)), domain("a.default", nic(2)), domain("host", nic(3)))
    assert [each.name for each in read_back(found(seen)).guests] == ["a.default"]
    assert "has a meaning of its own" in left_out(seen)["domain 'host'"]


def test_a_bridge_that_is_called_like_a_network_gets_another_name() -> None:
    seen = host(network(CLOSED.replace("closed", "br0")), domain("db", nic(1, "bridge='br0'", "bridge")))
    topology = read_back(found(seen))
    assert [(net.name, net.bridge) for net in topology.networks] == [("br0", ""), ("bridge-br0", "br0")]
    assert len(changes(seen, found(seen))) == 2


def test_what_a_neighbour_says_is_nobody_elses() -> None:
    seen = host(
        network(hosts=RESERVED),
        domain("web", nic(1)),
        domain("bad", nic(2)),
        leases={"virbr0": [("192.168.122.51", 3)]},
        neighbours={"virbr0": [(f"192.168.122.{n}", 2) for n in (1, 50, 51, 52)]},
    )
    bad, _ = found(seen).guests
    assert [str(each.ip) for each in bad.ports[0].addresses.pairs] == ["192.168.122.52"]
    assert [each.rpartition(": ")[2] for each in bad.ports[0].addresses.remarks] == [
        "it is the host's own",
        f"it is reserved for '{mac(1)}'",
        f"it is given by DHCP to '{mac(3)}'",
    ]
    flood = replace(seen, neighbours={"virbr0": tuple((ip_address(f"192.168.122.{n}"), mac(2)) for n in range(60, 90))})
    (remark,) = found(flood).guests[0].ports[0].addresses.remarks
    assert remark.startswith("30 addresses are in the kernel's neighbour table: more than a guest has")


@pytest.mark.parametrize(
    ("hosts", "leases", "why"),
    [
        (RESERVED + RESERVED.replace("50", "60"), [], "there are several"),
        (RESERVED, [("192.168.122.77", 1)], "the guest has 192.168.122.77 by DHCP still"),
    ],
)
def test_a_reservation_that_would_cut_its_guest_off_is_only_a_remark(
    hosts: str, leases: list[tuple[str, int]], why: str
) -> None:
    seen = host(network(hosts=hosts), domain("web", nic(1)), leases={"virbr0": leases})
    addresses = found(seen).guests[0].ports[0].addresses
    assert addresses.own == ()
    assert any(why in remark for remark in addresses.remarks)
    assert len(changes(seen, found(seen))) == 2


def test_it_says_what_it_left_out_and_writes_over_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Request] = []

    def imported(_uri: str | None, request: Request) -> tuple[Imported, str]:
        asked.append(request)
        return found(EVERYTHING), text(found(EVERYTHING))

    monkeypatch.setattr(gather, "imported", imported)
    file = tmp_path / "net.yaml"
    assert main(["import", "--guarded", "true", "--name", "mine", "-o", str(file), "web"]) == 0
    assert asked == [Request("mine", observe=False, names=frozenset({"web"}))]
    assert file.read_text(encoding="utf-8") == text(found(EVERYTHING))
    said = capsys.readouterr().err
    assert "not imported: network 'outside': it gives NICs that nobody can guard" in said
    assert "imported: 4 networks, 3 guests, 6 ports; 6 things left out" in said
    assert main(["import", "-o", str(file)]) == 1
    assert "writes over no file" in capsys.readouterr().err
    assert main(["import", "--name", "a b"]) == 1


def test_leases_are_gone_through_once_however_many_guests_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(guests: int) -> int:
        calls, read = [0], addresses.parse.address

        def counted(text: str) -> IPAddress:
            calls[0] += 1
            return read(text)

        monkeypatch.setattr(addresses, "parse", SimpleNamespace(**{**vars(addresses.parse), "address": counted}))
        leases = [(f"192.168.122.{n}", 1000 + n) for n in range(2, 202)]
        seen = host(
            network(),
            *(domain(f"guest{n}", nic(n)) for n in range(guests)),
            leases={"virbr0": leases},
            neighbours={"virbr0": [(f"198.51.100.{n}", n) for n in range(guests)]},
        )
        assert len(found(seen).guests) == guests
        monkeypatch.undo()
        return calls[0]

    assert asked(40) - asked(20) < 200


def test_five_hundred_domains_take_seconds() -> None:
    domains = [domain(f"guest {n}", nic(2 * n), nic(2 * n + 1)) for n in range(500)]
    leases = [(f"192.168.{122 + n // 200}.{2 + n % 200}", n) for n in range(1000)]
    seen = host(network(), *domains, leases={"virbr0": leases}, neighbours={"virbr0": leases})
    begun = time.monotonic()
    topology = read_back(found(seen))
    assert time.monotonic() - begun < 60
    assert (len(topology.guests), len(topology.guests[0].ports), len(found(seen).left_out)) == (500, 2, 0)


def test_what_a_file_could_not_say_is_known_without_leases_and_neighbours() -> None:
    """For `doctor`: with the same reasons as import's, without what another file says."""
    mark = f"<guestnet:domain xmlns:guestnet='{NAMESPACE}' topology='t' guest='b'/>"
    seen = host(
        network(),
        network(MACVTAP),
        network(CLOSED, mark=MARK.format(said="topology='t' name='closed'")),
        domain("a", nic(1), nic(2, "network='outside'")),
        domain("b", nic(3), mark=mark),
        domain("c", nic(4, "network='closed'")),
    )
    reasons = left_out(seen)
    assert {"domain 'b'", "network 'closed'"} <= reasons.keys()
    known = {each.what: each.why for each in survey_left_out(seen.snapshot)}
    assert known == {what: why for what, why in reasons.items() if what not in ("domain 'b'", "network 'closed'")}
    assert sorted(known) == [
        f"domain 'a', NIC '{mac(2)}'",
        f"domain 'c', NIC '{mac(4)}'",
        "network 'outside'",
    ]


# Not ru_maxrss: that begins with what the process had that started it.
MEASURED = """
import re, sys
from pathlib import Path
from libvirt_guestnet.cli.main import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


@pytest.mark.system
def test_an_import_of_five_hundred_domains_of_libvirts_is_bounded(tmp_path: Path) -> None:
    """The whole command on libvirt's test driver: what it takes of the processor and of memory."""
    domains = "".join(
        f"<domain type='test'><name>vm {n}</name><memory>8192</memory><os><type>hvm</type></os>"
        f"<devices>{nic(2 * n)}{nic(2 * n + 1)}</devices></domain>"
        for n in range(500)
    )
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{domains}{DEFAULT.replace('<uuid>n1</uuid>', '').replace('{hosts}', '')}</node>")
    uri, file = f"test://{node}", tmp_path / "net.yaml"
    argv = [sys.executable, "-c", MEASURED, "-c", uri, "import", "-o", str(file)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    with child.stdout:
        memory = int(child.stdout.read())
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    print(f"{used.ru_utime + used.ru_stime:.1f} s, {memory // 1024} MiB")
    assert child.returncode == 0
    assert file.read_text().count("\n      - network: default") == 500 * 2
    assert used.ru_utime + used.ru_stime < 30 and memory < 300 * 1024


NAMES = st.text(max_size=40) | st.sampled_from(
    ["null", "~", "yes", "1e3", "a: b", "a #b", "- a", "&a", "*a", "!a", "{", "0x1"]
)


@given(NAMES)
def test_a_scalar_reads_back_as_it_was(name: str) -> None:
    for form in (
        f"{scalar(name)}: 1  # c",
        f"a: {scalar(name)}  # c",
        f"a: {{ b: {scalar(name)} }}",
        f"- {scalar(name)}",
    ):
        assert "\n" not in form
        loaded = yaml.safe_load(form)
        expected = ({name: 1}, {"a": name}, {"a": {"b": name}}, [name])
        assert loaded in expected, form
        assert yamltree.parse(form, "t", []) is not None


@given(NAMES)
def test_nothing_breaks_out_of_a_comment(said: str) -> None:
    assert yaml.safe_load(f"{comment(said)}\na: 1  {comment(said)}\n{comment(said)}") == {"a": 1}
    assert yamltree.parse(comment(said), "t", []) is None
    assert comment(said).isprintable()


@given(NAMES.filter(bool), NAMES.filter(bool))
@settings(max_examples=50)
def test_a_domain_and_a_network_of_any_name_are_in_the_file_or_left_out(guest: str, net: str) -> None:
    plain, there = network(), domain(guest, nic(1))
    (source,) = there.config.iterfind("devices/interface/source")
    try:
        source.set("network", net)
    except ValueError:
        return  # what no XML can say libvirt has no name for
    said = found(host(replace(plain, name=net), there))
    read_back(said)
    assert [each.name for each in said.networks] == [net] or said.left_out[0].what.startswith("network ")
    assert [each.name for each in said.guests] == [guest] or said.left_out
