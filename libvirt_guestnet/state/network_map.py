"""`network.json`: which networks, bridges, VLANs, VNIs, taps and addresses there are now, for other programs to read.

It says what the receipts say, and is written under their lock, before that is released: whoever reads it sees the state
before a change or after it. xml/network.schema.json has its form, docs/network-map.md its words.

Each network and each port is a line. So a change is the lines of what has changed, and the rest is copied: beside 1,000
ports it takes less than a millisecond, where reading all receipts would take a tenth of a second (decision 96). While
receipts change there is a mark; if a process is killed meanwhile, the next change finds that, and writes the file anew.
On the hook path.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import suppress

from libvirt_guestnet import light_json
from libvirt_guestnet.light_typing import Any
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import ForwardRule, HostRoutes, NetworkReceipt, PortForwards, PortReceipt, TapVlans

FILE, MARK = "network.json", ".network-changes"
OF_NETWORKS, OF_TAPS = "networks", ("ports", "vlans", "host-routes", "forwards")
KINDS = frozenset((OF_NETWORKS, *OF_TAPS))
_HEAD, _BETWEEN, _END = b'{"version": 1, "networks": [\n', b'\n], "ports": [\n', b"\n]}\n"
_EMPTY = _HEAD[:-1] + _BETWEEN[:-1] + _END
_LARGEST = 64 << 20
# Changes at once, beyond which all is read: each change of a line takes some time, too.
_MANY = 200


def mark(root: str) -> bool:
    """Notes that receipts are about to change. Returns whether that was noted already, by a process that was killed."""
    try:
        os.close(os.open(f"{root}/{MARK}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        return True
    return False


def update(state: State, changed: Collection[tuple[str, str]], anew: bool) -> None:
    """Writes what is true by now of these receipts, each by kind and name; `anew`: of all. The lock must be held."""
    text = None if anew or len(changed) > _MANY else _read(state.root)
    if text is None:
        text = bytearray(_text(*_everything(state)))
    else:
        for kind, name in changed:
            if kind == OF_NETWORKS:
                _set(text, _BETWEEN[:-1], {"name": name}, _network(state, name))
            else:
                _set(text, _END, {"tap": name}, _port(state, name))
    _write(state.root, text)
    with suppress(FileNotFoundError):
        os.unlink(f"{state.root}/{MARK}")


def is_owed(root: str) -> bool:
    """Whether receipts are changing, or a process was killed while they were: who has the lock knows that."""
    return os.path.lexists(f"{root}/{MARK}")


def is_true(state: State) -> bool:
    """Whether the file says what the receipts say. The lock must be held, or a change may be between the two."""
    said, wanted = _read(state.root), _text(*_everything(state))
    if said is None:
        return wanted == _EMPTY and not os.path.lexists(f"{state.root}/{FILE}")
    return _lines(said) == _lines(wanted)


def _lines(text: bytes | bytearray) -> list[bytes]:
    """Sorted, as new ones are added at the end."""
    return sorted(bytes(line).removesuffix(b",") for line in text.split(b"\n"))


def _text(networks: list[str], ports: list[str]) -> bytes:
    return _HEAD[:-1] + _listed(networks) + _BETWEEN[:-1] + _listed(ports) + _END


def _listed(lines: list[str]) -> bytes:
    return b"\n" + ",\n".join(lines).encode() if lines else b""


def _read(root: str) -> bytearray | None:
    """The file's text; None unless it is one that this version has written."""
    try:
        with open(f"{root}/{FILE}", "rb", buffering=0) as file:
            text = bytearray(min(os.fstat(file.fileno()).st_size, _LARGEST))
            file.readinto(text)
    except OSError:
        return None
    return text if text.startswith(_HEAD[:-1]) and _BETWEEN[:-1] in text and text.endswith(_END) else None


def _set(text: bytearray, end: bytes, key: dict[str, str], found: dict[str, Any] | None) -> None:
    """Changes the one line that begins with this key, or adds it at the end of the list, which is where `end` is. In
    place, as copies of the text are what takes time."""
    line = b"" if found is None else light_json.dumps(found).encode()
    start = text.find(f"\n{light_json.dumps(key)[:-1]}, ".encode())
    if start >= 0:
        after = text.index(b"\n", start + 1)
        comma = b"," if text[after - 1 : after] == b"," else b""
        if not line and not comma and text[start - 1 : start] == b",":
            start -= 1  # it was the last one, and the one before is that now
        text[start:after] = b"\n" + line + comma if line else b""
    elif line:
        last = text.index(end)
        comma = b"," if text[last - 1 : last] == b"}" else b""
        text[last:last] = comma + b"\n" + line


def _everything(state: State) -> tuple[list[str], list[str]]:
    """The lines of all networks, and of all ports."""
    taps = sorted({tap for kind in OF_TAPS for tap in _names(state, kind)})
    networks = (_network(state, name) for name in _names(state, OF_NETWORKS))
    ports = (_port(state, tap) for tap in taps)
    return [light_json.dumps(each) for each in networks if each], [light_json.dumps(each) for each in ports if each]


def _names(state: State, kind: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(f"{state.root}/{kind}"))
    except FileNotFoundError:
        return
    yield from (name.removesuffix(".json") for name in names if name.endswith(".json"))


def remove(root: str) -> None:
    """No file is better than one that is not true."""
    with suppress(FileNotFoundError):
        os.unlink(f"{root}/{FILE}")


def _write(root: str, text: bytearray) -> None:
    """Where there is nothing, there is no file."""
    if text == _EMPTY:
        remove(root)
        return
    draft = f"{root}/.draft"  # as that of receipts: one that a killed hook left is simply overwritten
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(draft, flags, 0o600), "wb", buffering=0) as file:
        if file.write(text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
    os.replace(draft, f"{root}/{FILE}")


def _network(state: State, name: str) -> dict[str, Any] | None:
    found = state.sound_network(name)
    return None if found is None else _of_network(found)


def _of_network(found: NetworkReceipt) -> dict[str, Any]:
    return {
        "name": found.name,
        "topology": found.topology,
        "zone": found.zone,
        "mode": found.mode,
        "bridge": found.bridge,
        "made_bridge": found.made_bridge,
        "vlan": found.vlan or found.carried_vlan,
        "service_vlan": found.service or found.carried_service,
        "vni": found.vni,
        "overlay": found.overlay,
        "uplink": found.uplink or found.vlan_uplink or found.outside or found.nat_outside,
        "subnets": found.subnets,
        "hosts": found.hosts,
        "guarded": found.guarded and not found.observed,
        "external": found.external,
    }


def _port(state: State, tap: str) -> dict[str, Any] | None:
    """All that is known of a tap, of whatever receipts it has."""
    guard, vlans = state.sound_port(tap), state.of_tap("vlans", tap, TapVlans)
    routes, forwards = state.of_tap("host-routes", tap, HostRoutes), state.of_tap("forwards", tap, PortForwards)
    first = guard or vlans or routes or forwards
    if first is None:
        return None
    guard = guard or PortReceipt(tap, "", "", "")
    vlans, routes = vlans or TapVlans(tap, "", ""), routes or HostRoutes(tap, "", "")
    return {"tap": tap, "domain": first.domain, "uuid": first.uuid, **_of_port(guard, vlans, routes, forwards)}


def _of_port(guard: PortReceipt, vlans: TapVlans, routes: HostRoutes, forwards: PortForwards | None) -> dict[str, Any]:
    return {
        "mac": guard.mac or (forwards.mac if forwards else ""),
        "network": guard.network,
        "bridge": guard.bridge or vlans.bridge or guard.segment.partition("/")[0],
        "addresses": guard.owned,
        "sources": guard.routed,
        "dhcp": guard.dhcp,
        "vlan": vlans.pvid,
        "tagged": vlans.tagged,
        "routes": [route.prefix for route in routes.routes],
        "published": [entry.address for entry in routes.published],
        "floating": [each.ip for each in forwards.floating] if forwards else [],
        "forwards": [_forward(each) for each in forwards.forwards] if forwards else [],
        "guarded": bool(guard.mac) and not (guard.trusted or guard.observed),
    }


def _forward(rule: ForwardRule) -> dict[str, Any]:
    ports = {"first": rule.first, "last": rule.last, "to_first": rule.to_first}
    return {"protocol": rule.protocol, "at": rule.at, "to": rule.to, **ports, "from": rule.sources}
