"""The frame corpus through real libvirt domains: ours, and nwfilter's clean-traffic on the same bridge beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import frames
import pytest
from honest import ARPS, IPV4, IPV6
from support.libvirt_wire import domain
from support.sandboxes import HERE
from support.stage import BRIDGE, PLACES, Stage, interface

from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox

DOCUMENT = Path(__file__).parents[2] / "docs/port-security.md"
NETWORK = f"""<network><name>lab</name><metadata>
  <g:network xmlns:g="{NAMESPACE}" topology="corpus" name="lab" guarded="yes" privacy="strict">
    <g:subnet prefix="10.61.1.0/24"/><g:subnet prefix="fd61:1::/64"/>
  </g:network></metadata><forward mode="bridge"/><bridge name="{BRIDGE}"/></network>"""
METADATA = f"""<g:domain xmlns:g="{NAMESPACE}" topology="corpus" guest="me">
  <g:port mac="{frames.ME}" name="lab" network="lab" guarded="yes">
    <g:address ip="{frames.ME4}"/><g:address ip="{frames.ME6}"/></g:port></g:domain>"""
GUARDED = domain(
    "me",
    f"""<interface type='network'><mac address='{frames.ME}'/><source network='lab'/>
        <model type='rtl8139'/></interface>""",
    metadata=METADATA,
)
NWFILTER = domain(
    "me",
    interface(frames.ME, f"<filterref filter='clean-traffic'><parameter name='IP' value='{frames.ME4}'/></filterref>"),
)
BARE = domain("me", interface(frames.ME))
ATTACKS = {name: frame for name, frame in frames.FORGED.items() if name not in frames.UNCARRIED}
CORPUS = {**frames.HONEST, **ATTACKS}
EVERYWHERE = set(PLACES)


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    return each_sandbox


@pytest.fixture(scope="module")
def stage(sandbox: Sandbox) -> Iterator[Stage]:
    with Stage(sandbox) as made:
        sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
        yield made
        sandbox.run(["virsh", "-q", "net-destroy", "lab"])


Arrivals = dict[str, set[str]]


@pytest.fixture(scope="module")
def ours(stage: Stage) -> Arrivals:
    with stage.running(GUARDED) as me:
        return stage.judge(me, {**CORPUS, **frames.JUMBO})


@pytest.fixture(scope="module")
def bare(stage: Stage) -> Arrivals:
    with stage.running(BARE) as me:
        return stage.judge(me, CORPUS)


def test_without_a_filter_every_frame_arrives_somewhere(bare: Arrivals) -> None:
    assert set(CORPUS) - set(bare) == set()


def test_attacks_arrive_nowhere(ours: Arrivals) -> None:
    assert set(ours) & set(ATTACKS) == set()


def test_honest_frames_arrive_wherever_they_do_without_a_filter(ours: Arrivals, bare: Arrivals) -> None:
    assert {name: ours.get(name) for name in frames.HONEST} == {name: bare[name] for name in frames.HONEST}
    assert set(frames.JUMBO) - set(ours) == set()
    assert EVERYWHERE in ours.values()


@pytest.mark.parametrize("each_sandbox", [HERE], indirect=True)
def test_the_table_is_what_a_run_shows(
    stage: Stage, ours: Arrivals, bare: Arrivals, request: pytest.FixtureRequest
) -> None:
    with stage.running(NWFILTER) as me:
        theirs = stage.judge(me, CORPUS)
    text = _filled(DOCUMENT.read_text(), _table({"guestnet": ours, "nwfilter": theirs, "nothing": bare}))
    if request.config.getoption("--regenerate"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "scripts/port-security-table writes it again"


_KINDS = {
    "mac": "Source MAC addresses",
    "arp": "ARP, RARP, InARP",
    "ipv4": "IPv4 sources, ICMP, IGMP, multicast routers",
    "dhcp-offer": "DHCPv4 and DHCPv6 servers, others' leases",
    "ipv6": "IPv6 sources, ICMPv6, MLD, multicast routers",
    "nd": "Neighbour discovery, redirects",
    "ra": "Router advertisements",
    "vlan": "VLAN tags of every kind",
    "llc": "LLC/SNAP, and control protocols in it",
    "ethertype": "Other EtherTypes and control protocols",
    "routing": "Routing and redundancy protocols",
}


def _table(runs: Mapping[str, Arrivals]) -> str:
    lines = [f"| Attacks stopped | of | {' | '.join(runs)} |", f"|---|---|{'---|' * len(runs)}"]
    for kind, title in _KINDS.items():
        names = [name for name in ATTACKS if name.startswith(f"{kind}: ")]
        lines.append(_row(title, [len(set(names) - set(run)) for run in runs.values()], len(names)))
    lines.append(_row("**All attacks**", [len(set(ATTACKS) - set(run)) for run in runs.values()], len(ATTACKS)))
    lines += ["", f"| Honest frames delivered | of | {' | '.join(runs)} |", f"|---|---|{'---|' * len(runs)}"]
    for kind, title in {
        "ARP": "ARP, and QEMU's announcement",
        "IPv4": "IPv4, DHCP, IGMP",
        "IPv6": "IPv6, ND, MLD, DHCPv6",
    }.items():
        names = list({"ARP": ARPS, "IPv4": IPV4, "IPv6": IPV6}[kind])
        lines.append(_row(title, [len(set(names) & set(run)) for run in runs.values()], len(names)))
    honest = set(frames.HONEST)
    lines.append(_row("**All honest frames**", [len(honest & set(run)) for run in runs.values()], len(honest)))
    missed = sorted(name for name in ATTACKS if name in runs["nwfilter"])
    refused = sorted(honest - set(runs["nwfilter"]))
    lines += ["", "<details><summary>What nwfilter's clean-traffic lets out, and what it stops</summary>", ""]
    lines += ["Let out:", "", *(f"- {name}" for name in missed), "", "Stopped:", ""]
    return "\n".join([*lines, *(f"- {name}" for name in refused), "", "</details>"])


def _row(title: str, counts: list[int], total: int) -> str:
    return f"| {title} | {total} | {' | '.join(map(str, counts))} |"


_BEGIN, _END = "<!-- begin: generated -->\n", "\n<!-- end: generated -->"


def _filled(document: str, table: str) -> str:
    head, _, rest = document.partition(_BEGIN)
    return head + _BEGIN + table + _END + rest.partition(_END)[2]
