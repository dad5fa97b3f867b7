"""How long guests cannot be reached when somebody flushes the host's rules, or reloads a firewall.

    sudo scripts/bench/recovery [--rounds 5] [--json FILE]

Asked for without a pause: a port forward to a guest behind NAT and a host-routed guest, over UDP, and the guard of a
port, on a Debian 13 that systemd has booted in a sandbox. For each event the longest time without, in seconds, with and
without libvirt-guestnet.service; what has not come back within 10 s is given as 10. Medians. Needs root and what
`scripts/setup tests` and `scripts/make-root trixie` install.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.booted import Booted, booted
from support.libvirt_lan import HOST, Net
from support.reached import DIRECT, DIRECT_TAP, Reached
from support.sandboxes import WITHOUT_NODEDEV

from libvirt_guestnet import sandbox
from libvirt_guestnet.errors import GuestnetError

GUARD = ("netdev", "guestnet", f"tap-{DIRECT_TAP}")
GIVEN_UP, TRY, WELL = 10.0, 0.1, 2.0
# What is started first ("" for nothing), what then happens, and what puts the firewall out again.
EVENTS = {
    "nft flush ruleset": ("", "nft flush ruleset", ""),
    "nftables.service reload": ("systemctl start nftables", "systemctl reload nftables", "systemctl stop nftables"),
    "firewalld reload": ("systemctl start firewalld", "firewall-cmd -q --reload", "systemctl stop firewalld"),
    "Docker restart": (
        "systemctl reset-failed docker; systemctl start docker",
        "systemctl reset-failed docker; systemctl restart docker",
        "systemctl stop docker docker.socket",
    ),
    "libvirtd restart": ("", "systemctl restart libvirtd", ""),
}
# What is asked, over and over, until it is true.
Row = dict[str, Any]
ASKED: dict[str, Callable[[Net], bool]] = {
    "port forward": lambda net: net.udp("lan", HOST, 5300, TRY).open,
    "host-routed guest": lambda net: net.udp("lan", DIRECT[0], 53, TRY).open,
    "guard of a port": lambda net: net.sandbox.run(["nft", "list", "chain", *GUARD], check=False).returncode == 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    with host() as box, Net(box) as net:
        rows = [row for name in EVENTS for row in measure(net, box, name, args.rounds)]
    print(f"{args.rounds} rounds, load {os.getloadavg()[0]:.1f}; seconds without an answer, median (longest)")
    print(f"{'':24} {'':18} {'with the service':>18} {'without it':>18}")
    for row in rows:
        both = (f"{statistics.median(row[key]):.2f} ({max(row[key]):.2f})" for key in ("with", "without"))
        print(f"{row['event']:24} {row['asked']:18} {next(both):>18} {next(both):>18}")
    if args.json:
        args.json.write_text(json.dumps({"unit": "s", "load": os.getloadavg(), "rows": rows}, indent=1) + "\n")


@contextmanager
def host() -> Iterator[Booted]:
    make = [str(Path(__file__).resolve().parents[1] / "make-root"), "--path", "trixie"]
    done = subprocess.run(make, capture_output=True, text=True, check=True)
    root, prepare = Path(done.stdout.strip()), [WITHOUT_NODEDEV]
    with sandbox.start(f"recovery-{os.getpid()}", root=root, prepare=prepare) as box, booted(box) as host:
        host.guestnet("hooks", "install")
        host.restart_libvirtd()
        yield host


def measure(net: Net, box: Booted, name: str, rounds: int) -> list[Row]:
    start, event, stop = EVENTS[name]
    rows: list[Row] = [{"event": name, "asked": asked, "with": [], "without": []} for asked in ASKED]
    for _ in range(rounds):
        for key, verb in (("with", "start"), ("without", "stop")):
            box.run(["systemctl", verb, "libvirt-guestnet"])
            box.run(["sh", "-c", start or ":"], timeout=60)
            box.restart_libvirtd()  # nftables.service has flushed its rules
            with Reached(net) as guests:
                net.soon(lambda: all(guests.passing().values()))
                for row in rows:
                    row[key].append(round(outage(net, event, ASKED[row["asked"]]), 2))
                    box.guestnet("hooks", "sync")
            box.run(["sh", "-c", stop or ":"], timeout=60)
            box.run(["nft", "flush", "ruleset"])
            box.restart_libvirtd()
    return rows


def outage(net: Net, event: str, asked: Callable[[Net], bool]) -> float:
    """The longest time between two good answers, until all has been well for two seconds after the event."""
    assert asked(net)
    last = well = time.monotonic()
    longest = 0.0
    with subprocess.Popen(net.sandbox.command(["sh", "-c", event])) as process:
        while (gone := time.monotonic() - last) < GIVEN_UP:
            if asked(net):
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            if process.poll() is None or gone > 2 * TRY:
                well = time.monotonic()
            elif time.monotonic() - well > WELL:
                break
        else:
            longest = GIVEN_UP
    if process.returncode != 0:
        raise GuestnetError(f"{event!r} ended with status {process.returncode}: there is nothing to recover from")
    return longest


if __name__ == "__main__":
    try:
        main()
    except GuestnetError as failure:
        sys.exit(f"scripts/bench/recovery: {failure}")
