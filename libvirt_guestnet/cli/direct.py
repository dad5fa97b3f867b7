"""`guestnet guard`, `guestnet forward` and `guestnet address`"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterable

from libvirt_guestnet.errors import GuestnetError


def guard(args: Namespace) -> int:
    """`guestnet guard`"""
    from libvirt_guestnet.direct import change

    _as_root()
    change.guard(args.connect, args.name, args.how, args.kind or "", allow_interrupt=args.allow_interrupt)
    return 0


def _as_root() -> None:
    if os.geteuid() != 0:
        raise GuestnetError("this changes what the kernel lets guests send: run it as root")


def forward(args: Namespace) -> int:
    """`guestnet forward add` and `remove`"""
    from libvirt_guestnet.direct import change
    from libvirt_guestnet.direct.forwards import asked

    return _edit(args, change.forward, [asked(text, args.at, args.sources) for text in args.forwards])


def forwards(args: Namespace) -> int:
    """`guestnet forward list`"""
    from libvirt_guestnet.direct import change

    return _list(change.forwards_of(args.connect, args.domain))


def address(args: Namespace) -> int:
    """`guestnet address add` and `remove`"""
    from libvirt_guestnet.direct import change
    from libvirt_guestnet.direct.addresses import asked

    return _edit(args, change.address, asked(args.addresses))


def addresses(args: Namespace) -> int:
    """`guestnet address list`"""
    from libvirt_guestnet.direct import change

    return _list(change.addresses_of(args.connect, args.domain))


def _edit(args: Namespace, edit: Callable[..., None], wanted: object) -> int:
    _as_root()
    edit(args.connect, args.domain, wanted, remove=args.action == "remove", allow_interrupt=args.allow_interrupt)
    return 0


def _list(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0
