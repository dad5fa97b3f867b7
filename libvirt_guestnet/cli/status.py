"""`guestnet status`"""

from __future__ import annotations

import json
import sys
from argparse import Namespace


def status(args: Namespace) -> int:
    """`guestnet status`: 3 if a NIC that should be guarded is not."""
    from libvirt_guestnet.status import lacking, text
    from libvirt_guestnet.status.filters import Only
    from libvirt_guestnet.status.gather import status_rows

    only = Only(args.guest, args.network, args.of_topology)
    rows, missing = lacking.settled(lambda: status_rows(args.connect, only))
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        sys.stdout.write(text.drops_text(rows) if args.drops else text.status_text(rows))
    if missing:
        sys.stderr.write(f"guestnet: {lacking.complaint(missing)}\n")
    return 3 if missing else 0
