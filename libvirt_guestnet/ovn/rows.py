"""Rows of OVN's northbound database as facts, and whose they are.

Each row of ours has the topology's name and, as only some tables have names, a key of ours in its `external_ids`. Other
rows are other people's: they are neither changed nor removed, nor are others' values in our rows' sets of references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

TOPOLOGY, KEY = "guestnet-topology", "guestnet-row"
"""The keys in `external_ids`."""


class Ref(NamedTuple):
    """A row of ours, by its table and key."""

    table: str
    key: str


Pairs = tuple[tuple[str, str], ...]
Value = str | int | bool | tuple[str, ...] | Pairs | tuple[Ref, ...]
"""Sets, maps and references are sorted tuples; an optional value is a set of one or none."""

SWITCH, SWITCH_PORT, ROUTER, ROUTER_PORT = (
    "Logical_Switch",
    "Logical_Switch_Port",
    "Logical_Router",
    "Logical_Router_Port",
)
GATEWAY, NAT, ROUTE, BALANCER = "Gateway_Chassis", "NAT", "Logical_Router_Static_Route", "Load_Balancer"
DHCP, DNS, GROUP, ACL = "DHCP_Options", "DNS", "Port_Group", "ACL"

# What a row has where nothing else is said: a column that is not here is not ours.
_EMPTY: Mapping[str, Mapping[str, Value]] = {
    SWITCH: {"name": "", "other_config": (), "dns_records": ()},
    SWITCH_PORT: {
        "name": "",
        "type": "",
        "addresses": (),
        "port_security": (),
        "options": (),
        "tag": (),
        "enabled": (),
        "dhcpv4_options": (),
        "dhcpv6_options": (),
    },
    ROUTER: {"name": "", "options": (), "load_balancer": (), "enabled": ()},
    ROUTER_PORT: {"name": "", "mac": "", "networks": (), "options": (), "ipv6_ra_configs": (), "enabled": ()},
    GATEWAY: {"name": "", "chassis_name": "", "priority": 0},
    NAT: {
        "type": "",
        "external_ip": "",
        "logical_ip": "",
        "external_mac": (),
        "logical_port": (),
        "external_port_range": "",
    },
    ROUTE: {"ip_prefix": "", "nexthop": "", "output_port": (), "policy": ()},
    BALANCER: {"name": "", "protocol": (), "vips": (), "options": ()},
    DHCP: {"cidr": "", "options": ()},
    DNS: {"records": ()},
    GROUP: {"name": "", "ports": ()},
    ACL: {"direction": "", "priority": 0, "match": "", "action": ""},
}
COLUMNS: Mapping[str, frozenset[str]] = {table: frozenset(columns) for table, columns in _EMPTY.items()}
REFERENCES: Mapping[str, Mapping[str, str]] = {
    SWITCH: {"dns_records": DNS},
    SWITCH_PORT: {"dhcpv4_options": DHCP, "dhcpv6_options": DHCP},
    ROUTER: {"load_balancer": BALANCER},
    GROUP: {"ports": SWITCH_PORT},
}
"""The columns that name other rows, with their table."""
PARENTS: Mapping[str, tuple[str, str]] = {
    SWITCH_PORT: (SWITCH, "ports"),
    ROUTER_PORT: (ROUTER, "ports"),
    GATEWAY: (ROUTER_PORT, "gateway_chassis"),
    NAT: (ROUTER, "nat"),
    ROUTE: (ROUTER, "static_routes"),
    ACL: (GROUP, "acls"),
}
"""Rows that live as long as another one lists them: its table and column."""
NAMED = frozenset({SWITCH, SWITCH_PORT, ROUTER, ROUTER_PORT, GATEWAY, BALANCER, GROUP})
"""Tables whose rows people know by their names."""
WORDS: Mapping[str, str] = {
    SWITCH: "logical-switch",
    SWITCH_PORT: "logical-port",
    ROUTER: "logical-router",
    ROUTER_PORT: "router-port",
    GATEWAY: "gateway-chassis",
    NAT: "nat",
    ROUTE: "static-route",
    BALANCER: "load-balancer",
    DHCP: "dhcp-options",
    DNS: "dns-records",
    GROUP: "port-group",
    ACL: "acl",
}
"""What the tables' rows are called."""


@dataclass(frozen=True)
class Row:
    """A row of ours. `parent` is the one that lists it, where its table has such."""

    table: str
    key: str
    columns: Mapping[str, Value] = field(default_factory=dict)
    parent: Ref | None = None

    @property
    def ref(self) -> Ref:
        return Ref(self.table, self.key)

    @property
    def name(self) -> str:
        """Its name in the database; "" in tables without."""
        return str(self.columns["name"]) if self.table in NAMED else ""


def row(ref: Ref, parent: Ref | None = None, **columns: Value) -> Row:
    """A row with all columns of its table that are ours."""
    return Row(ref.table, ref.key, {**_EMPTY[ref.table], **columns}, parent)


def pairs(found: Mapping[str, object]) -> Pairs:
    """A map without what is None or empty."""
    return tuple(sorted((key, str(value)) for key, value in found.items() if value not in (None, "")))


@dataclass(frozen=True)
class Northbound:
    """What the database has of a topology. `others` are the names of rows that are not its own, with the topology that
    has them ("": no topology of ours), `guests` what others have put into rows of ours, in words. `surplus` are rows
    of a key that another row has, too."""

    rows: Mapping[Ref, Row] = field(default_factory=dict)
    others: Mapping[tuple[str, str], str] = field(default_factory=dict)
    guests: Mapping[Ref, tuple[str, ...]] = field(default_factory=dict)
