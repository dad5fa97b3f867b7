"""Host-routed guests of a server with an uplink, each a real IP stack, and computer X on the LAN.

A guest is a network namespace behind a veth pair whose host end plays the tap, and so is computer X.
"""

from __future__ import annotations

import json
from pathlib import Path

from support.box import Box
from support.hooks import NS, Hooks

A, B, X, HOST = (10, 0xA), (11, 0xB), (9, 9), (1, 1)  # last parts of the IPv4 and IPv6 addresses
LAN4, LAN6 = "192.0.2.{}", "2001:db8::{:x}"
ON_LAN = '<guestnet:routed gateway="169.255.30.1" publish="yes" label="lan" device="up0"/>'


def both(who: tuple[int, int]) -> tuple[str, str]:
    return LAN4.format(who[0]), LAN6.format(who[1])


def mac(who: tuple[int, int]) -> str:
    return f"52:54:00:00:{who[1] >> 8:02x}:{who[1] & 255:02x}"


def tap(who: tuple[int, int]) -> str:
    return f"vme{who[1]:08x}"


def domain(name: str, who: tuple[int, int], routed: str = ON_LAN, more: str = "") -> bytes:
    """A live <domain> with one host-routed NIC, as libvirt hands it to the hook."""
    own = "".join(f'<guestnet:address ip="{address}"/>' for address in both(who))
    return f"""<domain type="qemu"><name>{name}</name><uuid>00000000-0000-4000-8000-{who[1]:012x}</uuid>
      <metadata><guestnet:domain {NS} topology="t" guest="{name}">
        <guestnet:port mac="{mac(who)}" name="p" network="n" guarded="yes">{own}{more}{routed}</guestnet:port>
      </guestnet:domain></metadata>
      <devices><interface type="ethernet"><mac address="{mac(who)}"/><target dev="{tap(who)}"/></interface></devices>
    </domain>""".encode()


class RoutedLab:
    """The server with uplink up0, computer X behind it, and guests."""

    def __init__(self, root: Path) -> None:
        self.box = Box()
        self.hooks = Hooks(self.box, root)
        self._hurry("")
        self._connect("x", "up0", "02:00:00:00:00:09")
        for address, length in zip(both(HOST), (24, 64), strict=True):
            self.ip(f"address add {address}/{length} dev up0")
        for address, length in zip(both(X), (24, 64), strict=True):
            self.ip(f"address add {address}/{length} dev eth0", "x")

    def _hurry(self, namespace: str) -> None:
        self.run(namespace, "sh", "-c", "for f in all default; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; done")

    def _connect(self, namespace: str, device: str, address: str) -> None:
        self.ip(f"netns add {namespace}")
        self._hurry(namespace)
        self.ip(f"link add {device} type veth peer name eth0 netns {namespace} address {address}")
        self.ip(f"link set {device} up")
        self.ip("link set eth0 up", namespace)

    def boot(self, name: str, who: tuple[int, int], gateway: str = "169.255.30.1") -> None:
        """Plugs a guest in that is configured as documented: addresses alone, and the gateway on the link."""
        self._connect(name, tap(who), mac(who))
        for address in both(who):
            self.ip(f"address add {address} dev eth0", name)
        self.ip(f"route add default via {gateway} dev eth0 onlink", name)
        self.ip("route add default via fe80::1 dev eth0 onlink", name)

    def start(self, name: str, who: tuple[int, int], xml: bytes | None = None) -> None:
        xml = xml or domain(name, who)
        for operation in ("start", "started"):
            assert self.hooks.call("qemu", name, operation, "begin", xml) == (0, "")

    def stop(self, name: str, who: tuple[int, int]) -> None:
        assert self.hooks.call("qemu", name, "release", "end", domain(name, who)) == (0, "")

    def run(self, namespace: str, *argv: str) -> tuple[int, str]:
        enter = ["ip", "netns", "exec", namespace] if namespace else []
        done = self.box.run(*enter, *argv)
        return done.returncode, (done.stdout + done.stderr).decode()

    def ip(self, arguments: str, namespace: str = "") -> str:
        status, output = self.run(namespace, "ip", *arguments.split())
        assert status == 0, output
        return output

    def reaches(self, namespace: str, address: str) -> bool:
        return self.run(namespace, "busybox", "ping", "-c", "2", "-i", "0.2", "-W", "2", address)[0] == 0

    def neighbour(self, address: str) -> str:
        """The MAC that computer X has for an address, asked anew."""
        self.ip("neigh flush dev eth0", "x")
        self.reaches("x", address)
        found = json.loads(self.ip(f"-j neigh show to {address}", "x"))
        return found[0].get("lladdr", "") if found else ""

    def published(self) -> set[str]:
        found = [e for f in ("-4", "-6") for e in json.loads(self.ip(f"-j {f} neigh show proxy") or "[]")]
        return {f"{entry['dst']} {entry['dev']}" for entry in found}

    def routes(self, table: str = "all") -> set[str]:
        found = [
            r for f in ("-4", "-6") for r in json.loads(self.ip(f"-j {f} route show table {table} proto 71") or "[]")
        ]
        return {f"{route['dst']} {route['dev']}" for route in found}

    def sysctl(self, path: str) -> str:
        return self.box.ok("cat", f"/proc/sys/net/{path}").strip()


def led_to(*guests: tuple[int, int]) -> tuple[set[str], set[str]]:
    """What the host routes, and what it publishes, when it leads to these guests."""
    routes = {f"{address} {tap(who)}" for who in guests for address in both(who)}
    return routes, {f"{address} up0" for who in guests for address in both(who)}
