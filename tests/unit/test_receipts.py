"""Receipts are read back as what they say they are, or are damaged: nobody else's call fails for that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links, present
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.datapath.run.program import RefusedBatchError
from libvirt_guestnet.hook.enforce import port_guard
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import Bridges, Checksum, NetworkReceipt, PortReceipt
from libvirt_guestnet.state.serialiser import DamagedError

PORT = PortReceipt(
    "tapa", "52:54:00:00:00:01", "a", "ua", owned=("10.0.0.2/32", "fd00::2"), pairs=(("", "10.0.0.9/32"),), ifindex=7,
    trunk=((1, 5),), dhcp=("10.0.0.1",), lease=60,
)  # fmt: skip
NETWORK = NetworkReceipt(
    "net", "t", True, "br0", ("10.0.0.0/24",), ("10.0.0.1",), (("", "10.0.0.5"),), (("10.0.0.8", "10.0.0.9"),)
)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log, "complain", lines.append)
    serialiser._reported.clear()
    return lines


@pytest.fixture
def state(tmp_path: Path) -> Iterator[LockedState]:
    with UnlockedState(str(tmp_path / "state")).lock() as locked:
        yield locked


def test_what_was_written_is_read_back(state: LockedState) -> None:
    state.put_ports("ua", [PORT])
    state.put_network(NETWORK)
    assert (state.port("tapa"), state.network("net")) == (PORT, NETWORK)
    assert (state.ports(), state.networks(), state.taps("ua")) == ([PORT], [NETWORK], ["tapa"])


def test_another_versions_fields_do_not_matter(state: LockedState) -> None:
    state.put_ports("ua", [PORT])
    _change(state, "ports/tapa", lambda fields: {**fields, "newer": {"x": [1]}})
    assert state.port("tapa") == PORT
    _change(state, "ports/tapa", lambda fields: {key: fields[key] for key in ("tap", "mac", "domain", "uuid")})
    assert state.port("tapa") == PortReceipt("tapa", "52:54:00:00:00:01", "a", "ua")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tap", "tapb"), ("tap", None), ("mac", "01:00:00:00:00:00"), ("domain", 7), ("uuid", ["u"]),
        ("uuid", "\ud800"),
        ("owned", "10.0.0.1"), ("owned", ["10.0.0.1/8"]), ("owned", ["fd00::1%1"]), ("owned", [7]), ("owned", None),
        ("pairs", [["", "10.0.0.1", "x"]]), ("pairs", [["x", "10.0.0.1"]]), ("pairs", {"a": "b"}), ("ifindex", -1),
        ("ifindex", True), ("ifindex", 1.5), ("ifindex", 1 << 64),
        ("ifindex", 1 << 31), ("lease", 1 << 32), ("own", "yes"), ("own", 1), ("trunk", [[5, 1]]),
        ("trunk", [[1, 1 << 40]]), ("trunk", [[0, 4]]), ("trunk", [["1", "2"]]), ("dhcp", ["10.0.0.0/24"]),
        ("bridge", "a b"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_to_do(state: LockedState, said: list[str], field: str, value: object) -> None:
    state.put_ports("ua", [PORT])
    _change(state, "ports/tapa", lambda fields: {**fields, field: value})
    with pytest.raises(DamagedError) as damaged:
        state.port("tapa")
    path = f"{state.root}/ports/tapa.json"
    assert str(damaged.value).startswith(f"{path} is damaged ({field}: ")
    assert str(damaged.value).endswith("): remove it and run `guestnet hooks sync`")
    assert (state.ports(), state.sound_port("tapa"), said) == ([], None, [str(damaged.value)])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b"7", b'"x"', b"{}"])
def test_what_is_no_receipt_is_left_out_and_taken_away(state: LockedState, said: list[str], data: bytes) -> None:
    state.put_ports("ua", [PORT])
    state.put_ports("ub", [PORT._replace(tap="tapb", uuid="ub")])
    kinds = ("ports/tapa", "domains/ua", "networks/net", "plugging/p", "uplinks/eth0", "bridges", "forwards-in-kernel")
    for name in (*(f"{kind}.json" for kind in kinds), "checksum", "shared"):
        path = Path(state.root, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert [port.tap for port in state.ports()] == ["tapb"]
    assert (state.networks(), state.pluggings(), state.joined("eth0"), state.taps("ub")) == ([], [], set(), ["tapb"])
    assert (state.bridges(), state.checksum(), state.shared()) == (Bridges({}), Checksum(), "")
    assert state.forwards_in_kernel() is not None, "nobody knows what is there"
    assert all("is damaged (" in line for line in said)
    assert len(set(said)) == len(said) >= 4, "each is told once"
    state.drop_ports(["tapa"])
    assert state.tapnames() == {"tapb"}


def test_a_domains_damaged_file_is_made_of_its_taps(state: LockedState, said: list[str]) -> None:
    state.put_ports("ua", [PORT, PORT._replace(tap="tapb")])
    Path(state.root, "domains/ua.json").write_text("{")
    assert state.taps("ua") == ["tapa", "tapb"]
    state.prune()
    assert json.loads(Path(state.root, "domains/ua.json").read_text()) == {"taps": ["tapa", "tapb"]}


def test_ports_are_guarded_without_the_one_that_nft_refuses(
    state: LockedState, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [
        PORT._replace(tap=f"tap{each}", uuid=each, domain=each, ifindex=number) for number, each in enumerate("abcd", 1)
    ]
    for port in ports:
        state.put_ports(port.uuid, [port._replace(dhcp=())])
    written: list[str] = []

    def refuse(batch: str, hold: int | None = None) -> None:
        if "tapc" in batch:
            raise RefusedBatchError("nft refused the change: no")
        written.append(batch)

    monkeypatch.setattr(nft, "nft", refuse)
    monkeypatch.setattr(nft, "numbers_of_all", lambda: lambda name: [])
    monkeypatch.setattr(links, "index_of", lambda tap: "abcd".index(tap[3]) + 1)
    monkeypatch.setattr(present, "missing", list)  # no port has notes, and only root can ask the kernel
    assert port_guard._guard_living(state) == {3}
    assert all(f"tap-{port.tap} " in written[-1] for port in ports if port.tap != "tapc")
    assert said == ["domain 'c': tap tapc cannot be guarded: nft refused the change: no"]


def _change(state: LockedState, name: str, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    path = Path(state.root, f"{name}.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_a_receipt_is_checked_once_in_a_process_and_again_when_another_takes_its_place(
    state: LockedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    checked = serialiser.read

    def noted(kind: Any, fields: Any, path: str) -> Any:
        read.append(path)
        return checked(kind, fields, path)

    monkeypatch.setattr(serialiser, "read", noted)
    state.put_network(NETWORK)
    assert [UnlockedState(state.root).network("net") for _ in range(3)] == [NETWORK] * 3
    assert len(read) == 1
    state.put_network(NETWORK._replace(log=True))
    assert state.network("net") == NETWORK._replace(log=True)
    _change(state, "networks/net", lambda fields: {**fields, "bridge": "no device"})
    for _ in range(2):
        with pytest.raises(DamagedError):
            state.network("net")
    state.drop_network("net")
    assert state.network("net") is None


@pytest.mark.parametrize("again", [True, False])
def test_a_damaged_networks_receipt_is_replaced_and_forgotten_like_another(state: LockedState, again: bool) -> None:
    state.put_network(NETWORK._replace(required=True))
    assert state.insisting("br0") == "net"
    _change(state, "networks/net", lambda fields: {**fields, "bridge": "no device"})
    if again:
        state.put_network(NETWORK)
        assert state.network("net") == NETWORK
    else:
        state.drop_network("net")
        assert state.network("net") is None
    assert state.insisting("br0") == ""
