"""`guestnet router`"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from libvirt_guestnet import terminal
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.parse import shown
from libvirt_guestnet.status import routers
from libvirt_guestnet.status.meanings import meaning
from libvirt_guestnet.styled import BAD, line
from libvirt_guestnet.table import Block, made

UNHEALTHY = 3
_Rows = Sequence[dict[str, object]]


def show(args: Namespace) -> int:
    """`guestnet router show`"""
    row = routers.described(_router(args))
    if args.json:
        return _print_json([row])
    nics, balancers, trouble = (row.pop(key) for key in ("nics", "balancers", "trouble"))
    assert isinstance(nics, list) and isinstance(balancers, list) and isinstance(trouble, list)
    blocks: list[Block] = [line(f"{key.replace('_', ' ')}: {_cell(value)}") for key, value in row.items()]
    terminal.show([*blocks, *(line(("trouble", BAD), f": {each}") for each in trouble)], between="")
    print()
    _print_table(nics)
    if balancers:
        print()
        _print_table(balancers)
    return 0


def _cell(value: object) -> object:
    return "-" if value in (None, "") else value


def leases(args: Namespace) -> int:
    """`guestnet router leases`: of one that does not run, what its disk has."""
    found = sorted(routers.leases(_router(args)), key=lambda lease: (lease.address.version, int(lease.address)))
    rows: _Rows = [{**asdict(lease), "address": str(lease.address)} for lease in found]
    if args.json:
        return _print_json(rows)
    for row in rows:
        row["expires"] = _moment(int(str(row["expires"])))
    return _print_table(rows)


def _moment(seconds: int) -> str:
    """A guest wrote the number."""
    if not seconds:
        return "never"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def rules(args: Namespace) -> int:
    """`guestnet router rules`"""
    with routers.connected(_router(args)) as client:
        if args.nft:
            lines = client.rules().splitlines()
            if args.json:
                return _print_json([{"line": each} for each in lines])
            terminal.show([line(each.replace("\t", "    ")) for each in lines], between="")
            return 0
        counted = client.counters()
    rows = [{"rule": name, **asdict(each)} for name, each in sorted(counted.items())]
    return _print_json(rows) if args.json else _print_table(rows)


def health(args: Namespace) -> int:
    """`guestnet router health`: 3 when something that was tried failed, or nothing could be tried."""
    router = _router(args)
    found = routers.health(router, routers.LONG_TRY_SECONDS)
    if not found:
        raise GuestnetError(f"router {args.router}: none of its networks has an address left to try it from")
    if any(each.ok for each in found):  # one that hangs would keep us waiting, and has said enough
        found += routers.balancers(router)
    rows = [each.json() for each in found]
    if args.json:
        _print_json(rows)
    else:
        _print_table([{key: value for key, value in row.items() if key != "router"} for row in rows])
    return 0 if all(each.ok for each in found) else UNHEALTHY


def replace(args: Namespace) -> int:
    """`guestnet router replace`"""
    from libvirt_guestnet.apply import replacing

    _as_root()
    done = replacing.replace(args.connect, args.router, lambda text: None if args.json else print(text, flush=True))
    if args.json:
        return _print_json([{"router": args.router, "seconds": round(done, 3)}])
    print(f"router {args.router} serves again, {done:.1f} s after it was stopped")
    return 0


def _router(args: Namespace) -> DomainState:
    from libvirt_guestnet.libvirtd.connection import connect

    _as_root()
    with connect(args.connect) as connection:
        found = connection.snapshot().domain.get(args.router)
    if found is None or not found.is_router:
        raise GuestnetError(f"libvirt has no virtual router {shown(args.router)} of guestnet's")
    return found


def _as_root() -> None:
    if os.geteuid() != 0:
        raise GuestnetError("a router's channel and disks are root's: run this as root")


def _print_json(rows: Iterable[object]) -> int:
    print(json.dumps(list(rows), indent=2))
    return 0


def _print_table(rows: _Rows) -> int:
    found = made(rows, meaning=meaning)
    terminal.show([found] if found else [line("none")])
    return 0
