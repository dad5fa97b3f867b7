"""`guestnet guard`, `guestnet forward` and `guestnet address`"""

from __future__ import annotations

import os
from argparse import Namespace

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

    wanted, remove = [asked(text, args.at, args.sources) for text in args.forwards], args.action == "remove"
    _as_root()
    change.forward(args.connect, args.domain, wanted, remove=remove, allow_interrupt=args.allow_interrupt)
    return 0


def forwards(args: Namespace) -> int:
    """`guestnet forward list`"""
    from libvirt_guestnet.direct import change

    for line in change.forwards_of(args.connect, args.domain):
        print(line)
    return 0


def address(args: Namespace) -> int:
    """`guestnet address add` and `remove`"""
    from libvirt_guestnet.direct import change
    from libvirt_guestnet.direct.addresses import asked

    wanted, remove = asked(args.addresses), args.action == "remove"
    _as_root()
    change.address(args.connect, args.domain, wanted, remove=remove, allow_interrupt=args.allow_interrupt)
    return 0


def addresses(args: Namespace) -> int:
    """`guestnet address list`"""
    from libvirt_guestnet.direct import change

    for line in change.addresses_of(args.connect, args.domain):
        print(line)
    return 0
