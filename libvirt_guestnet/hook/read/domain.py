"""A domain as a hook sees it: each NIC of its XML joined, once, with its network's receipt and its policy in the
metadata.

Everything else takes `Domain` and `Nic`; nothing reads a domain's XML a second time, and nothing changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.hook.read.hostwide import DECLARED, OBSERVE
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.attributes import mac, number, of_child
from libvirt_guestnet.metadata.policy import NAMESPACE, PortPolicy, Vlans
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.xmlread import Node

NetworkOf = Callable[[str], NetworkReceipt | None]
# The name of the network that counts for a NIC, by its bridge and the network that it names.
NameOf = Callable[[str, str], str]

# What one domain may have in all of its ports. Each line makes the next call of every guest slower; prefixes behind a
# guest most of all, since each of them may talk to each one behind other guests.
MOST_LINES, MOST_BEHIND = 1024, 64


class Nic:
    """One NIC. `tap` is its <target dev>, `network` the name of the network that counts; what is not given is ""."""

    def __init__(self, xml: Node, domain: Domain) -> None:
        named = of_child(xml, "source", "network")
        self._xml, self._domain = xml, domain
        self.mac = of_child(xml, "mac", "address").lower()
        self.type = xml.get("type")
        self.tap = of_child(xml, "target", "dev")
        self.bridge = of_child(xml, "source", "bridge")
        self.portid = of_child(xml, "source", "portid")
        self.network = domain.name_of(self.bridge, named)
        self.mtu = of_child(xml, "mtu", "size")
        self.isolated = of_child(xml, "port", "isolated")  # yes, no or "": as its network says
        virtualport = xml.one("virtualport")
        self.virtualport = None if virtualport is None else virtualport.get("type")

    @cached_property
    def kind(self) -> nics.Kind:
        """Whether it can be guarded, and why not."""
        return nics.of(self.type, self.tap)

    @property
    def has_tap(self) -> bool:
        """Whether its type makes a tap: for other types, <target dev> has no effect."""
        return self.kind.guarded == nics.YES

    @cached_property
    def receipt(self) -> NetworkReceipt | None:
        """Its network's receipt, if the network has our metadata."""
        return self._domain.network_of(self.network) if self.network else None

    @cached_property
    def policy(self) -> PortPolicy | None:
        """Its policy in the domain's metadata. Raises GuestnetError on what cannot be carried out."""
        return self._domain.policy_of(self)

    @property
    def bridge_of_network(self) -> str:
        """The bridge that it is on, or will be."""
        return self.bridge or (self.receipt.bridge if self.receipt else "")

    @property
    def is_guarded(self) -> bool:
        """Whether it is to be guarded, by its policy and its network."""
        if self.receipt is not None and self.receipt.required:
            return True
        if self.policy is not None:
            return self.policy.guarded
        return (self.receipt is not None and self.receipt.guarded) or self.default != DECLARED

    @property
    def is_observed(self) -> bool:
        """Whether its guard is to let everything pass: never where its network insists."""
        if self.receipt is not None and self.receipt.required:
            return False
        if self.policy is not None:
            return self.policy.observed
        return (self.receipt is not None and self.receipt.observed) or self.default == OBSERVE

    @cached_property
    def default(self) -> str:
        """What this host's default (`hostwide.GUARDS`) makes of it: DECLARED unless it is on a bridge, and neither its
        domain nor its network says how it is to be guarded. Raises GuestnetError as `policy`."""
        covered = self.has_tap and self.tap and self.bridge and self._domain.default != DECLARED
        return self._domain.default if covered and not self.is_declared else DECLARED

    @property
    def is_declared(self) -> bool:
        """Whether its domain or its network says how it is to be guarded. Raises GuestnetError as `policy`."""
        network = self.receipt
        return self.policy is not None or (network is not None and (network.guarded or not network.external))

    @cached_property
    def vlans(self) -> Vlans | None:
        """VLANs of its own, by its policy or libvirt's <vlan>; None if its network's count. Raises GuestnetError."""
        if self.policy is not None and self.policy.vlans is not None:
            return self.policy.vlans
        vlan = self._xml.one("vlan")
        return _libvirts_vlans(vlan) if vlan is not None else None

    def checked_tap(self) -> str:
        """Its tap. Raises GuestnetError if it has none."""
        where = f"domain {self._domain.name!r}: interface {self.mac}"
        if not self.has_tap:
            raise GuestnetError(f"{where}: type {self.type!r} has no tap to guard: {nics.because(self.kind)}")
        if not self.tap:
            raise GuestnetError(f"{where}: no <target dev> in the live XML, so nothing to guard")
        return self.tap


def _libvirts_vlans(vlan: Node) -> Vlans:
    """The VLANs in libvirt's <vlan>. libvirt 11 tags the tap itself, but not the uplink, and a default PVID stays."""
    tags = list(vlan.all("tag"))
    trunk = vlan.get("trunk") == "yes" or len(tags) > 1
    native = [tag for tag in tags if not trunk or tag.get("nativeMode")]
    tagged = [tag for tag in tags if trunk and tag.get("nativeMode") != "untagged"]
    ids = [number(tag, "id", 4094) for tag in tagged]
    return Vlans(number(native[0], "id", 4094) if native else 0, tuple((vid, vid) for vid in ids))


class Domain:
    """A domain, its NICs in the order of its XML, and PCI devices that are passed through to it. `default` is this
    host's, for NICs of which nobody says anything.

    Two NICs may have one MAC address, such as a virtual function and the tap that replaces it while a guest migrates
    (net_failover). If only one of them can be guarded, a policy that does not name the other's network is that one's.
    """

    def __init__(
        self,
        xml: Node,
        network_of: NetworkOf = lambda _name: None,
        name_of: NameOf = lambda _bridge, named: named,
        default: str = DECLARED,
    ) -> None:
        self.xml, self.network_of, self.name_of, self.default = xml, network_of, name_of, default
        self.name, self.uuid = xml.text_of("name"), xml.text_of("uuid")
        self.nics = tuple(Nic(nic, self) for nic in xml.all("devices/interface"))

    def without(self, nics: Collection[Nic]) -> Domain:
        """The domain without these NICs."""
        rest = Domain.__new__(Domain)
        rest.__dict__.update(self.__dict__)
        rest.nics = tuple(nic for nic in self.nics if nic not in nics)
        return rest

    @property
    def taps(self) -> set[str]:
        """The taps that its NICs name."""
        return {nic.tap for nic in self.nics if nic.tap and nic.has_tap}

    def pci_devices(self) -> Iterator[dict[str, str]]:
        """The addresses of PCI devices that are passed through to it by <hostdev>."""
        return (address.attributes for address in self.xml.all("devices/hostdev/source/address"))

    def policies(self) -> Iterator[tuple[PortPolicy, Nic]]:
        """The policies in the metadata, each with its NIC."""
        found: dict[int, tuple[PortPolicy, Nic]] = {}
        for nic in self.nics:
            policy = nic.policy
            if policy is not None and not (id(policy) in found and _is_on(found[id(policy)][1], policy.network)):
                found[id(policy)] = policy, nic
        yield from found.values()

    def policy_of(self, nic: Nic) -> PortPolicy | None:
        """A NIC's policy. Raises GuestnetError if any policy has a MAC address that no NIC can have, as it would have
        no effect, and if there are more lines than one domain may have."""
        marks = self._marks.get(nic.mac)
        if not marks:
            return None
        named = next((mark for mark in marks if _is_on(nic, mark.get("network"))), None)
        if named is None and not nic.has_tap and nic.mac in self._with_tap:
            return None
        return self._read(marks[-1] if named is None else named)

    @cached_property
    def _marks(self) -> dict[str, list[Node]]:
        """The policies as XML, by MAC address."""
        marks, found = reader.port_marks(self.xml), dict[str, list[Node]]()
        _check_number(marks)
        for mark in marks:
            found.setdefault(mac(mark, "mac"), []).append(mark)
        return found

    @cached_property
    def _with_tap(self) -> set[str]:
        return {nic.mac for nic in self.nics if nic.has_tap}

    @cached_property
    def _policies_read(self) -> dict[int, PortPolicy]:
        return {}

    def _read(self, mark: Node) -> PortPolicy:
        if id(mark) not in self._policies_read:
            try:
                self._policies_read[id(mark)] = reader.read_port(mark)
            except reader.PortError as error:
                raise GuestnetError(f"domain {self.name!r}: {error}") from error
        return self._policies_read[id(mark)]


def _check_number(ports: list[Node]) -> None:
    behind = sum(1 for port in ports for _ in port.all(f"{NAMESPACE} behind", "|"))
    for count, most, what in (
        (sum(len(port.children) for port in ports), MOST_LINES, "addresses, prefixes, forwards and the like"),
        (behind, MOST_BEHIND, "prefixes behind its ports"),
    ):
        if count > most:
            raise GuestnetError(f"metadata: one domain may have {most} {what} at most, not {count}: leave some out")


def _is_on(nic: Nic, network: str) -> bool:
    return bool(nic.network) and network == nic.network
