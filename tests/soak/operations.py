"""What is done to the host by chance. Each operation is a line of shell, but for what the daemon and the service get.

What is drawn depends on the seed and the operation's number alone, never on what the host says; so a number names the
same line again. A line may well fail: what is not there cannot be stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .setting import BY_HAND, FILES, FOLDER, NAMESPACE, NETWORKS, OF_FILE, VARIANTS, mac

_STRETCH = 60  # rounds

# Functions for the lines below. A guest that lets go of a NIC only at a reset is given one.
PREAMBLE = f"""
cd {FOLDER}
v() {{ timeout 60 virsh -q -c qemu:///system "$@"; }}
guestnet() {{ timeout 120 $GUESTNET "$@"; }}
is() {{ [ "$(v domstate $1 2>/dev/null)" = "$2" ]; }}
lives() {{ is $1 running || is $1 paused; }}
there() {{ v domstate $1 >/dev/null 2>&1 || v define $1-$2.xml; }}
start() {{ there $1 $2; v start $1 $3; }}
nudges() {{ for turn in 1 2 3 4 5 6 7 8; do sleep 0.3; for guest in f0 f1; do v reset $guest; done; done; }}
nudged() {{ "$@" & nudges >/dev/null 2>&1; wait $!; }}
detach() {{ v detach-device $1 $2 --live & sleep 0.3; v reset $1; wait $!; }}
pick() {{ set -- $(cat) ''; n=$(($PICK % ($# > 1 ? $# - 1 : 1))); shift $n; echo $1; }}
taps() {{
    spared=$(v domiflist bystander | tr -s ' ' | sed 's/^ //' | cut -d' ' -f1)
    for name in /sys/class/net/*/tun_flags; do echo $name | cut -d/ -f5; done | grep -vx $spared
}}
unpublish() {{ for ip in $(ip $1 neigh show proxy | cut -d' ' -f1); do ip $1 neigh del proxy $ip dev up0; done; }}
"""


@dataclass(frozen=True)
class Operation:
    """`owes`: without the service, `hooks sync` has to follow (docs/lifecycle.md). `opens`: until then guards may be
    gone, as somebody took them. What `daemon` and `service` get, the soak does itself, after the line."""

    number: str
    line: str = ""
    owes: bool = False
    opens: bool = False
    daemon: str = ""
    service: str = ""

    def __str__(self) -> str:
        more = [f"{name} {how}" for name, how in (("daemon", self.daemon), ("service", self.service)) if how]
        return f"{self.number}: {'; '.join(filter(None, [self.line, *more]))}"


def draw(seed: str, number: str) -> Operation:
    dice = Random(f"{seed}.{number}")
    among = [each for each in _EVERY if not (is_lasting(int(number.partition(".")[0])) and each[0] in _RESTARTS)]
    (function,) = dice.choices([each for each, _ in among], [weight for _, weight in among])
    drawn = function(dice)
    return drawn(number) if callable(drawn) else Operation(number, drawn)


def is_lasting(number: int) -> bool:
    """Whether the daemon and the service live on in this round: every other stretch is one that they could grow in."""
    return number // _STRETCH % 2 == 1


Drawn = str | Callable[[str], Operation]


def _guest(dice: Random) -> str:
    return dice.choice((*BY_HAND, *BY_HAND, *OF_FILE))


def _variant(guest: str, dice: Random) -> str:
    return dice.choice(VARIANTS) if guest in BY_HAND else "0"


def _power(dice: Random) -> Drawn:
    guest = _guest(dice)
    variant, how = _variant(guest, dice), dice.choice(("", "", "", "--paused"))
    end = dice.choice((f"v destroy {guest}", f"v destroy {guest}", f"kill -9 $(cat /run/libvirt/qemu/{guest}.pid)"))
    return f"if lives {guest}; then {end}; else start {guest} {variant} {how}; fi"


def _start(dice: Random) -> Drawn:
    guest = _guest(dice)
    return _running(guest, dice)


def _define(dice: Random) -> Drawn:
    guest = _guest(dice)
    return f"v define {guest}-{_variant(guest, dice)}.xml"


def _undefine(dice: Random) -> Drawn:
    return f"v undefine {_guest(dice)} --managed-save --snapshots-metadata"


def _managed_save(dice: Random) -> Drawn:
    guest = _guest(dice)
    return f"if lives {guest}; then v managedsave {guest}; else v start {guest}; fi"


def _save(dice: Random) -> Drawn:
    guest, how = _guest(dice), dice.choice(("", "--paused"))
    return f"lives {guest} && v save {guest} {guest}.saved && v restore {guest}.saved {how}"


def _snapshot(dice: Random) -> Drawn:
    guest, how = _guest(dice), dice.choice(("", "--running", "--paused"))
    then = dice.choice(("", "", f"; v snapshot-delete {guest} s --metadata"))
    exists = f"v snapshot-info {guest} s >/dev/null 2>&1"
    create = f"{_running(guest, dice)}; v snapshot-create-as {guest} s"  # with memory: of a guest that runs
    return f"if {exists}; then v snapshot-revert {guest} s {how}{then}; else {create}; fi"


def _pause(dice: Random) -> Drawn:
    guest = _guest(dice)
    return dice.choice((f"v suspend {guest}", f"v resume {guest}", f"v reset {guest}"))


def _attach(dice: Random) -> Drawn:
    guest, network = dice.choice(BY_HAND), dice.choice(NETWORKS)
    # Two NICs of one MAC address on one bridge are refused; that is not asked for here.
    is_there = f"v domiflist {guest} | grep -q {mac(BY_HAND.index(guest) + 1, 2)}"
    return f"{_running(guest, dice)}; {is_there} || v attach-device {guest} {guest}-nic2-{network}.xml --live"


def _detach(dice: Random) -> Drawn:
    guest, nic = dice.choice(BY_HAND), dice.choice((0, 1, 2, 2))
    return f"lives {guest} && for net in one two plain; do detach {guest} {guest}-nic{nic}-$net.xml && break; done"


def _update(dice: Random) -> Drawn:
    guest, nic, network = dice.choice(BY_HAND), dice.choice((0, 0, 1, 2)), dice.choice(NETWORKS)
    return f"{_running(guest, dice)}; v update-device {guest} {guest}-nic{nic}-{network}.xml --live"


def _running(guest: str, dice: Random) -> str:
    return f"lives {guest} || start {guest} {_variant(guest, dice)}"


def _network(dice: Random) -> Drawn:
    name, how = dice.choice((*NETWORKS, "web")), dice.choice(("restart", "restart", "toggle"))
    toggle = f"v net-start {name} 2>/dev/null || v net-destroy {name}"
    line = toggle if how == "toggle" else f"v net-destroy {name}; sleep {dice.choice((0, 0.2))}; v net-start {name}"
    return lambda number: Operation(number, line, owes=True)


def _daemon(dice: Random) -> Drawn:
    how = dice.choice(("TERM", "TERM", "KILL"))
    return lambda number: Operation(number, daemon=how)


def _service(dice: Random) -> Drawn:
    how = dice.choice(("kill", "kill", "stop", "start"))
    return lambda number: Operation(number, service=how)


def _metadata(dice: Random) -> Drawn:
    guest = dice.choice(BY_HAND)
    where = f"--uri {NAMESPACE} --key h"  # another prefix than the text has of itself
    text = f'"$(cat {guest}-policy-{dice.choice(VARIANTS)}.xml)"'
    return lambda number: Operation(
        number, f"lives {guest} && v metadata {guest} {where} --set {text} --live && guestnet hooks sync"
    )


def _apply(dice: Random) -> Drawn:
    how = dice.choice(("", "--allow-interrupt"))
    return f"nudged guestnet apply file-{dice.choice(FILES)}.yaml --map lan=up0 {how}"


def _destroy(dice: Random) -> Drawn:
    return "nudged guestnet destroy --name file --allow-interrupt"


def _sync(dice: Random) -> Drawn:
    return "guestnet hooks sync"


def _flush(dice: Random) -> Drawn:
    tables = "for t in 'netdev guestnet' 'arp guestnet' 'bridge guestnet'; do nft delete table $t 2>/dev/null; done"
    # libvirt's own rules come back with its daemon's restart (docs/lifecycle.md, "What somebody else changed").
    line, daemon = dice.choice((("nft flush ruleset", "TERM"), (tables, "")))
    return lambda number: Operation(number, line, owes=True, opens=True, daemon=daemon)


def _chain(dice: Random) -> Drawn:
    tap = f"tap=$(taps | PICK={dice.randrange(97)} pick)"
    what = dice.choice(
        (
            "nft flush chain netdev guestnet tap-$tap && nft delete chain netdev guestnet tap-$tap",
            "nft flush chain netdev guestnet tap-$tap",
            "nft add chain netdev guestnet tap-$tap '{ policy accept; }'",
        )
    )
    return lambda number: Operation(number, f'{tap}; [ -z "$tap" ] || {{ {what}; }}', owes=True, opens=True)


def _route(dice: Random) -> Drawn:
    tap = f"tap=$(taps | PICK={dice.randrange(97)} pick)"
    what = dice.choice(
        (
            "ip route flush root 0/0 proto 71",
            "ip -6 route flush root ::/0 proto 71",
            "unpublish -4",
            "unpublish -6",
            f"{tap}; ip link set $tap nomaster",
            f"{tap}; bridge fdb del $(bridge fdb show dev $tap | grep static | cut -d' ' -f1) dev $tap master",
            f"{tap}; bridge link set dev $tap learning on flood on",
            f"{tap}; ip address del 169.255.30.1/32 dev $tap",
        )
    )
    return lambda number: Operation(number, what, owes=True)


_EVERY: tuple[tuple[Callable[[Random], Drawn], int], ...] = (
    (_power, 16),
    (_start, 10),
    (_define, 3),
    (_undefine, 2),
    (_managed_save, 6),
    (_save, 4),
    (_snapshot, 6),
    (_pause, 4),
    (_attach, 7),
    (_detach, 4),
    (_update, 7),
    (_network, 6),
    (_daemon, 4),
    (_service, 5),
    (_metadata, 4),
    (_apply, 6),
    (_destroy, 2),
    (_sync, 3),
    (_flush, 3),
    (_chain, 5),
    (_route, 6),
)
_RESTARTS = (_daemon, _service, _flush)
