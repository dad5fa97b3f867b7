"""The tables that tell bridged from host-routed guests: routes, neighbours, published addresses; read and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.lab import endpoints
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.table import table

# linux/if_arp.h, with the letters of net-tools' `arp -n`.
_FLAGS = ((0x02, "C"), (0x04, "M"), (0x08, "P"))


def host_mac(topology: Topology, host: Agent, address: IPAddress | None) -> str | None:
    """The MAC address of this host's device on the LAN that an address is of."""
    own = endpoints.host_beside(topology, address) if address else None
    found = _json(host, "ip", "-j", "address", "show", "to", str(own)) if own else []
    links = [link for device in found for link in _json(host, "ip", "-j", "link", "show", "dev", device["ifname"])]
    return links[0]["address"] if links else None


def gateways(agent: Agent, version: int) -> list[str]:
    """The default gateways of an endpoint."""
    lines = agent.run(["ip", f"-{version}", "route"]).text.splitlines()
    words = (line.split() for line in lines)
    return [line[2] for line in words if line[:2] == ["default", "via"]]


def held(host: Agent, address: IPAddress) -> dict[str, str]:
    """What this host's tables hold for an address, by kind, as a few words."""
    family, found = f"-{address.version}", {}
    for route in _json(host, "ip", "-j", family, "route", "show", "table", "all", str(address)):
        if route["dst"] == str(address) and route.get("type", "unicast") == "unicast":
            found["route"] = f"dev {route['dev']}"
    for entry in _json(host, "ip", "-j", family, "neigh", "show", "proxy"):
        if entry["dst"] == str(address):
            found["published"] = f"{_flags(host, address)} on {entry['dev']}"
    return found


def _flags(host: Agent, address: IPAddress) -> str:
    """The flags of a published entry; those of IPv6 are in no file, and it has no others."""
    if address.version == 6:
        return "MP"
    return next((row["flags"] for row in _arp(host) if row["address"] == str(address) and "P" in row["flags"]), "?")


def text(topology: Topology, agents: Mapping[str, Agent]) -> str:
    """The tables of the host, of each LAN's computer and of each guest; "" where the host routes to no guest."""
    if not any(network.routed for network in topology.networks):
        return ""
    host = agents[endpoints.HOST]
    parts = [
        ("the server: arp -n", _shown(_arp(host))),
        ("the server: routes to guests", _routes(host)),
        ("the server: published for IPv6", "\n".join(e["dst"] + " dev " + e["dev"] for e in _published6(host))),
    ]
    for name in [*(p.label for p in topology.physical_networks if p.label in agents), *_guests(topology, agents)]:
        found = [line.split() for v in (4, 6) for line in agents[name].run(["ip", f"-{v}", "neigh"]).text.splitlines()]
        neighbours = [{"address": line[0], "mac": line[4]} for line in found if line[3:4] == ["lladdr"]]
        parts.append((f"{name}: neighbours", _shown(neighbours)))
        default = [f"default via {gateway}" for v in (4, 6) for gateway in gateways(agents[name], v)]
        parts.append((f"{name}: gateways", "\n".join(default)))
    return "\n\n".join(f"{title}\n{_indented(body)}" for title, body in parts if body)


def _guests(topology: Topology, agents: Mapping[str, Agent]) -> Iterator[str]:
    return (guest.name for guest in topology.guests if guest.name in agents)


def _arp(host: Agent) -> list[dict[str, str]]:
    """/proc/net/arp as `arp -n` prints it."""
    rows = []
    for line in host.run(["cat", "/proc/net/arp"]).text.splitlines()[1:]:
        address, _, flags, mac, _, device = line.split()
        letters = "".join(letter for bit, letter in _FLAGS if int(flags, 16) & bit)
        rows.append({"address": address, "mac": "*" if "P" in letters else mac, "flags": letters, "interface": device})
    return [row for row in rows if row["flags"]]


def _routes(host: Agent) -> str:
    found = [
        r for v in ("-4", "-6") for r in _json(host, "ip", "-j", v, "route", "show", "table", "all", "proto", "71")
    ]
    return "\n".join(
        f"{r['dst']}" + (f" via {r['gateway']}" if "gateway" in r else "") + f" dev {r['dev']}" for r in found
    )


def _published6(host: Agent) -> list[dict[str, str]]:
    return _json(host, "ip", "-j", "-6", "neigh", "show", "proxy")


def _json(host: Agent, *argv: str) -> list[dict[str, str]]:
    return [row for row in json.loads(host.run(argv).text or "[]") if row]


def _shown(rows: Sequence[Mapping[str, str]]) -> str:
    return table([dict(row) for row in rows])


def _indented(body: str) -> str:
    return "\n".join(f"    {line}" for line in body.splitlines())
