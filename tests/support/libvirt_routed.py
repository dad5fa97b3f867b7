"""A libvirt host on a LAN that leads to host-routed guests of its own, and computer X on that LAN."""

from __future__ import annotations

import json

from support.libvirt_host import XMLNS, Host, mac

# A second NIC, which the metadata knows of and the definition does not: to be plugged in.
ADDRESSES = {mac(1, 0): ("10.61.9.50", "fd61:9::50"), mac(1, 1): ("10.61.9.51", "fd61:9::51")}


def policy() -> str:
    ports = "".join(
        f"""<g:port mac="{address}" name="p{number}" network="n" guarded="yes">
        <g:address ip="{four}"/><g:address ip="{six}"/>
        <g:routed gateway="169.255.30.1" publish="yes" label="lan" device="up0"/></g:port>"""
        for number, (address, (four, six)) in enumerate(ADDRESSES.items())
    )
    return f'<g:domain {XMLNS} topology="t" guest="a">{ports}</g:domain>'


def nic(number: int) -> str:
    return f"""<interface type='ethernet'><mac address='{mac(1, number)}'/><target dev='vme0000000{number}'/>
      <model type='rtl8139'/></interface>"""


class Routed(Host):
    """A host on a LAN, with computer X, and what it leads to."""

    def tables(self) -> tuple[set[str], set[str]]:
        """Routes and published entries of ours."""
        routes, published = set(), set()
        for family in ("-4", "-6"):
            listed = self._json("ip", "-j", family, "route", "show", "table", "all", "proto", "71")
            routes |= {f"{route['dst']} {route['dev']}" for route in listed}
            published |= {f"{e['dst']} {e['dev']}" for e in self._json("ip", "-j", family, "neigh", "show", "proxy")}
        return routes, published

    def _json(self, *argv: str) -> list[dict[str, str]]:
        return list(json.loads(self.sandbox.run(list(argv)).stdout or "[]"))

    def exactly(self, *numbers: int) -> None:
        """The host leads to these NICs of guest a, guards them and is their gateway, and nothing more."""
        assert self.tables() == expected(*numbers)
        taps = {f"vme0000000{number}" for number in numbers}
        assert set(self.guarded()) == set(self.files("ports")) == set(self.files("host-routes")) == taps
        gateways = self.sandbox.run(["ip", "-br", "address", "show", "to", "169.255.30.1"]).stdout.split()
        assert {word for word in gateways if word.startswith("vme")} == taps

    def resolved(self, address: str) -> bool:
        """Whether computer X gets the host's MAC for an address."""
        self.sandbox.run(["ip", "netns", "exec", "x", "ip", "neigh", "flush", "dev", "eth0"])
        self.sandbox.run(["ip", "netns", "exec", "x", "busybox", "ping", "-c", "1", "-W", "1", address], check=False)
        (host,) = self._json("ip", "-j", "link", "show", "up0")
        found = self._json("ip", "-n", "x", "-j", "neigh", "show", "to", address)
        return any(entry.get("lladdr") == host["address"] for entry in found)


def expected(*numbers: int) -> tuple[set[str], set[str]]:
    both = [(ip, number) for number in numbers for ip in ADDRESSES[mac(1, number)]]
    return {f"{ip} vme0000000{number}" for ip, number in both}, {f"{ip} up0" for ip, _ in both}
