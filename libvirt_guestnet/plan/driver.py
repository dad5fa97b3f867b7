"""<driver> of a NIC of a user's own domain: each attribute for itself is the file's or the user's. Pure.

What is asked of it, and what is kept of how it was, is a <driver> in which "" stands for an attribute that is not
there. libvirt drops the element where the model is not virtio's.
"""

from __future__ import annotations

from copy import deepcopy

from lxml import etree

from libvirt_guestnet.libvirtd.snapshot import Element
from libvirt_guestnet.model.card import VIRTIO, VIRTIO_MODELS

TAG = "driver"


def is_dropped(nic: Element) -> bool:
    """Whether libvirt has no <driver> for a NIC of its model; a <model> that names none is as none."""
    model = nic.find("model")
    return model is not None and (model.get("type") or VIRTIO) not in VIRTIO_MODELS


def add_earlier(asked: Element, was: Element) -> None:
    """Adds to what is asked of a NIC what the file says no more: it is to be as it `was`."""
    old, driver, dropped = was.find(TAG), asked.find(TAG), is_dropped(asked)
    if old is None:
        return
    if driver is None:
        driver = etree.SubElement(asked, TAG)
    for name, value in old.items():
        if name not in driver.attrib and not (dropped and value):
            driver.set(name, value)
    if not dropped:
        _add_children(driver, old)


def complete(asked: Element, actual: Element) -> None:
    """Makes of what is asked of a NIC all that its <driver> is to be, for the comparison."""
    driver, now = asked.find(TAG), actual.find(TAG)
    if driver is None:
        return
    if now is not None:
        driver.attrib.update({name: value for name, value in now.items() if name not in driver.attrib})
    _clean(driver)
    if now is None and not _says(driver):
        asked.remove(driver)


def update(nic: Element, asked: Element) -> None:
    """Gives a NIC the <driver> that is asked for, and lets it keep what is not."""
    driver = nic.find(TAG)
    if driver is None:
        driver = etree.SubElement(nic, TAG)
    driver.attrib.update(dict(asked.attrib))
    _clean(driver)
    _add_children(driver, asked)
    if not _says(driver):
        nic.remove(driver)


def before(wanted: Element, actual: Element, was: Element | None) -> Element | None:
    """What is kept of how it was: the attributes that the file says, or all where libvirt drops them. None: nothing."""
    old, now, said = (None if nic is None else nic.find(TAG) for nic in (was, actual, wanted))
    if is_dropped(wanted):
        return deepcopy(now if old is None else old)
    if said is None:
        return None
    had = {str(name): str(value) for each in (now, old) if each is not None for name, value in each.items()}
    return etree.Element(TAG, {str(name): had.get(str(name), "") for name in said.attrib})


def _clean(driver: Element) -> None:
    for name in [name for name, value in driver.items() if not value]:
        del driver.attrib[name]


def _says(driver: Element) -> bool:
    return bool(driver.attrib) or len(driver) > 0


def _add_children(driver: Element, more: Element) -> None:
    driver.extend(deepcopy(child) for child in more if driver.find(str(child.tag)) is None)
