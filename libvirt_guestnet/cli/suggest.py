"""`guestnet suggest`"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace

from libvirt_guestnet.errors import GuestnetError


def suggest(args: Namespace) -> int:
    """`guestnet suggest`"""
    from libvirt_guestnet.status import suggestions

    if os.geteuid() != 0:
        raise GuestnetError("what observed ports did is told to root alone: run this as root")
    found = suggestions.suggestions(args.connect, args.port or "")
    if args.json:
        print(json.dumps([each.json() for each in found], indent=2))
    else:
        sys.stdout.write(suggestions.text(found))
    return 0
