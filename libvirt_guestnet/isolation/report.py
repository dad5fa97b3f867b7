"""What `guestnet verify --isolation` says: a row for each link and kind of frame. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from libvirt_guestnet import styled
from libvirt_guestnet.isolation.link import Sighting
from libvirt_guestnet.isolation.run import Result, Tried
from libvirt_guestnet.table import Block, made

OK, LEAK, FAILED = "ok", "LEAK", "FAILED"
_SHOWN = 3


def rows(result: Result) -> list[dict[str, object]]:
    """One row for each link, way of guarding and kind of frame, with stable keys."""
    groups: dict[tuple[str, str, str], list[Tried]] = {}
    for each in result.tried:
        groups.setdefault((each.link.name, each.way, each.frame.kind), []).append(each)
    return [*(_row(group) for group in groups.values()), *map(_absent, result.absent)]


def _row(group: Sequence[Tried]) -> dict[str, object]:
    first = group[0]
    unheard = [] if first.link.alone else [each.frame.what for each in group if each.frame.must and not each.home]
    leaks = [each for each in group if each.leaks]
    home = sorted({seen.device for each in group for seen in each.home if not _is_exit(each, seen)})
    exits = sorted({str(seen) for each in group for seen in each.home if _is_exit(each, seen)})
    return {
        "result": LEAK if leaks else FAILED if unheard else OK,
        "networks": list(first.link.networks),
        "topology": first.link.topology,
        "link": first.link.name,
        "port": first.way,
        "frames": first.frame.kind,
        "sent": len(group),
        "heard": home,
        "left_by": exits,
        "leaks": [found for each in leaks for found in _leaks(each)],
        "unheard": unheard,
    }


def _is_exit(tried: Tried, seen: Sighting) -> bool:
    return seen.device not in tried.link.ports and seen.device != tried.link.bridge


def _leaks(tried: Tried) -> Iterator[dict[str, object]]:
    for seen, near in zip(tried.leaks, tried.near, strict=True):
        yield {
            "frame": tried.frame.what,
            "device": seen.device,
            "direction": "out" if seen.outgoing else "in",
            "tags": [tag.vlan for tag in seen.tags],
            "vni": seen.vni,
            "network": near,
        }


def _absent(network: str) -> dict[str, object]:
    empty: dict[str, object] = {"topology": "", "link": "", "port": "", "frames": "", "sent": 0}
    empty |= {"heard": [], "left_by": [], "leaks": [], "unheard": ["the network is not active on this host"]}
    return {"result": FAILED, "networks": [network], **empty}


def passed(result: Result) -> bool:
    """Whether nothing leaked, everything was tried, and every frame was looked at."""
    return not result.lost and all(row["result"] == OK for row in rows(result))


def blocks(result: Result) -> list[Block]:
    """For people: a table, each leak in a line, and what that means."""
    listed = rows(result)
    table = made([_shown(row) for row in listed], meaning=_meaning)
    lines = [styled.line((text, styled.BAD)) for row in listed for text in _said(row)]
    bad = sum(row["result"] != OK for row in listed)
    said = f"{len(result.tried)} frames on {len({each.link.name for each in result.tried})} links: "
    ends = (f"{bad} of {len(listed)} rows NOT as they should be", styled.BAD) if bad else "none was seen elsewhere"
    lost = f"{result.lost} frames of this host were not looked at: there were too many; try again when it is calmer"
    unread = [styled.line((lost, styled.BAD))] if result.lost else []
    return [*([table] if table else []), *lines, *unread, styled.line(said, ends)]


def _shown(row: Mapping[str, object]) -> dict[str, object]:
    words = {key: _joined(row[key]) for key in ("networks", "heard", "left_by")}
    leaks = row["leaks"]
    count = len(leaks) if isinstance(leaks, list) else 0
    sent = f"{row['sent']} {row['frames']}".strip() if row["sent"] else ""
    return {
        "result": row["result"],
        "network": words["networks"],
        "link": row["link"],
        "port": row["port"],
        "sent": sent,
        "heard_at_home": words["heard"],
        "left_by": words["left_by"],
        "elsewhere": f"{count} times" if count else "nowhere",
    }


def _joined(values: object) -> str:
    listed = [str(value) for value in values] if isinstance(values, Iterable) else []
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + rest


def _said(row: Mapping[str, object]) -> Iterator[str]:
    networks, leaks, unheard = _joined(row["networks"]), row["leaks"], row["unheard"]
    if isinstance(leaks, list):
        for leak in leaks:
            tags = " ".join(map(str, leak["tags"]))
            where = f"{leak['device']} ({leak['direction']}, {f'tagged {tags}' if tags else 'untagged'}"
            where += f", in VXLAN {leak['vni']})" if leak["vni"] is not None else ")"
            of = f", which is of {leak['network']}" if leak["network"] else ""
            yield f"LEAK: {leak['frame']} from {networks} was seen at {where}{of}"
    if unheard:
        yield f"FAILED: {networks}: {_joined(unheard)}" + ("" if row["link"] == "" else " was not heard on its own link")  # fmt: skip  # noqa: E501


def _meaning(column: str, cell: str) -> str:
    return {OK: styled.GOOD, LEAK: styled.BAD, FAILED: styled.BAD}.get(cell, "") if column == "RESULT" else ""
