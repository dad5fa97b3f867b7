"""Bad links for labs: what a file may say of one, and what the hooks have the kernel do. The kernel's part is played
here; `tests/kernel/test_impaired.py` has one without netem, `tests/labvm/inside/test_bad_links.py` one with it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from libvirt_guestnet import parse, xmlread
from libvirt_guestnet.datapath.netlink import links, netem
from libvirt_guestnet.datapath.netlink.netem import HANDLE, CannotError, Netem, Root
from libvirt_guestnet.datapath.netlink.rtnl import RefusedError
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hook.calls import domain as calls
from libvirt_guestnet.hook.enforce import impairing
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.importing import text
from libvirt_guestnet.metadata import reader, writer
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model.impairment import READERS, Impairment
from libvirt_guestnet.plan.compare import differences
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.topology import loads

ALL = Impairment(20_000, 5_000, 10_000, 1_000, 50_000, 10_000)
# What `tc qdisc replace dev lo root handle 6e65: netem limit 1000 delay 20ms 5ms loss 1% duplicate 0.1% reorder 5%
# rate 10mbit` of iproute2 6.1 sends (strace -e write), from the qdisc's kind on.
OF_TC = bytes.fromhex(
    "0a0001006e6574656d0000003c000200b4c40400e8030000295c8f0201000000378941002d3101000c000300cdcccc0c00000000"
    "14000600d0121300000000000000000000000000"
)


@given(st.builds(Impairment, *[st.integers(0, 10**6)] * 6))
def test_what_is_written_is_read_again(wanted: Impairment) -> None:
    words = wanted.words()
    assert Impairment(**{key: read(words[key]) if key in words else 0 for key, read in READERS.items()}) == wanted
    if not wanted.contradiction()[1]:
        port = writer._port(PortPolicy("52:54:00:00:00:01", "p", "n", impairment=wanted))
        read = reader.read_port(xmlread.parse(etree.tostring(port)))
        assert (read.impairment or Impairment()) == wanted


@pytest.mark.parametrize(("wanted", "number"), [
    (Impairment(loss=1), 1000),
    (Impairment(delay=20_000, rate=10_000), 1000),
    (Impairment(delay=30_000, jitter=10_000, rate=1_000_000), 3333),
    (Impairment(delay=300_000), 2500),
    (Impairment(delay=60_000_000, jitter=60_000_000, rate=32_000_000), 4000),
])  # fmt: skip
def test_packets_on_their_way_are_bounded_by_what_rate_and_delay_need(wanted: Impairment, number: int) -> None:
    """With segmentation offload each may have 64 KiB, which are the host's."""
    assert netem.packets(wanted) == number
    (written,) = struct.unpack_from("=I", netem._options(wanted), 4)
    assert written == number
    assert number << 16 <= 256 << 20


@pytest.mark.parametrize(("read", "text", "number"), [
    (parse.duration, "20ms", 20_000), (parse.duration, "1.5ms", 1500), (parse.duration, "500us", 500),
    (parse.duration, "60s", 60 * 10**6), (parse.share, "0.0001%", 1), (parse.share, "100%", 10**6),
    (parse.bit_rate, "1.5gbit", 1_500_000), (parse.bit_rate, "32gbit", 32 * 10**6),
])  # fmt: skip
def test_a_quantity_has_its_unit(read: object, text: str, number: int) -> None:
    assert read(text) == number  # type: ignore[operator]


@pytest.mark.parametrize(("key", "text"), [
    *(("delay", text) for text in ("20", "20 ms", "-1ms", "0ms", "61s", "1.0005ms", "1e3ms", "20min", ".5ms")),
    *(("loss", text) for text in ("1", "101%", "0%", "0.00001%", "1 %", "1%%", "NaN%")),
    *(("rate", text) for text in ("10", "10mbps", "33gbit", "0kbit", "0.5kbit", "1000000000000kbit")),
])  # fmt: skip
def test_what_is_no_quantity_is_an_error(key: str, text: str) -> None:
    with pytest.raises(parse.TextError, match=r"is not a (time|share|rate) such as"):
        READERS[key](text)
    mark = (
        f'<g:port xmlns:g="https://libvirt-guestnet.org/xmlns/1" mac="52:54:00:00:00:01"><g:impairment {key}="{text}"/>'
    )
    with pytest.raises(GuestnetError, match=f"metadata: <guestnet:impairment> {key}: .* is not a "):
        reader.read_port(xmlread.parse(f"{mark}</g:port>".encode()))


FILE = """name: t
networks: {{ lan: {{ mode: nat, subnets: [10.0.0.0/24] }} }}
guests:
  g:
    ports:
      - network: lan
        impairment: {}
        {}
"""


@pytest.mark.parametrize(("impairment", "more", "message"), [
    ("{}", "", "t.yaml:7:21: impairment: say what happens to packets: delay, jitter, loss, duplicate, reorder, rate"),
    ("{ jitter: 5ms }", "", "t.yaml:7:31: jitter: it is longer than the delay"),
    ("{ delay: 5ms, jitter: 5001us }", "", "t.yaml:7:43: jitter: it is longer than the delay"),
    ("{ reorder: 5% }", "", "t.yaml:7:32: reorder: packets that are not delayed only overtake others where there is a"),
    ("{ loss: 1 }", "", "t.yaml:7:29: '1' is not a share such as 1% or 0.1%"),
    ("{ delay: 20 ms }", "", "t.yaml:7:30: '20 ms' is not a time such as 20ms"),
    ("{ corrupt: 1% }", "", "unknown key 'corrupt'"),
    ("{ loss: 1% }", "bandwidth: { inbound: { average: 100 } }", "t.yaml:7:21: impairment: libvirt limits what the"),
])  # fmt: skip
def test_what_makes_no_sense_is_an_error(impairment: str, more: str, message: str) -> None:
    with pytest.raises(TopologyError) as error:
        loads(FILE.format(impairment, more), "t.yaml")
    assert message in str(error.value), str(error.value)


def test_what_a_port_may_say() -> None:
    file = FILE.format("{ delay: 20ms, jitter: 5ms, loss: 1%, duplicate: 0.1%, reorder: 5%, rate: 10mbit }", "")
    (guest,) = loads(file, "t.yaml").guests
    assert guest.ports[0].impairment == ALL
    limited = FILE.format("{ loss: 1% }", "bandwidth: { outbound: { average: 100 } }")
    assert loads(limited, "t.yaml").guests[0].ports[0].impairment == Impairment(loss=10_000)


def test_what_was_set_without_a_file_is_imported() -> None:
    said = PortPolicy("52:54:00:00:00:01", "p", "lan", impairment=ALL)
    (line,) = [line for line in text._said(said) if line.startswith("impairment")]
    (guest,) = loads(FILE.format(line.removeprefix("impairment: "), ""), "t.yaml").guests
    assert (guest.ports[0].impairment, text.why_not_said(said)) == (ALL, [])


def test_a_plan_names_what_changes() -> None:
    old, new = (
        writer._port(PortPolicy("52:54:00:00:00:01", "p", "n", impairment=each))
        for each in (ALL, ALL._replace(delay=50_000))
    )
    assert list(map(str, differences(new, old))) == ["impairment/@delay: 20ms -> 50ms"]


def test_the_kernel_is_told_what_tc_tells_it() -> None:
    """tc leaves out what is zero; that would stay as it was in a change."""
    ours = netem._qdisc(1, HANDLE, "netem", netem._options(ALL))[20:]
    assert OF_TC[:12] == ours[:12]
    tcs, ours = OF_TC[16:], ours[16:]
    assert netem._QOPT.unpack_from(tcs) == netem._QOPT.unpack_from(ours)
    said, meant = (netem.attributes(options[netem._QOPT.size :]) for options in (tcs, ours))
    assert said.items() <= meant.items()
    assert {kind: meant[kind] for kind in meant.keys() - said} == {
        1: bytes(12),  # TCA_NETEM_CORR
        10: (20_000_000).to_bytes(8, "little"),  # TCA_NETEM_LATENCY64, in nanoseconds
        11: (5_000_000).to_bytes(8, "little"),  # TCA_NETEM_JITTER64
    }


AS_LIBVIRT = Root("noqueue", 0x80010000)


class Kernel:
    """One with two taps, and a netem or none. `roots` are their root qdiscs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.state, self.taps, self.has_netem = UnlockedState(str(root)), {"vme0": 5, "vme1": 6}, True
        self.roots: dict[int, Root] = {5: AS_LIBVIRT, 6: Root("mq")}
        self.said: list[str] = []
        monkeypatch.setattr(links, "index_of", lambda name: self.taps.get(name, 0))
        monkeypatch.setattr(Netem, "__enter__", lambda it: it)
        monkeypatch.setattr(Netem, "__exit__", lambda *_: None)
        monkeypatch.setattr(Netem, "roots", lambda _: dict(self.roots))
        monkeypatch.setattr(Netem, "_change", lambda _, kind, flags, body, what: self.change(kind, flags, body, what))

    def change(self, kind: int, flags: int, body: bytes, what: str) -> None:
        _, index, handle, parent, _ = netem._MESSAGE.unpack_from(body)
        said = netem.attributes(body[netem._MESSAGE.size :])
        name = said.get(1, b"").rstrip(b"\0").decode()
        assert parent == 0xFFFFFFFF
        self.said.append(f"{'del' if kind == 37 else 'replace' if flags & 0x100 else 'add'} {index} {name}".strip())
        if index not in self.taps.values() or (name == "netem" and not self.has_netem):
            raise RefusedError(what, 19 if index not in self.taps.values() else 2)
        if kind == 37:
            if self.roots[index].handle != handle:
                raise RefusedError(what, 22)
            self.roots[index] = Root("fq_codel")
        else:
            self.roots[index] = Root(name, handle, said.get(2, b""))

    def impair(self, impairment: str | None, tap: str = "vme0", uuid: str = "u", kind: str = "bridge") -> list[str]:
        own = f"<guestnet:impairment {impairment}/>" if impairment is not None else ""
        with self.state.lock() as locked:
            return calls.impair(
                Domain(xmlread.parse(DOMAIN.format(tap=tap, uuid=uuid, own=own, kind=kind).encode())), locked
            )

    def lost(self) -> dict[str, str]:
        return impairing.lost(self.state)


DOMAIN = """<domain><name>g</name><uuid>{uuid}</uuid><metadata><guestnet:domain
xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1" topology="t" guest="g">
<guestnet:port mac="52:54:00:00:00:01" name="p" network="one" guarded="no">{own}</guestnet:port></guestnet:domain>
</metadata><devices><interface type="{kind}"><mac address="52:54:00:00:00:01"/><source bridge="br0"/>
<target dev="{tap}"/></interface></devices></domain>"""
WORDS = 'delay="20ms" jitter="5ms" loss="1%" duplicate="0.1%" reorder="5%" rate="10mbit"'


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    return Kernel(monkeypatch, tmp_path)


def test_a_tap_does_what_its_port_says_and_is_as_before_when_it_says_no_more(kernel: Kernel) -> None:
    assert kernel.impair(WORDS) == []
    assert kernel.roots[5].does(ALL)
    assert (kernel.lost(), kernel.roots[6]) == ({}, Root("mq"))
    assert kernel.impair(WORDS) == []
    assert kernel.said == ["replace 5 netem"], "what is so already is not touched"
    assert kernel.impair('delay="50ms"') == []
    assert kernel.roots[5].does(Impairment(50_000))
    assert kernel.impair(None) == []
    assert kernel.roots[5].kind == "noqueue", "as libvirt makes its taps"
    assert kernel.state.impaired_taps() == []


def test_what_goes_with_the_guest(kernel: Kernel) -> None:
    kernel.impair(WORDS)
    kernel.impair(WORDS, "vme1", "other")
    with kernel.state.lock() as locked:
        impairing.release("u", locked)
    assert [each.tap for each in kernel.state.impaired_taps()] == ["vme1"]
    assert kernel.roots[5].kind == "noqueue"
    del kernel.taps["vme1"]
    with kernel.state.lock() as locked:
        calls.sweep_impaired(locked)
    assert (kernel.state.impaired_taps(), kernel.said[-1]) == ([], "add 5 noqueue"), (
        "nothing is told to a tap that is gone"
    )
    kernel.taps["vme1"] = 9
    kernel.roots[9] = Root("noqueue")
    assert kernel.impair(None, "vme1", "other") == []


def test_one_nic_is_unplugged_and_hooks_are_uninstalled(kernel: Kernel) -> None:
    kernel.impair(WORDS)
    kernel.impair(WORDS, "vme1", "other")
    with kernel.state.lock() as locked:
        impairing.release_tap("other", "vme0", locked)
        assert kernel.roots[5].does(ALL), "it is another domain's"
        impairing.release_tap("other", "vme1", locked)
        assert (kernel.roots[5].does(ALL), kernel.roots[6].is_ours) == (True, False)
        impairing.release_all(locked)
    assert (kernel.roots[5].kind, kernel.state.impaired_taps()) == ("noqueue", [])


def test_somebody_elses_qdisc_stays(kernel: Kernel) -> None:
    kernel.roots[5] = Root("htb", 0x10000)
    (message,) = kernel.impair(WORDS)
    assert message.startswith("domain 'g': tap vme0 is not impaired: a qdisc of somebody else's is there: htb")
    assert (kernel.said, kernel.lost()) == ([], {})
    (receipt,) = kernel.state.impaired_taps()
    assert receipt.refused
    kernel.impair(None)
    assert (kernel.roots[5], kernel.state.impaired_taps()) == (Root("htb", 0x10000), [])


def test_a_kernel_without_netem_is_no_reason_not_to_start(kernel: Kernel) -> None:
    kernel.has_netem = False
    (message,) = kernel.impair(WORDS)
    assert "tap vme0 is not impaired: this kernel has no netem: `modprobe sch_netem` says what it lacks" in message
    assert kernel.lost() == {}, "it is not tried again and again"
    kernel.has_netem = True
    assert kernel.impair(WORDS) == []
    assert (kernel.roots[5].does(ALL), kernel.state.impaired_taps()[0].refused) == (True, "")


@pytest.mark.parametrize("root", [Root("noqueue"), Root("netem", 0x10000), Root("netem", HANDLE, b"short")])
def test_what_somebody_took_away_or_changed_is_missing(kernel: Kernel, root: Root) -> None:
    kernel.impair(WORDS)
    kernel.roots[5] = root
    assert kernel.lost() == {"vme0": "g"}
    kernel.roots[5] = Root("netem", HANDLE, netem._options(ALL._replace(loss=0)))
    assert kernel.lost() == {"vme0": "g"}


def test_a_nic_without_a_tap_is_named(kernel: Kernel) -> None:
    assert kernel.impair(WORDS, kind="user") == [
        "domain 'g': interface 52:54:00:00:00:01 is not impaired: type 'user' has no tap"
    ]
    assert (kernel.said, kernel.state.impaired_taps()) == ([], [])


def test_a_kernel_that_refuses_all_is_a_message(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Netem) -> dict[int, Root]:
        raise RefusedError("to list", 1)

    monkeypatch.setattr(Netem, "roots", refuse)
    (message,) = kernel.impair(WORDS)
    assert (
        message == "domain 'g': its taps are not impaired: the kernel refused to list: EPERM (Operation not permitted)"
    )


def test_only_the_expected_error_says_that_there_is_no_netem(kernel: Kernel) -> None:
    with pytest.raises(RefusedError, match="ENODEV"):
        Netem().ensure(7, ALL, Root())
    kernel.has_netem = False
    with pytest.raises(CannotError):
        Netem().ensure(5, ALL, Root())
