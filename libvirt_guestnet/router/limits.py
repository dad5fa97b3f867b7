"""What one guest may take of its router, so that others keep theirs, as nft sets and rules. Pure (decision 91).

All is counted by MAC address, of which port security lets each port have one: a guest can invent IPv6 addresses, ports
and identifiers, but not that. What is over a limit is dropped and counted, and everybody else's goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.router import RouterConfig

_ASKING = {
    "dns": "limit rate over 100/second burst 300 packets",
    "dhcp": "limit rate over 10/second burst 30 packets",
    "advertisements": "limit rate over 5/second burst 10 packets",
    "metadata": "limit rate over 20/second burst 60 packets",
    "echo": "limit rate over 50/second burst 50 packets",
}
_AT_ONCE = {"dns": (53, 4), "metadata": (80, 8)}
"""TCP connections to the router that one guest has open at a time, by their port: dnsmasq serves 20 in all."""

DHCP6_QUEUE = 6
"""Where the agent looks at DHCPv6 requests before dnsmasq does."""

_FAMILY = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_TOUCHED = "size 4096 ; flags dynamic,timeout ; timeout"


def sets(config: RouterConfig) -> Iterator[str]:
    """Each as "NAME { ... }"."""
    yield from (f"asking-{name} {{ type ether_addr ; {_TOUCHED} 10s ; }}" for name in _ASKING)
    yield from (f"connected-{name} {{ type ether_addr ; size 4096 ; flags dynamic ; }}" for name in _AT_ONCE)
    for name, kind in {"ether": "ether_addr", **_FAMILY}.items():
        yield f"{_tracked(config, name)} {{ type {kind} ; size 4096 ; flags dynamic ; }}"
        yield f"crowded-{name} {{ type {kind} ; {_TOUCHED} 1s ; }}"


def _tracked(config: RouterConfig, name: str) -> str:
    """A set's elements keep the limit that they were made with: another limit is another set."""
    return f"tracked-{name}-{config.guest_connections}"


def asking(guests: str) -> Iterator[str]:
    """Rules for what guests send to the router itself, before anything of it is accepted."""
    for which, name in (
        ("meta l4proto { tcp, udp } th dport 53", "dns"),
        ("udp dport { 67, 547 }", "dhcp"),
        ("icmpv6 type nd-router-solicit", "advertisements"),
        ("tcp dport 80 ct state new", "metadata"),
        ("icmp type echo-request", "echo"),
        ("icmpv6 type echo-request", "echo"),
    ):
        limit = f"update @asking-{name} {{ ether saddr {_ASKING[name]} }}"
        yield f'iifname {guests} {which} {limit} counter name "limited" drop'
    for name, (port, most) in _AT_ONCE.items():
        count = f"add @connected-{name} {{ ether saddr ct count over {most} }}"
        yield f'iifname {guests} tcp dport {port} ct state new {count} counter name "limited" reject with tcp reset'


def tracking(config: RouterConfig, guests: str) -> Iterator[str]:
    """Rules for new connections through the router: so many are tracked that a guest opened, and so many that lead to
    it. To count them the kernel looks at each, so that it does not once a guest has too many: for a second, others are
    not even counted."""
    most = config.guest_connections
    for name, way in (("ether", "iifname"), *((family, "oifname") for family in _FAMILY)):
        key = "ether saddr" if name == "ether" else f"{name} daddr"
        yield f'{way} {guests} {key} @crowded-{name} counter name "crowded" drop'
        full = f"add @{_tracked(config, name)} {{ {key} ct count over {most} }} add @crowded-{name} {{ {key} }}"
        yield f'{way} {guests} {full} counter name "crowded" drop'
