"""`guestnet status`"""

from __future__ import annotations

import json
import sys
from argparse import Namespace


def status(args: Namespace) -> int:
    """`guestnet status`"""
    from libvirt_guestnet.status import text
    from libvirt_guestnet.status.gather import status_rows

    rows = status_rows(args.connect)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        sys.stdout.write(text.drops_text(rows) if args.drops else text.status_text(rows))
    return 0
