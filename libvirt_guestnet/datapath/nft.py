"""Applying nft batches: the nft program, one transaction a batch. Imports next to nothing: it is on the hook path."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from libvirt_guestnet.datapath import program
from libvirt_guestnet.datapath.names import TABLE
from libvirt_guestnet.errors import GuestnetError

NFT_SECONDS = program.SECONDS


class NftRefusedError(GuestnetError):
    """The kernel, or nft itself, refused a batch: nothing of it was done."""


def nft(batch: str, hold: int | None = None) -> None:
    """Applies an nft batch in one transaction: all of it or, with a GuestnetError, nothing (NftRefusedError: it was
    understood and refused).

    A lock behind the descriptor `hold` lasts until the batch is in the kernel, even if we are killed meanwhile.
    """
    if not batch:
        return
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


def _sets(*what: str) -> list[dict[str, Any]]:
    output = program.run(["nft", "-j", "list", *what], "", "nftables")
    items = json.loads(output.stdout)["nftables"] if output.status == 0 else []
    return [item["set"] for item in items if "set" in item]


def in_set(listed: dict[str, Any]) -> list[int]:
    """The numbers in a set of integers, as `nft -j` lists it: a number of more than 64 bits is text."""
    elements = (each["elem"]["val"] if isinstance(each, dict) else each for each in listed.get("elem", ()))
    return [int(value, 16) if isinstance(value, str) else int(value) for value in elements]
