"""The program nft: applying batches, one transaction each, and listing what there is. On the hook path.

That something is not there is no error; that nft cannot list it is one. To take the second for the first would mean to
put everything back, or to forget what should be removed. So exactly one answer counts as absence: see `_is_absent`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from libvirt_guestnet import light_json
from libvirt_guestnet.datapath.run import grammar, program
from libvirt_guestnet.datapath.run.names import NOTE_KINDS, TABLE
from libvirt_guestnet.datapath.run.program import LockDescriptor, Output, RefusedBatchError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Any

_TRIES = 3
# Kinds that are listed by name and may be absent; a list, such as `chains netdev`, can only be empty.
_NAMED = ("table", "chain", "set", "map")
_ABSENT = "Error: No such file or directory"


NftRefusedError = RefusedBatchError


def nft(batch: str, lock: LockDescriptor | None = None) -> None:
    """Applies an nft batch in one transaction: all of it or, with a GuestnetError, nothing (NftRefusedError: it was
    understood and refused, as it will be again).

    The `lock` lasts until the batch is in the kernel, even if we are killed meanwhile.
    """
    if not batch:
        return
    grammar.check_nft(batch)
    output = program.run_transaction(["nft", "-f", "-"], batch, "nftables", lock)
    if output.status != 0:
        raise NftRefusedError(f"nft refused the change: {output.complaint}")


def listed(*what: str) -> list[str]:
    """The lines of `nft -a list …` (with handles); none where there is no such thing. Raises GuestnetError."""
    return _answer("-a", what).splitlines()


def tables() -> set[str]:
    """The tables there are, as "FAMILY NAME". Raises GuestnetError."""
    return {line.removeprefix("table ") for line in _answer("", ("tables",)).splitlines()}


def items(*what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object that `nft -j list …` prints, with its kind; none if there is none. Raises GuestnetError."""
    answer = _answer("-j", what)
    try:
        found = light_json.loads(answer)["nftables"] if answer else []
    except (ValueError, KeyError, TypeError) as error:
        raise GuestnetError(f"nft cannot list {' '.join(what)}: {error}") from error
    for item in found:
        yield from item.items()


def _answer(option: str, what: tuple[str, ...]) -> str:
    """What nft prints. It is asked again after an error, as somebody who changes rules can disturb a listing."""
    argv = ["nft", *([option] if option else []), "list", *what]
    for pause in program.PAUSES[:_TRIES]:
        output = program.run(argv, "", "nftables")
        if output.status == 0:
            return output.stdout
        if what[0] in _NAMED and _is_absent(output):
            return ""
        if output.is_starved:
            time.sleep(pause)
    raise GuestnetError(f"nft cannot list {' '.join(what)}: {output.complaint}")


def _is_absent(output: Output) -> bool:
    """Whether there is no such table, or nothing of that name in it: nft 1.0.6 and 1.1.3 print exactly this then. If
    the loader misses a library, or a listing is disturbed because a table is deleted, there is other text before it, or
    the exit status is another. A newer nft may go on with suggestions of other names."""
    first = output.stderr.partition("\n")[0]
    return output.status == 1 and (first == _ABSENT or first.startswith(f"{_ABSENT};"))


def numbers(name: str) -> list[int]:
    """The elements of one of our sets of integers; none if there is no such set. One set takes 2 ms, however many sets
    there are. Raises GuestnetError when nft does not answer."""
    return [number for listed in _sets("set", *TABLE.split(), name) for number in in_set(listed)]


def numbers_of_all() -> Callable[[str], list[int]]:
    """The same as `numbers`, with all sets listed at once: 3 ms for fifty. Raises GuestnetError as above."""
    found = {each["name"]: each for each in _sets("sets", "netdev") if f"{each['family']} {each['table']}" == TABLE}
    return lambda name: in_set(found.get(name, {}))


def times_of_all() -> dict[str, dict[int, int]]:
    """By name, our sets of addresses with timeouts: each address with the seconds that it has left. Raises
    GuestnetError as above."""
    ours = (each for each in _sets("sets", "netdev") if f"{each['family']} {each['table']}" == TABLE)
    ended = (each for each in ours if "timeout" in each.get("flags", ()) and _is_of_addresses(each))
    return {each["name"]: _times(each) for each in ended}


def _is_of_addresses(listed: dict[str, Any]) -> bool:
    return listed["type"] != "iface_index" and not listed["name"].startswith(NOTE_KINDS)


def _times(listed: dict[str, Any]) -> dict[int, int]:
    """The elements of a set with the seconds that they have left; an hour for one without a timeout."""
    elements = [each["elem"] for each in listed.get("elem", ()) if isinstance(each, dict)]
    left = (int(each.get("expires", 3600)) for each in elements)
    return dict(zip(in_set({"elem": [each["val"] for each in elements]}), left, strict=True))


def sizes_of(table: str) -> dict[str, int]:
    """How many elements each set and map of a table has, and how many rules each chain; nothing where there is no such
    table. Raises GuestnetError when nft does not answer."""
    sizes: dict[str, int] = {}
    for kind, item in items("table", *table.split()):
        if kind in ("set", "map", "chain"):
            sizes[item["name"]] = sizes.get(item["name"], 0) + len(item.get("elem", ()))
        elif kind == "rule":
            sizes[item["chain"]] = sizes.get(item["chain"], 0) + 1
    return sizes


def _sets(*what: str) -> list[dict[str, Any]]:
    return [item for kind, item in items(*what) if kind == "set"]


def in_set(listed: dict[str, Any]) -> list[int]:
    """The numbers in a set of integers, as `nft -j` lists it: a number of more than 64 bits is text."""
    elements = (each["elem"]["val"] if isinstance(each, dict) else each for each in listed.get("elem", ()))
    return [int(value, 16) if isinstance(value, str) else int(value) for value in elements]
