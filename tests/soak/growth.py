"""What grows over a soak, and whether it does so steadily. Counted while the same guests and networks run each time.

Of libvirt's daemon and of the service only one process's life is compared, as each beginning starts at less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tests/unit judges without libvirt
    from libvirt_guestnet.sandbox import Sandbox

    from .seen import Seen

FEWEST = 9
"""Fewer samples than this tell nothing."""
COUNT, MEMORY = 3, 4096
"""So much more of anything, and of KiB, is no growth yet; neither is a fifth of what was there."""
_SHARE = 0.2
_MEMORY = "KiB"

_TABLES: dict[str, tuple[str, ...]] = {
    "routes": ("routes4", "routes6"),
    "published addresses": ("proxies4", "proxies6"),
    "links": ("links",),
    "bridge entries": ("entries",),
}

# Of a process that is not there, nothing is said.
_SCRIPT = r"""
number() { echo "$1=$2"; }
files() { find "$@" -type f 2>/dev/null | wc -l; }
life() {
    [ -d /proc/$2/fd ] || return
    echo "@ $1 $2.$(cut -d' ' -f22 /proc/$2/stat)"
    number descriptors $(ls /proc/$2/fd | wc -l)
    number threads $(ls /proc/$2/task | wc -l)
    number KiB $(grep VmRSS /proc/$2/status | tr -dc 0-9)
}
of() { ps -ww -eo pid,args | grep "[h]ook/main.py $1" | grep -v setpriv | while read pid rest; do echo $pid; done; }
number 'files of receipts' $(files /run/libvirt-guestnet)
number 'receipts KiB' $(cat $(find /run/libvirt-guestnet -type f) /dev/null | wc -c | awk '{ print int($1 / 1024) }')
number 'files of libvirt' $(files /run/libvirt /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt)
number 'helpers' $(of '[^w]' | wc -l)
number 'processes' $(ps -e --no-headers | wc -l)
number 'permanent neighbours' $(ip neigh show nud permanent | wc -l)
number 'rules for routing' $( (ip -4 rule; ip -6 rule) | wc -l)
number 'qdiscs' $(tc qdisc show | wc -l)
number 'tc filters' $(for each in /sys/class/net/*; do
    for way in ingress egress; do tc filter show dev ${each##*/} $way 2>/dev/null; done; done | wc -l)
number 'pinned BPF objects' $(files /sys/fs/bpf/libvirt-guestnet)
life libvirtd $(cat /run/libvirtd.pid)
life service $(of watch | head -1)
"""


@dataclass(frozen=True)
class Sample:
    """At some second: counts by name, of the host and of each process that lives on, by who it is and which life."""

    seconds: float
    host: dict[str, int]
    lives: dict[tuple[str, str], dict[str, int]]


def sample(sandbox: Sandbox, seen: Seen, seconds: float) -> Sample:
    said = sandbox.run(["sh", "-c", _SCRIPT], check=False, timeout=120).stdout
    head, *lives = said.split("@ ")
    return Sample(seconds, {**_kernel(seen), **_numbers(head)}, dict(map(_life, lives)))


def _life(text: str) -> tuple[tuple[str, str], dict[str, int]]:
    name, _, life = text.splitlines()[0].partition(" ")
    return (name, life), _numbers(text)


def _numbers(text: str) -> dict[str, int]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: int(number) for name, _, number in pairs if number}


def _kernel(seen: Seen) -> dict[str, int]:
    """Objects of anybody's: what we leave in somebody else's table counts, too."""
    found: dict[str, int] = dict.fromkeys(("nft chains", "nft rules", "nft sets", "nft elements"), 0)
    for each in seen.tables["nft"].get("nftables", []):
        for kind, body in each.items():
            name = {"chain": "nft chains", "rule": "nft rules", "set": "nft sets", "map": "nft sets"}.get(kind, "")
            if name:
                found[name] += 1
                found["nft elements"] += len(body.get("elem", []))
    return found | {name: sum(len(seen.tables[each]) for each in parts) for name, parts in _TABLES.items()}


# What is judged of it


@dataclass(frozen=True)
class Course:
    """One number over the run, or over one process's life."""

    name: str
    values: tuple[int, ...]

    @property
    def first(self) -> float:
        return median(self.values[: self._tenth])

    @property
    def last(self) -> float:
        return median(self.values[-self._tenth :])

    @property
    def _tenth(self) -> int:
        return max(3, len(self.values) // 10)

    def grows(self) -> bool:
        """Whether it ends beyond the bound, and each third of the way is above the one before: what grows once, as a
        cache does, or goes up and down, is none."""
        if len(self.values) < FEWEST:
            return False
        third = len(self.values) // 3
        low, middle, high = (median(self.values[at : at + third]) for at in (0, third, len(self.values) - third))
        bound = max(MEMORY if self.name.endswith(_MEMORY) else COUNT, _SHARE * self.first)
        return low < middle < high and self.last - self.first > bound

    def __str__(self) -> str:
        told = (self.values[0], self.first, self.last, max(self.values))
        return f"{self.name}: {' / '.join(f'{each:g}' for each in told)}"


def courses(samples: list[Sample]) -> Iterator[Course]:
    """The host's over the run, and those of processes' long lives."""
    host: dict[str, list[int]] = defaultdict(list)
    for each in samples:
        for name, number in each.host.items():
            host[name].append(number)
    yield from (Course(name, tuple(values)) for name, values in host.items())
    for (who, _), numbers in _lives(samples):
        yield from (Course(f"{who}, {name}", tuple(values)) for name, values in numbers.items())


def _lives(samples: list[Sample]) -> list[tuple[tuple[str, str], dict[str, list[int]]]]:
    """Of each process every life that has enough samples, and the longest."""
    found: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for each in samples:
        for life, numbers in each.lives.items():
            for name, number in numbers.items():
                found[life][name].append(number)
    ages = {life: max(map(len, numbers.values())) for life, numbers in found.items()}
    longest = [max((life for life in ages if life[0] == who), key=ages.__getitem__) for who in {who for who, _ in ages}]
    return [(life, numbers) for life, numbers in found.items() if ages[life] >= FEWEST or life in longest]


def grown(samples: list[Sample]) -> list[str]:
    """What grows steadily, as violations."""
    return [f"grows steadily: {each}; {list(each.values)}" for each in courses(samples) if each.grows()]


def told(samples: list[Sample]) -> list[str]:
    """What stayed the same all the time in one line, all else in one line each."""
    every = list(courses(samples))
    same = [f"{each.name} {each.values[0]}" for each in every if len(set(each.values)) == 1]
    changed = [f"  {each}   ({len(each.values)} samples)" for each in every if len(set(each.values)) > 1]
    head = f"{len(samples)} samples without guests; first / median of the first tenth / of the last tenth / max:"
    return [head, *changed, f"  always the same: {', '.join(same) or 'nothing'}"]
