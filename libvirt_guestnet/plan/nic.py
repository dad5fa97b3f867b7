"""How an existing NIC, <interface>, differs from what a topology wants, and what it becomes. `guest` decides how it
gets there: in place, or unplugged and plugged in again. Pure.

Of a lab guest's NIC, everything that `compare` owns is the topology's. A NIC of a user's own domain is the user's: only
its source, its target and what the file declares change, nothing else, nor anything that a later libvirt adds. What
these were before is kept in our metadata, so that it can be restored when the file no longer mentions the NIC (decision
49).
"""

from __future__ import annotations

from copy import deepcopy

from lxml import etree

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import Element
from libvirt_guestnet.model.card import VIRTIO
from libvirt_guestnet.parse import shown
from libvirt_guestnet.plan import driver
from libvirt_guestnet.plan.compare import NIC_PARTS, Difference, differences

CARD = frozenset({"model", "driver", "boot", "address", "alias", "teaming"})
"""What of a NIC libvirt cannot change while its guest runs (9.0 and 11.3); neither can it an MTU."""

# What else these say stays.
_UPDATED = ("target", "model", "boot")
_PLACE = ("source", "target")
# What `before` keeps of a NIC: everything that a topology may declare.
_REMEMBERED = frozenset({*_PLACE, *NIC_PARTS, *CARD, "virtualport", "mtu"})


def nic_differences(
    wanted: Element,
    actual: Element,
    inherited: frozenset[str] = frozenset(),
    *,
    own: bool = True,
    was: Element | None = None,
) -> tuple[Difference, ...]:
    """What would have to change; `own`: it is a lab guest's, `inherited` as in `differences`, `was` as in `before`."""
    inherited -= _overridden(actual)
    if own:
        return differences(wanted, actual, inherited)
    requested, gone = _requested(wanted, was)
    driver.complete(requested, actual)
    found = differences(requested, actual, inherited | (NIC_PARTS - _tags(requested)))
    if wanted.find("source") is None and actual.find("source") is not None and moves(wanted, actual):
        gone |= {"source"}
    gone -= inherited
    return (*found, *(Difference(tag, None, "what it had") for tag in sorted(gone) if actual.find(tag) is not None))


def merged(wanted: Element, actual: Element, *, own: bool = True, was: Element | None = None) -> Element:
    """`actual` with the changes by which it means `wanted`: what libvirt or the user added stays."""
    result = deepcopy(actual)
    result.attrib.update(dict(wanted.attrib))
    requested, gone = (wanted, NIC_PARTS - {driver.TAG}) if own else _requested(wanted, was)
    requested_tags = _tags(requested) - {*_UPDATED, "mac", driver.TAG}
    _remove(result, gone | (requested_tags if own else requested_tags - _same_source(requested, actual)))
    if not own and wanted.find("source") is None and moves(wanted, actual):
        _remove(result, {"source"})
    for child in requested:
        kept = result.find(str(child.tag))
        if child.tag == driver.TAG:
            driver.update(result, child)
        elif kept is None:
            result.append(deepcopy(child))
        elif child.tag in _UPDATED:
            kept.attrib.update(dict(child.attrib))
    return result


def kept(wanted: Element, actual: Element) -> Element:
    """What is wanted of a NIC that is where it belongs already, and stays there: what the file says outright."""
    result = deepcopy(wanted)
    result.attrib.update(dict(actual.attrib))
    _remove(result, {*_PLACE, "virtualport"})
    return result


def before(wanted: Element, actual: Element, was: Element | None = None) -> Element:
    """What `merged` changes of a user's NIC, as the user had it, by `was` of an earlier change or by now: an empty
    element stands for none. Of one that stays in its place, that place is not said."""
    base = actual if was is None or not _tags(was) & set(_PLACE) else was
    result = etree.Element("interface", type=base.get("type", ""))
    if base is was or wanted.find("target") is not None:
        result.extend(_said(tag, base.find(tag)) for tag in _PLACE)
    for tag in _declared(wanted):
        element = None if was is None else was.find(tag)
        result.append(_said(tag, actual.find(tag) if element is None else element))
    options = driver.before(wanted, actual, was)
    result.extend(() if options is None else [_plain(options)])
    return result


def _declared(wanted: Element) -> list[str]:
    """What the file says of a NIC beside its place and <driver>."""
    return sorted(_tags(wanted) - {*_PLACE, "mac", driver.TAG})


def _said(tag: str, element: Element | None) -> Element:
    return etree.Element(tag) if element is None else _plain(element)


def plugged(wanted: Element) -> Element:
    """What is kept of a NIC that was plugged in for the topology: it had nothing of what the file declares, and no
    type says that it was nothing at all. By this alone it may be unplugged again."""
    result = etree.Element("interface")
    result.extend(etree.Element(tag) for tag in _declared(wanted))
    for model in result.iterfind("model"):
        model.set("type", VIRTIO)
    options = driver.before(wanted, etree.Element("interface"), None)
    result.extend(() if options is None else [options])
    return result


def as_new(wanted: Element) -> Element:
    """What is plugged into a user's domain that has no such NIC."""
    result = deepcopy(wanted)
    if result.find("model") is None:
        etree.SubElement(result, "model", type=VIRTIO)
    return result


def was_there(was: Element | None) -> bool:
    """Whether a NIC, of which this is kept, is one that the user's domain had before."""
    return was is not None and was.get("type") is not None


def check_remembered(was: Element) -> None:
    """Raises GuestnetError unless `before` may have written this. Otherwise whoever may change a domain's metadata
    could have anything put into its definition, and not only a place to be plugged in, which the plan names."""
    said = {*_tags(was) - _REMEMBERED, *was.keys(), *([] if was.tag == "interface" else [str(was.tag)])} - {"type"}
    if said:
        raise GuestnetError(f"it says {shown(min(said))}, which guestnet never keeps there: somebody changed it")


def place(nic: Element) -> str:
    """Where a NIC is plugged in, to be read."""
    said = {"type": nic.get("type", "")}
    for source in nic.iterfind("source"):
        said |= {str(name): str(value) for name, value in source.items()}
    return shown(", ".join(f"{name}={value}" for name, value in said.items()))


def restored(actual: Element, was: Element) -> Element:
    """A user's NIC as it was before the topology had to do with it."""
    result = deepcopy(actual)
    result.attrib.update(dict(was.attrib))
    for child in was:
        if child.tag == driver.TAG:
            driver.update(result, child)
            continue
        _remove(result, {str(child.tag)})
        if not _is_empty(child):
            result.append(deepcopy(child))
    return result


def moves(wanted: Element, actual: Element) -> bool:
    """Whether the NIC becomes one of another type."""
    return any(each.path == "@type" for each in differences(_type(wanted), actual))


def _overridden(nic: Element) -> set[str]:
    """What a NIC has of its own although its network has some: ours never say that ports are not isolated."""
    return {"port"} if nic.find("port[@isolated='no']") is not None else set()


def _requested(wanted: Element, was: Element | None) -> tuple[Element, set[str]]:
    """What is asked of an existing NIC, and what it must lose."""
    result = deepcopy(wanted)
    gone = set()
    for child in () if was is None else was:
        if child.tag not in (*_PLACE, driver.TAG) and wanted.find(str(child.tag)) is None:
            if _is_empty(child):
                gone.add(str(child.tag))
            else:
                result.append(deepcopy(child))
    if was is not None:
        driver.add_earlier(result, was)
    return result, gone


def _tags(element: Element) -> set[str]:
    return {str(child.tag) for child in element}


def _remove(element: Element, tags: set[str] | frozenset[str]) -> None:
    for child in [child for child in element if child.tag in tags]:
        element.remove(child)


def _is_empty(element: Element) -> bool:
    return not element.attrib and len(element) == 0


def _plain(element: Element) -> Element:
    """The element without white space between its children."""
    result = deepcopy(element)
    result.tail = None
    for each in result.iter():
        each.text = (each.text or "").strip() or None
        each.tail = None
    return result


def _same_source(requested: Element, actual: Element) -> set[str]:
    """The source, if it is already as asked: the user may have added more to it."""
    source, now = requested.find("source"), actual.find("source")
    same = source is not None and now is not None and not differences(source, now)
    return {"source"} if same and not moves(requested, actual) else set()


def _type(nic: Element) -> Element:
    return etree.Element("interface", type=nic.get("type", ""))
