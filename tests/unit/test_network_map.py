"""network.json: what it says is what the receipts say, whatever changes and whoever is killed meanwhile."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from libvirt_guestnet.state import network_map
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import (
    Floating,
    ForwardRule,
    HostRoutes,
    NetworkReceipt,
    PortForwards,
    PortReceipt,
    ProxyEntry,
    Route,
    TapVlans,
)
from libvirt_guestnet.status import lacking

SCHEMA = json.loads((Path(__file__).parents[2] / "xml/network.schema.json").read_text())
ODD = ['a", "b', "a\\", 'a"', "{", "name\n", "ü", "a, b"]


@pytest.fixture
def state(tmp_path: Path) -> UnlockedState:
    return UnlockedState(str(tmp_path))


def said(state: UnlockedState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(state.root, network_map.FILE).read_text())
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def is_true(state: UnlockedState) -> bool:
    with state.lock() as locked:
        return network_map.is_true(locked)


def port(number: int, **more: Any) -> PortReceipt:
    mac, uuid = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", f"00000000-0000-4000-8000-{number:012x}"
    owned = (f"10.1.{number >> 8}.{number & 255}/32", f"fd00::{number:x}/128")
    receipt = PortReceipt(f"vme{number}", mac, f"guest-{number}", uuid, "web", owned=owned, bridge="gn-web")
    return receipt._replace(**more)


def everything(locked: LockedState) -> None:
    """One of each that the file tells of."""
    network = NetworkReceipt("web", "t", True, "gn-web", ("10.1.0.0/16",), ("10.1.0.1",), mode="nat", zone="blue")
    locked.put_network(network)
    locked.put_network(
        network._replace(name="lan", bridge="gn-lan.7", overlay="eth1.7", uplink="eth1.7", carried_vlan=7)
    )
    locked.put_network(network._replace(name="far", bridge="gn-far", overlay="vx9", uplink="vx9", vni=9, subnets=()))
    locked.put_ports(port(1).uuid, [port(1), port(1)._replace(tap="vme1b", trusted=True, bridge="", segment="br0/20")])
    locked.put_tap_vlans(TapVlans("vme1", port(1).uuid, "gn-web", pvid=7, tagged=((20, 29),), domain="guest-1"))
    routes = (Route("192.0.2.9/32", "vme2"),)
    locked.put_host_routes(HostRoutes("vme2", port(2).uuid, "guest-2", routes, (ProxyEntry("192.0.2.9", "eth0"),)))
    rule = ForwardRule("tcp", 8080, 8081, "10.1.0.1", 80, at="198.18.1.2", sources=("192.0.2.0/24",))
    floating = (Floating("198.18.1.50", "10.1.0.1"),)
    locked.put_forwards(
        PortForwards("vme1", port(1).mac, port(1).uuid, "guest-1", "gn-web", 1, True, (rule,), floating)
    )


def test_it_says_what_there_is(state: UnlockedState) -> None:
    with state.lock() as locked:
        everything(locked)
    networks = {each["name"]: each for each in said(state)["networks"]}
    ports = {each["tap"]: each for each in said(state)["ports"]}
    numbers = {name: (each["vlan"], each["vni"]) for name, each in networks.items()}
    assert numbers == {"web": (0, 0), "lan": (7, 0), "far": (0, 9)}
    assert {each["zone"] for each in networks.values()} == {"blue"}
    assert (networks["lan"]["bridge"], networks["lan"]["uplink"]) == ("gn-lan.7", "eth1.7")
    first = ports["vme1"]
    assert (first["domain"], first["network"], first["addresses"]) == ("guest-1", "web", ["10.1.0.1/32", "fd00::1/128"])
    assert (first["vlan"], first["tagged"], first["floating"]) == (7, [[20, 29]], ["198.18.1.50"])
    assert first["forwards"][0] | {"from": []} == {
        "protocol": "tcp", "at": "198.18.1.2", "first": 8080, "last": 8081, "to": "10.1.0.1", "to_first": 80, "from": []
    }  # fmt: skip
    assert [each["guarded"] for each in ports.values()] == [True, False, False]
    assert [each["bridge"] for each in ports.values()] == ["gn-web", "br0", ""]
    assert (ports["vme2"]["routes"], ports["vme2"]["published"]) == (["192.0.2.9/32"], ["192.0.2.9"])


def test_every_key_of_the_schema_is_written_and_no_other(state: UnlockedState) -> None:
    with state.lock() as locked:
        everything(locked)
    for kind, name in (("networks", "network"), ("ports", "port")):
        assert set(said(state)[kind][0]) == set(SCHEMA["$defs"][name]["properties"])
        assert SCHEMA["$defs"][name]["additionalProperties"] is False


def test_only_root_reads_it_and_it_is_not_there_for_nothing(state: UnlockedState) -> None:
    with state.lock() as locked:
        everything(locked)
    path = Path(state.root, network_map.FILE)
    assert path.stat().st_mode & 0o777 == 0o600
    with state.lock() as locked:
        locked.forget_guards()
        for tap in ("vme1", "vme2"):
            locked.drop_tap_vlans(tap)
            locked.drop_host_routes(tap)
            locked.drop_forwards(tap)
    assert not path.exists()
    assert not (path.parent / network_map.MARK).exists()
    assert is_true(state)


def test_it_is_true_after_whatever_changes(state: UnlockedState) -> None:
    chance = random.Random(1)
    names = [*ODD, *map(str, range(8))]
    for _ in range(400):
        with state.lock() as locked:
            for _ in range(chance.randrange(3)):
                name, number = chance.choice(names), chance.randrange(12)
                change = chance.randrange(5)
                if change == 0:
                    locked.put_network(NetworkReceipt(name, "t", True, f"br{number}", zone=chance.choice(ODD)))
                elif change == 1:
                    locked.drop_network(name)
                elif change == 2:
                    locked.put_ports(port(number).uuid, [port(number, domain=name)])
                elif change == 3:
                    locked.drop_ports([f"vme{number}"])
                else:
                    locked.put_tap_vlans(TapVlans(f"vme{number}", "u", "br0", pvid=number))
        assert is_true(state)
    assert {each["name"] for each in said(state)["networks"]} == {each.name for each in state.networks()}
    assert len(state.networks()) > 4 < len(state.ports())


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("mended_by", ["the next change", "the service"])
def test_what_a_killed_process_owes_is_written(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch, mended_by: str
) -> None:
    with state.lock() as locked:
        locked.put_ports("u1", [port(1)])
    with monkeypatch.context() as patch, pytest.raises(KilledError), state.lock() as locked:
        locked.put_ports("u2", [port(2)])
        patch.setattr(network_map, "update", lambda *_, **__: (_ for _ in ()).throw(KilledError))
    assert not is_true(state)
    if mended_by == "the service":
        state.finish_map()
    else:
        with state.lock() as locked:
            locked.put_ports("u3", [port(3)])
    assert is_true(state)
    assert not Path(state.root, network_map.MARK).exists()
    assert "vme2" in {each["tap"] for each in said(state)["ports"]}


def test_status_says_that_it_is_not_true(state: UnlockedState) -> None:
    with state.lock() as locked:
        everything(locked)
    assert lacking.untold(state) == ""
    path = Path(state.root, network_map.FILE)
    path.write_text(path.read_text().replace("10.1.0.1/32", "10.1.0.2/32"))
    assert lacking.untold(state) == f"{path} is not what runs: `guestnet hooks sync` writes it anew"


@pytest.mark.parametrize("text", ["", "{}", "{", '{"version": 2, "networks": [\n], "ports": [\n]}\n', "x" * 100, None])
def test_a_file_of_somebody_elses_is_replaced(state: UnlockedState, text: str | None) -> None:
    with state.lock() as locked:
        everything(locked)
    path = Path(state.root, network_map.FILE)
    path.unlink() if text is None else path.write_text(text)
    assert not is_true(state)
    with state.lock() as locked:
        locked.put_ports("u3", [port(3)])
    assert is_true(state)
    assert len(said(state)["networks"]) == 3


def test_a_file_that_cannot_be_written_keeps_no_guest_from_starting(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with state.lock() as locked:
        locked.put_ports("u1", [port(1)])
    with monkeypatch.context() as patch:
        patch.setattr(network_map, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with state.lock() as locked:
            locked.put_ports("u2", [port(2)])
    assert not Path(state.root, network_map.FILE).exists(), "rather none than one that is not true"
    assert "network.json" in capsys.readouterr().err
    state.finish_map()
    assert is_true(state)


def test_beside_a_thousand_ports_it_takes_a_start_no_two_milliseconds(state: UnlockedState) -> None:
    """In processor time, as other tests run beside; 0.6 ms on a quiet machine."""

    def least(first: int) -> float:
        times = []
        for number in range(first, first + 20):
            with state.lock() as locked:
                locked.put_ports(port(number).uuid, [port(number)])
                began = time.process_time()
            times.append(time.process_time() - began)
        return min(times)

    alone = least(2000)
    with state.lock() as locked:
        for number in range(1000):
            locked.put_ports(port(number).uuid, [port(number)])
    assert least(3000) - alone < 0.002
    assert is_true(state)
