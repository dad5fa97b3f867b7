"""`guestnet status`"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path


def status(args: Namespace) -> int:
    """`guestnet status`: 3 if a NIC that should be guarded is not, or network.json is not true; with `--watch` 0, once
    a signal ends it."""
    if args.hosts:
        from libvirt_guestnet.cli import many

        return many.status(args)
    if args.watch:
        from libvirt_guestnet.cli import watching

        return watching.watch(args)
    from libvirt_guestnet import terminal
    from libvirt_guestnet.state.folder import ROOT
    from libvirt_guestnet.state.locked import UnlockedState
    from libvirt_guestnet.status import lacking, text
    from libvirt_guestnet.status.filters import Only
    from libvirt_guestnet.status.gather import status_rows

    only = Only(args.guest, args.network, args.of_topology)
    rows, missing = lacking.settled(lambda: status_rows(args.connect, only, tried=not args.drops))
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        terminal.show(text.drops_blocks(rows) if args.drops else text.status_blocks(rows))
    wrong = [lacking.complaint(missing)] if missing else []
    wrong += [lacking.untold(UnlockedState())] if os.geteuid() == 0 and Path(ROOT).is_dir() else []
    for each in filter(None, wrong):
        sys.stderr.write(f"guestnet: {each}\n")
    return 3 if any(wrong) else 0
