"""`guestnet verify`"""

from __future__ import annotations

import json
from argparse import Namespace

from libvirt_guestnet import terminal
from libvirt_guestnet.apply.reaching import own_part
from libvirt_guestnet.cli import arguments
from libvirt_guestnet.isolation import report, run


def verify(args: Namespace) -> int:
    """`guestnet verify --isolation`: 1 if a frame was seen where it does not belong, or could not be tried."""
    found = None if args.topology is None else arguments.load(args)
    if found is not None and found.hosts:
        found = own_part(found)[0]
    result = run.verify(args.connect, None if found is None else [network.name for network in found.networks])
    if args.json:
        print(json.dumps(report.rows(result), indent=2))
    else:
        terminal.show(report.blocks(result))
    return 0 if report.passed(result) else 1
