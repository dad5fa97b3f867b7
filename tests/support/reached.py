"""Two guests that are reached in every way there is, and asked for in all of them: who gets through?"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import ExitStack
from types import TracebackType

from libvirt_guestnet.metadata.policy import NAMESPACE
from support.libvirt_lan import GUESTS, HOST, HOST6, LAN, LAN6, UNTRANSLATED, Asking, Net, metadata, xml
from support.libvirt_wire import NO_ROM, Wire, domain

FLOATING = ("198.18.1.50", "fd61::50")
MASQUERADED = ("10.61.1.11", "fd61:1::11")  # libvirt translates it: no floating address is for it
DIRECT, DIRECT_MAC, DIRECT_TAP = ("198.18.1.70", "fd61::70"), "52:54:00:00:00:0d", "vme0000000d"
_SECONDS = 1.0


def behind_nat() -> str:
    """A guest of the nat network `web` with forwards and both kinds of floating addresses."""
    own = GUESTS["web"]
    floating = "".join(f'<g:floating ip="{ip}" to="{to}"/>' for ip, to in zip(FLOATING, own, strict=True))
    routed = "".join(
        f'<g:address ip="{ip}"/><g:floating ip="{ip}" via="{via}"/>' for ip, via in zip(UNTRANSLATED, own, strict=True)
    )
    more = "".join(f'<g:address ip="{ip}"/>' for ip in MASQUERADED)
    whole = metadata("web").replace("</g:port>", f"{more}{floating}{routed}</g:port>")
    return xml("web").replace(metadata("web"), whole)


def host_routed() -> str:
    """A guest whose addresses are the LAN's, published there."""
    addresses = "".join(f'<g:address ip="{ip}"/>' for ip in DIRECT)
    routed = '<g:routed gateway="169.255.30.1" publish="yes" label="lan" device="up0"/>'
    port = f'<g:port mac="{DIRECT_MAC}" name="p" network="direct">{addresses}{routed}</g:port>'
    mark = f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="r">{port}</g:domain>'
    nic = f"<interface type='ethernet'><mac address='{DIRECT_MAC}'/><target dev='{DIRECT_TAP}'/><model type='rtl8139'/>"
    return domain("r", f"{nic}{NO_ROM}</interface>", metadata=mark)


class Reached:
    """Both guests, while they run. `passing` asks in every way, in both families."""

    def __init__(self, net: Net) -> None:
        self.net, self.stack = net, ExitStack()

    def __enter__(self) -> Reached:
        self.web = self._start("g", behind_nat(), *GUESTS["web"])
        self.direct = self._start("r", host_routed(), *DIRECT, DIRECT_MAC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def _start(self, name: str, text: str, *who: str) -> Asking:
        self.net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=text)
        self.stack.callback(self.net.sandbox.run, ["virsh", "-q", "destroy", name], check=False)
        wire = self.stack.enter_context(Wire(self.net.sandbox, name))
        guest = Asking(wire, *who)
        guest.mine = (*guest.mine, *MASQUERADED)
        self.stack.enter_context(guest)
        return guest

    def passing(self, but: Container[str] = ()) -> dict[str, bool]:
        """By way, but for some: whether both families get through."""
        ways: dict[str, Callable[[], bool]] = {
            "port forward": lambda: self._asked("lan", (HOST, HOST6), 5300),
            "port forward, asked for by the host": lambda: self._asked("host", (HOST, HOST6), 5300),
            "floating address": lambda: self._asked("lan", FLOATING, 53),
            "untranslated floating address": lambda: self._asked("lan", UNTRANSLATED, 53),
            "host-routed guest": lambda: self._asked("lan", DIRECT, 53),
            "NAT guest to the LAN": lambda: _seen(self.web.outside(*MASQUERADED), (HOST, HOST6)),
            "untranslated address to the LAN": lambda: _seen(self.web.outside(*UNTRANSLATED), UNTRANSLATED),
            "host-routed guest to the LAN": lambda: _seen(self.direct.outside(), DIRECT),
        }
        return {name: way() for name, way in ways.items() if name not in but}

    def _asked(self, who: str, addresses: Iterable[str], port: int) -> bool:
        # A first packet may be lost to neighbour discovery.
        return all(any(self.net.udp(who, address, port, _SECONDS).open for _ in range(2)) for address in addresses)


def _seen(heard: dict[str, str], sources: tuple[str, str]) -> bool:
    return heard == dict(zip((LAN, LAN6), sources, strict=True))
