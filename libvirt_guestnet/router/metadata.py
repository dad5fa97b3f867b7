"""What guests of a virtual router are told by its metadata service, as lines for the appliance. Pure.

    data BASE64              numbered from 0; "-" is nothing. What several guests are told stands here once
    guest ADDRESS…           that ask from these addresses have the files that follow
    file PATH NUMBER

The paths are NoCloud's and EC2's. `data/metadata` in the appliance serves them, and lists folders itself.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from libvirt_guestnet.guest import seed
from libvirt_guestnet.model.router import GuestMetadata, RouterConfig
from libvirt_guestnet.model.topology import Guest, Port, Topology

ADDRESSES = ("169.254.169.254", "fd00:ec2::254")
"""Where guests ask, beside their gateway: as at EC2."""

MOST_BYTES = 600_000
"""Of a document that has room for `document.MAX_BYTES`."""

_EC2 = "latest/meta-data"


def lines(config: RouterConfig) -> Iterator[str]:
    """The service's file; without guests there is no service."""
    numbers: dict[str, int] = {}
    for guest in config.metadata:
        for _, text in guest.files:
            if text not in numbers:
                numbers[text] = len(numbers)
                yield f"data {base64.b64encode(text.encode()).decode() or '-'}"
    for guest in config.metadata:
        yield f"guest {' '.join(map(str, guest.addresses))}"
        yield from (f"file {path} {numbers[text]}" for path, text in guest.files)


def size(config: RouterConfig) -> int:
    """How many bytes of the document that is."""
    return sum(len(line) + 1 for line in lines(config))


def of_router(topology: Topology, router: Guest) -> tuple[GuestMetadata, ...]:
    """What the guests of a virtual router's tiers are told, each at its addresses there: those without a seed of which
    the file says something that they are to know, or that are of an image file."""
    assert router.virtual_router is not None
    found = []
    for tier in router.virtual_router.tiers:
        for guest, port in topology.ports_on(tier.network):
            if topology.asks_router(guest):
                prefixes = [subnet.prefix for subnet in topology.network(tier.network).subnets]
                addresses = tuple(each.ip for each in port.addresses if any(each.ip in prefix for prefix in prefixes))
                found += [GuestMetadata(addresses, tuple(_files(topology, guest, port)))] if addresses else []
    return tuple(found)


def _files(topology: Topology, guest: Guest, port: Port) -> Iterator[tuple[str, str]]:
    """NoCloud's files, then EC2's tree."""
    told = seed.seed_files(topology, guest)
    yield from told.items()
    if user_data := told[seed.USER_DATA]:
        yield "latest/user-data", user_data
    yield f"{_EC2}/instance-id", seed.instance_id(guest)
    for name in ("hostname", "local-hostname"):
        yield f"{_EC2}/{name}", seed.host_name(guest)
    yield f"{_EC2}/mac", port.mac
    for version, name in ((4, "local-ipv4"), (6, "ipv6")):
        if address := port.address(version):
            yield f"{_EC2}/{name}", str(address)
    keys = guest.cloud_init.ssh_keys if guest.cloud_init else ()
    if keys:
        yield f"{_EC2}/public-keys", "\n".join(f"{number}=key-{number}" for number in range(len(keys)))
    for number, key in enumerate(keys):
        yield f"{_EC2}/public-keys/{number}/openssh-key", key
