"""The host's side of a router's control channel, with a stand-in for the appliance: what it says is not believed."""

from __future__ import annotations

import pytest

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.guest.wire import AgentResult
from libvirt_guestnet.router.client import (
    Balanced,
    Counted,
    Lease,
    MemberState,
    RefusedDocumentError,
    RouterClient,
    read_leases,
)

STATE = """connections 3
dnsmasq runs
role serves
dnsmasq-restarts 0
document {document}
memory-free-kib 15416
memory-kib 62008
serving 2.5
uptime 70.25
"""


class StandIn(Agent):
    """Answers every request with the same."""

    def __init__(self, status: int, stdout: str = "", stderr: str = "") -> None:
        self.name, self._result = "r1", AgentResult(status, stdout.encode(), stderr.encode())

    def call(self, *_words: object, **_times: float) -> AgentResult:  # type: ignore[override]
        return self._result


def client(status: int, stdout: str = "", stderr: str = "") -> RouterClient:
    return RouterClient(StandIn(status, stdout, stderr))


def test_a_state() -> None:
    state = client(0, STATE.format(document="a" * 64) + "trouble no disk\n").state()
    assert (state.document, state.serving, state.memory_kib, state.trouble) == ("a" * 64, 2.5, 62008, ("no disk",))
    assert client(0, STATE.format(document="-")).state().document is None


@pytest.mark.parametrize("spoilt", ["", STATE.replace("62008", "-1"), STATE.replace("2.5", "nan"), "\xff" * 1000])
def test_a_state_that_nobody_understands(spoilt: str) -> None:
    with pytest.raises(GuestnetError, match="router r1 says of itself what nobody understands"):
        client(0, spoilt).state()


def test_counters() -> None:
    said = '{"nftables": [{"metainfo": {}}, {"counter": {"name": "forward-web", "packets": 2, "bytes": 120}}]}'
    assert client(0, said).counters() == {"forward-web": Counted(2, 120)}


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"nftables": 1}', '{"nftables": [{"counter": 1}]}', "[" * 100_000])
def test_counters_that_nobody_understands(spoilt: str) -> None:
    with pytest.raises(GuestnetError, match="router r1 says of its counters what nobody understands"):
        client(0, spoilt).counters()


def test_balancers() -> None:
    found = client(0, "web web1 up 3\nweb web2 new 0\n").balancers()
    assert found == (
        Balanced("web", "web1", MemberState.UP, 3),
        Balanced("web", "web2", MemberState.NEW, 0),
    )


@pytest.mark.parametrize("spoilt", ["web", "web web1 up -1", "web web1 well 1", "web \x1b[31m up 1", "web web1 up 1 2"])
def test_balancers_that_nobody_understands(spoilt: str) -> None:
    with pytest.raises(GuestnetError, match="router r1 says of its balancers what nobody understands"):
        client(0, spoilt).balancers()


def test_leases() -> None:
    text = """1764560000 52:54:00:13:00:0a 10.1.1.10 web 01:52:54:00:13:00:0a
duid 00:01:00:01:30:c5:7c:5f:52:54:00:13:01:00
1764560001 1 fd13:1::10 * 00:03:00:01:52:54:00:99:00:01
"""
    assert read_leases(text) == (
        Lease(1764560000, "52:54:00:13:00:0a", parse.address("10.1.1.10"), "web"),
        Lease(1764560001, "00:03:00:01:52:54:00:99:00:01", parse.address("fd13:1::10")),
    )


@pytest.mark.parametrize(
    "line",
    [
        "x 52:54:00:13:00:0a 10.1.1.10 web *",
        "1 52:54:00:13:00 10.1.1.10 web *",
        "1 52:54:00:13:00:0a fe80::1%eth0 web *",
        "1 1 fd13:1::10 web nonsense",
        "1 52:54:00:13:00:0a 10.1.1.10 web * more",
    ],
)
def test_what_is_no_lease_is_left_out(line: str) -> None:
    assert read_leases(f"{line}\n") == ()


def test_a_name_that_is_none_is_left_out() -> None:
    (lease,) = read_leases("1 52:54:00:13:00:0a 10.1.1.10 \x1b[31mweb *\n")
    assert lease.name == ""


@pytest.mark.parametrize(
    ("said", "section", "line", "message"),
    [
        ("nft:12: syntax error\n", "nft", 12, "router r1: nothing was changed: nft, line 12: syntax error"),
        ("document: cut off\n", "document", 0, "router r1: nothing was changed: document: cut off"),
        ("\xff\xff", "document", 0, "router r1: nothing was changed: document: "),
    ],
)
def test_a_refusal_says_where(said: str, section: str, line: int, message: str) -> None:
    with pytest.raises(RefusedDocumentError) as refused:
        client(1, stderr=said).configure(b"x")
    assert (refused.value.section, refused.value.line) == (section, line)
    assert str(refused.value).startswith(message)


def test_another_version_is_refused() -> None:
    assert client(0, "guestnet-router 7\n").version() == 7
    with pytest.raises(GuestnetError, match="guest r1 is no router of ours"):
        client(0, "guestnet-agent 1\n").version()
    with pytest.raises(GuestnetError, match="router r1: leases failed: no such verb: leases"):
        client(127, stderr="no such verb: leases\n").leases()
