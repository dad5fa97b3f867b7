"""Applying nft batches: the nft program, one transaction a batch. Imports next to nothing: it is on the hook path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from libvirt_guestnet.datapath.run import grammar, program
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.program import RefusedBatchError

NFT_SECONDS = program.SECONDS
_TRIES, _ABSENT = 3, "No such file or directory"


NftRefusedError = RefusedBatchError


def nft(batch: str, hold: int | None = None) -> None:
    """Applies an nft batch in one transaction: all of it or, with a GuestnetError, nothing (NftRefusedError: it was
    understood and refused).

    A lock behind the descriptor `hold` lasts until the batch is in the kernel, even if we are killed meanwhile.
    """
    if not batch:
        return
    grammar.check_nft(batch)
    output = program.run(["nft", "-f", "-"], batch, "nftables", hold)
    if output.status != 0:
        raise NftRefusedError(f"nft refused the change: {output.complaint}")


def listed(*what: str) -> list[str]:
    """The lines of `nft -a list …` (with handles); none where there is no such thing. Raises GuestnetError."""
    return program.run(["nft", "-a", "list", *what], "", "nftables").stdout.splitlines()


def tables() -> set[str]:
    """The tables there are, as "FAMILY NAME". Raises GuestnetError."""
    output = program.run(["nft", "list", "tables"], "", "nftables")
    return {line.removeprefix("table ") for line in output.stdout.splitlines()}


def numbers(name: str) -> list[int]:
    """What is in one of our sets of integers; nothing where there is no such set. One set takes 2 ms, however many
    there are. Raises GuestnetError when nft does not answer."""
    return [number for listed in _sets("set", *TABLE.split(), name) for number in in_set(listed)]


def numbers_of_all() -> Callable[[str], list[int]]:
    """What `numbers` would say now, of all sets together: 3 ms for fifty. Raises GuestnetError as above."""
    found = {each["name"]: each for each in _sets("sets", "netdev") if f"{each['family']} {each['table']}" == TABLE}
    return lambda name: in_set(found.get(name, {}))


def times_of_all() -> dict[str, dict[int, int]]:
    """By the name of each of our sets of addresses that end: what is in it, with the seconds that each has left. Raises
    GuestnetError as above."""
    ours = (each for each in _sets("sets", "netdev") if f"{each['family']} {each['table']}" == TABLE)
    ended = (each for each in ours if "timeout" in each.get("flags", ()) and each["type"] != "iface_index")
    return {each["name"]: _times(each) for each in ended}


def _times(listed: dict[str, Any]) -> dict[int, int]:
    """Of what has no end an hour is left."""
    elements = [each["elem"] for each in listed.get("elem", ()) if isinstance(each, dict)]
    left = (int(each.get("expires", 3600)) for each in elements)
    return dict(zip(in_set({"elem": [each["val"] for each in elements]}), left, strict=True))


def sizes_of(table: str) -> dict[str, int]:
    """How many elements each set and map of a table has, and how many rules each chain; nothing where there is no such
    table. Raises GuestnetError when nft does not answer."""
    sizes: dict[str, int] = {}
    for kind, item in _items("table", *table.split()):
        if kind in ("set", "map", "chain"):
            sizes[item["name"]] = sizes.get(item["name"], 0) + len(item.get("elem", ()))
        elif kind == "rule":
            sizes[item["chain"]] = sizes.get(item["chain"], 0) + 1
    return sizes


def _sets(*what: str) -> list[dict[str, Any]]:
    return [item for kind, item in _items(*what) if kind == "set"]


def _items(*what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What there is of that; nothing where it is not there. Whoever changes rules may keep nft from an answer:
    that is no sign that nothing is there, and nft is asked again."""
    for _ in range(_TRIES):
        output = program.run(["nft", "-j", "list", *what], "", "nftables")
        if output.status == 0 or _ABSENT in output.stderr:
            break
    for item in json.loads(output.stdout)["nftables"] if output.status == 0 else ():
        yield from item.items()


def in_set(listed: dict[str, Any]) -> list[int]:
    """The numbers in a set of integers, as `nft -j` lists it: a number of more than 64 bits is text."""
    elements = (each["elem"]["val"] if isinstance(each, dict) else each for each in listed.get("elem", ()))
    return [int(value, 16) if isinstance(value, str) else int(value) for value in elements]
