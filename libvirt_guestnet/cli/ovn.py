"""`guestnet ovn`"""

from __future__ import annotations

from argparse import Namespace

from libvirt_guestnet.cli import arguments
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.host import FabricKind


def up(args: Namespace) -> int:
    """`guestnet ovn up`"""
    from libvirt_guestnet.apply.reaching import local
    from libvirt_guestnet.ovn import host
    from libvirt_guestnet.ovn.chassis import bridges, plan_chassis, southbound

    found = arguments.load(args)
    if found.fabric.kind is not FabricKind.OVN:
        raise GuestnetError(f"{found.file}: topology {found.name!r} has no fabric of kind ovn")
    here = local(found)
    host.check_installed(central=args.central)
    remote = (args.southbound,) if args.southbound else southbound(found.fabric)
    wanted = plan_chassis(here, found.fabric, remote, host.settings())
    for label, bridge in bridges(here).items():
        if not host.has_bridge(bridge):
            raise GuestnetError(
                f"host {here.name}: {label} is bridge {bridge}, and Open vSwitch has none of that name: ovs-vsctl "
                f"add-br {bridge} -- add-port {bridge} NIC"
            )
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        print(text, flush=True)

    if args.central:
        host.central(found.fabric, str(here.underlay), tell)
    host.set_up(wanted, tell)
    print(f"chassis {here.chassis} is up" if told else f"chassis {here.chassis} is up already: nothing to do")
    return 0
