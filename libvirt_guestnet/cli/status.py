"""`guestnet status`"""

from __future__ import annotations

import json
import sys
from argparse import Namespace


def status(args: Namespace) -> int:
    """`guestnet status`: 3 if a NIC that should be guarded is not; with `--watch` 0, once a signal ends it."""
    if args.watch:
        from libvirt_guestnet.cli import watching

        return watching.watch(args)
    from libvirt_guestnet import terminal
    from libvirt_guestnet.status import lacking, text
    from libvirt_guestnet.status.filters import Only
    from libvirt_guestnet.status.gather import status_rows

    only = Only(args.guest, args.network, args.of_topology)
    rows, missing = lacking.settled(lambda: status_rows(args.connect, only, tried=not args.drops))
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        terminal.show(text.drops_blocks(rows) if args.drops else text.status_blocks(rows))
    if missing:
        sys.stderr.write(f"guestnet: {lacking.complaint(missing)}\n")
    return 3 if missing else 0
