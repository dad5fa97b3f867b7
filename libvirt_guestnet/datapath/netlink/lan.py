"""Stand-ins for LANs, for labs: network namespaces joined to this host. Netlink only."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING

from libvirt_guestnet.datapath.netlink.kernel import activate_site_packages, link, netlink

if TYPE_CHECKING:
    from pyroute2 import IPRoute

Interface = IPv4Interface | IPv6Interface

_IFA_F_NODAD = 0x02  # linux/if_addr.h


@dataclass(frozen=True)
class Lan:
    """A stand-in for a LAN: a network namespace joined to this host by a veth pair.

    `device` is the end on this host, with `host` addresses; or, where there is a `port`, a bridge of which that end is
    a port, as on a host that bridges guests to a LAN and has addresses there itself. `peer` is the end inside, with
    `mac` and `stand_in` addresses and, when given, default routes to `gateways`.
    """

    namespace: str
    device: str
    peer: str
    mac: str
    host: tuple[Interface, ...] = ()
    stand_in: tuple[Interface, ...] = ()
    gateways: tuple[str, ...] = ()
    port: str = ""


def make_lan(lan: Lan) -> None:
    """Makes a LAN. An earlier one of the same names is replaced."""
    delete_lan(lan)
    activate_site_packages()
    from pyroute2 import NetNS, netns

    netns.create(lan.namespace)
    with netlink() as ipr:
        inside = {"ifname": lan.peer, "net_ns_fd": lan.namespace, "address": lan.mac}
        ipr.link("add", ifname=lan.port or lan.device, kind="veth", peer=inside)
        if lan.port:
            ipr.link("add", ifname=lan.device, kind="bridge", br_stp_state=0, br_forward_delay=0)
            ipr.link("set", index=link(ipr, lan.port)["index"], master=link(ipr, lan.device)["index"], state="up")
        _configure(ipr, lan.device, lan.host)
    with NetNS(lan.namespace) as inner:
        _configure(inner, "lo", ())
        _configure(inner, lan.peer, lan.stand_in)
        for gateway in lan.gateways:
            inner.route("add", dst="::/0" if ":" in gateway else "0.0.0.0/0", gateway=gateway)


def delete_lan(lan: Lan) -> None:
    """Removes a LAN; what is gone already does not matter."""
    activate_site_packages()
    from pyroute2 import netns

    with netlink() as ipr:
        for name in (lan.port or lan.device, lan.device):
            found = link(ipr, name)
            if found is not None:
                ipr.link("del", index=found["index"])
    if lan.namespace in netns.listnetns():
        netns.remove(lan.namespace)


def _configure(ipr: IPRoute, device: str, addresses: tuple[Interface, ...]) -> None:
    found = link(ipr, device)
    for address in addresses:
        # No duplicate address detection: nobody else is on this LAN yet, and a tentative address answers nothing.
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        ipr.addr("add", index=found["index"], address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
    ipr.link("set", index=found["index"], state="up")
