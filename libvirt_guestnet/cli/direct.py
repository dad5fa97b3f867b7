"""`guestnet guard`, `forward` and `address`"""

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
