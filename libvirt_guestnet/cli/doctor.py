"""`guestnet doctor`"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence

from libvirt_guestnet.apply.reaching import own_part
from libvirt_guestnet.cli import arguments
from libvirt_guestnet.doctor import facts
from libvirt_guestnet.doctor.finding import FINE, MUST, Finding
from libvirt_guestnet.doctor.judge import judge


def doctor(args: Namespace) -> int:
    """`guestnet doctor`: 1 when something must be done."""
    found = None if args.topology is None else arguments.load(args)
    hostmap = arguments.hostmap(args)
    if found is not None and found.hosts:
        arguments.refuse_own(args)
        found, hostmap = own_part(found)
    rows = judge(facts.gather(args.connect, found, hostmap, packets=args.packets))
    print(json.dumps([row.json() for row in rows], indent=2) if args.json else text(rows))
    return 1 if any(row.level == MUST for row in rows) else 0


def text(rows: Sequence[Finding]) -> str:
    """What there is to say, a paragraph each; what is fine is only counted."""
    said = [row for row in rows if row.level != FINE]
    lines = [f"{row.level.upper()}: {' '.join(filter(None, (row.check, row.about)))}: {row.found}" for row in said]
    with_advice = [f"{line}\n      {row.do}" if row.do else line for line, row in zip(lines, said, strict=True)]
    return "\n".join([*with_advice, f"{len(rows) - len(said)} of {len(rows)} things are fine"])
