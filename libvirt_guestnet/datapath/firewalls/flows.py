"""Keeping a network's running connections open while libvirt takes its firewall rules away and puts them back.

libvirt's networkUpdate() does that for every DHCP entry, rule by rule. For a moment only its last rule is there, which
rejects everything: 0.2 s, or 11 pings of one every 20 ms, measured on libvirt 9.0 on a busy machine. No accept in a
table of our own can overrule that reject, so this is the one place where we put rules into somebody else's chain
(decision 17): iptables' FORWARD, for established connections of this bridge and for what stays on it (it comes there
under br_netfilter, and libvirt always lets it pass), and for as long as libvirt works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from libvirt_guestnet.datapath.run import iptables
from libvirt_guestnet.datapath.run.names import check_device

_TOOLS = ("iptables", "ip6tables")
_MARK = "libvirt-guestnet: while libvirt changes DHCP"
_RULES = (
    "-i {0} -o {0} -m comment --comment MARK -j ACCEPT",
    "-i {0} -m comment --comment MARK -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-o {0} -m comment --comment MARK -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
)


@contextmanager
def kept_open(bridge: str) -> Iterator[None]:
    """Keeps established connections over a bridge, and all between its ports, open inside of a `with`. If iptables
    cannot do it, they may stall, but nothing fails. Raises GuestnetError on a name that no bridge can have."""
    check_device(bridge)
    with ExitStack() as undo:
        for tool in _TOOLS:
            for rule in _RULES:
                words = [_MARK if word == "MARK" else word for word in rule.format(bridge).split()]
                if iptables.change_forward(tool, "-I", words):
                    undo.callback(_remove, tool, words)
        yield


def _remove(tool: str, rule: list[str]) -> None:
    """Removes every copy of the rule: an apply that was killed may have left one."""
    while iptables.change_forward(tool, "-D", rule):
        pass
