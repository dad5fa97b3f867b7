"""A network of libvirt's as a topology file says one that guestnet makes: all that it is, or the reason why not. Pure.

Nothing is left away: what the file has no key for, or another meaning, is the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hook.read.network_receipts import subnet_of
from libvirt_guestnet.importing import options
from libvirt_guestnet.importing.text import declared
from libvirt_guestnet.importing.values import Unsaid, Value
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.parse import address, prefix, shown
from libvirt_guestnet.topology import loads

# By the path of an element the attributes that are read, that only say how things stand (`connections`), or that
# guestnet's networks have their own way (a bridge's stp and delay).
_KNOWN = {
    "": {"connections", "ipv6"},
    "name": set[str](),
    "uuid": set[str](),
    "forward": {"mode", "dev"},
    "forward/interface": {"dev", "connections"},
    "forward/nat": {"ipv6"},
    "forward/nat/port": {"start", "end"},
    "forward/nat/address": {"start", "end"},
    "bridge": {"name", "stp", "delay", "zone", "macTableManager"},
    "mtu": {"size"},
    "mac": {"address"},
    "domain": {"name", "localOnly"},
    "dns": {"enable", "forwardPlainNames"},
    "dns/forwarder": {"addr", "domain"},
    "dns/txt": {"name", "value"},
    "dns/srv": {"service", "protocol", "domain", "target", "port", "priority", "weight"},
    "dns/host": {"ip"},
    "dns/host/hostname": set[str](),
    "ip": {"family", "address", "netmask", "prefix"},
    "ip/tftp": {"root"},
    "ip/dhcp": set[str](),
    "ip/dhcp/range": {"start", "end"},
    "ip/dhcp/range/lease": {"expiry", "unit"},
    "ip/dhcp/host": {"mac", "id", "name", "ip"},
    "ip/dhcp/host/lease": {"expiry", "unit"},
    "ip/dhcp/bootp": {"file", "server"},
    "port": {"isolated"},
    "route": {"family", "address", "netmask", "prefix", "gateway", "metric"},
}
# `options` reads the one, and the other is ours or says nothing to libvirt.
_ELSEWHERE = ("options", "metadata")
_LEASE = {"hours": "h", "minutes": "m", "seconds": "s"}


def declaration(state: NetworkState) -> Mapping[str, Value] | str:
    """The network's keys and values; or why it cannot be said."""
    try:
        found = {"take-over": True, **_Network(state.config).all()}
        found |= {} if state.autostart else {"autostart": False}
        loads(f"name: t\n{_label(found)}networks:\n" + "".join(f"  {x}\n" for x in declared("n", found)), "network")
    except Unsaid as why:
        return str(why)
    except TopologyError as error:
        return f"a topology file cannot say it: {error.problems[0].message}"
    except (GuestnetError, ValueError) as error:
        return f"its XML cannot be read: {error}"
    return found


def meaning(network: Element) -> object:
    """The keys and values of a <network>; None if they cannot say it."""
    found = declaration(NetworkState("", "", network))
    return None if isinstance(found, str) else found


def _label(found: Mapping[str, Value]) -> str:
    label = found.get("physical-network")
    return f"physical-networks: {{ {label}: {{}} }}\n" if label else ""


@dataclass
class _Network:
    xml: Element
    said: dict[str, Value] = field(default_factory=dict)

    def all(self) -> dict[str, Value]:
        _check_known(self.xml)
        if self.xml.get("ipv6") == "yes" and self.xml.find("ip[@family='ipv6']") is None:
            raise Unsaid("its guests may speak IPv6 to each other, in prefixes that its XML does not say")
        self._forward(self.xml.find("forward"))
        self._device()
        self._names(self.xml.find("domain"), self.xml.find("dns"))
        self._addresses()
        options.add(self.said, self.xml, self._hosts())
        return self.said

    def _forward(self, forward: Element | None) -> None:
        mode = "isolated" if forward is None else forward.get("mode", "nat")
        if mode not in (Mode.NAT, Mode.ISOLATED, Mode.ROUTE, Mode.OPEN):
            raise Unsaid(f"it forwards by mode {shown(mode)}, whose bridge is somebody else's")
        self.said["mode"] = mode
        if forward is None:
            return
        port = forward.find("nat/port")
        usual = port is None or (port.get("start"), port.get("end")) == ("1024", "65535")  # libvirt's default
        if forward.find("nat/address") is not None or not usual:
            raise Unsaid("it translates to addresses or ports of its own, which no key says")
        nat = forward.find("nat")
        six = any(ip.get("family") == "ipv6" for ip in self.xml.iterfind("ip"))
        if mode == Mode.NAT and six and (nat is None or nat.get("ipv6") != "yes"):
            raise Unsaid("it does not translate IPv6, as guestnet's networks of mode nat do")
        if device := forward.get("dev"):
            self.said["physical-network"] = device

    def _device(self) -> None:
        bridge, mac, mtu = (self.xml.find(tag) for tag in ("bridge", "mac", "mtu"))
        if bridge is None or bridge.get("zone") or bridge.get("macTableManager", "kernel") != "kernel":
            raise Unsaid("its bridge has a firewall zone, or no MAC addresses of its own, which no key says")
        for key, text in (("bridge", bridge.get("name")), ("mac", mac.get("address") if mac is not None else None)):
            self.said |= {key: text} if text else {}
        self.said |= {"mtu": int(mtu.get("size", "0"))} if mtu is not None else {}
        port = self.xml.find("port")
        self.said |= {"isolated-ports": True} if port is not None and port.get("isolated") == "yes" else {}

    def _names(self, domain: Element | None, dns: Element | None) -> None:
        if domain is not None:
            self.said["domain"] = domain.get("name", "")
            self.said |= {} if domain.get("localOnly") == "yes" else {"domain-local": False}
        if dns is None:
            return
        served = any(ip.get("address") for ip in self.xml.iterfind("ip"))
        if (dns.get("enable") == "no") == served or dns.get("forwardPlainNames") == "no":
            raise Unsaid("its DNS is off, or does not pass on plain names, which no key says")
        hosts: dict[str, Value] = {}
        for host in dns.iterfind("host"):
            for name in host.iterfind("hostname"):
                options.listed(hosts, (name.text or "").strip()).append(host.get("ip", ""))
        lists: dict[str, list[Value]] = {
            "dns-forwarders": [_renamed(each, address="addr", domain="domain") for each in dns.iterfind("forwarder")],
            "dns-services": [_service(each) for each in dns.iterfind("srv")],
            "dns-texts": [_renamed(each, name="name", text="value") for each in dns.iterfind("txt")],
        }
        self.said |= {"dns": hosts} if hosts else {}
        self.said |= {key: value for key, value in lists.items() if value}

    def _addresses(self) -> None:
        subnets: list[Value] = []
        ips = [ip for ip in self.xml.iterfind("ip") if ip.get("address")]
        for ip in ips:
            subnet = subnet_of(node_of(ip))
            if prefix(subnet).num_addresses < 2:
                raise Unsaid(f"{subnet} has room for nobody but the host")
            if address(ip.get("address", "")) != (host := prefix(subnet)[1]):
                raise Unsaid(f"the host's address in {subnet} is {ip.get('address')}, and not {host}")
            subnets.append(subnet)
        self.said |= {"subnets": subnets} if subnets else {}
        if self.said["mode"] == Mode.ISOLATED and subnets:
            self.said["gateway"] = "host"
        if routes := [_route(each) for each in self.xml.iterfind("route")]:
            self.said["routes"] = list(routes)
        for ip in ips:
            self._dhcp(ip, "dhcp6" if ip.get("family") == "ipv6" else "dhcp")

    def _dhcp(self, ip: Element, key: str) -> None:
        dhcp, tftp = ip.find("dhcp"), ip.find("tftp")
        if dhcp is None and tftp is None:
            return
        ranges = [] if dhcp is None else dhcp.findall("range")
        if len(ranges) != 1 and (key == "dhcp" or len(ranges) > 1):
            raise Unsaid("it has no range for DHCP, or several, where a topology file has one")
        server: dict[str, Value] = {"range": [ranges[0].get("start", ""), ranges[0].get("end", "")]} if ranges else {}
        leases = {_lease(each) for each in (*ranges, *(dhcp.iterfind("host") if dhcp is not None else ()))}
        if len(leases) > 1:
            raise Unsaid("its ranges and reservations have leases of different length, where a topology file has one")
        if lease := "".join(leases):
            server["lease"] = lease
        if boot := _boot(dhcp, tftp):
            server["boot"] = boot
        if reserved := [_reservation(host, key) for host in (dhcp.iterfind("host") if dhcp is not None else ())]:
            server["reservations"] = list(reserved)
        self.said[key] = server

    def _hosts(self) -> list[str]:
        return [ip.get("address", "") for ip in self.xml.iterfind("ip")]


def _check_known(element: Element, path: str = "") -> None:
    """Raises Unsaid where the XML says anything that is not read."""
    where = path.rpartition("/")[2] or "network"
    if path not in _KNOWN:
        raise Unsaid(f"it has <{where}>, which no key says")
    if unread := sorted(set(map(str, element.keys())) - _KNOWN[path]):
        raise Unsaid(f"its <{where}> has {unread[0]}=, which no key says")
    for child in (each for each in element if isinstance(each.tag, str)):  # no comments
        name = child.tag.rpartition("}")[2]
        if path or name not in _ELSEWHERE:
            _check_known(child, f"{path}/{name}".lstrip("/"))


def _renamed(element: Element, **names: str) -> dict[str, Value]:
    return {key: text for key, name in names.items() if (text := element.get(name)) is not None}


def _service(element: Element) -> dict[str, Value]:
    found = _renamed(element, service="service", protocol="protocol", domain="domain", target="target")
    numbers = {key: int(text) for key in ("port", "priority", "weight") if (text := element.get(key))}
    return {**found, **numbers}


def _route(route: Element) -> dict[str, Value]:
    metric = {"metric": int(text)} if (text := route.get("metric")) else {}
    return {"to": subnet_of(node_of(route)), "via": route.get("gateway", ""), **metric}


def _lease(element: Element) -> str:
    lease = element.find("lease")
    if lease is None:
        return ""
    expiry = int(lease.get("expiry", "0"))
    return f"{expiry}{_LEASE[lease.get('unit', 'minutes')]}" if expiry else "infinite"


def _boot(dhcp: Element | None, tftp: Element | None) -> dict[str, Value]:
    bootp = None if dhcp is None else dhcp.find("bootp")
    found = {} if bootp is None else _renamed(bootp, file="file", server="server")
    return found | ({} if tftp is None else {"tftp-root": tftp.get("root", "")})


def _reservation(host: Element, key: str) -> dict[str, Value]:
    if not host.get("ip") or not (host.get("mac") if key == "dhcp" else host.get("id")):
        raise Unsaid("it reserves an address for a name, which anybody can claim")
    found = _renamed(host, mac="mac", address="ip", hostname="name")
    duid = ":".join(octet.zfill(2) for octet in host.get("id", "").split(":"))
    return {**({"duid": duid} if host.get("id") else {}), **found}
