"""What the host's firewalls keep guests from: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from libvirt_guestnet.datapath.firewalls import registry
from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain
from libvirt_guestnet.doctor.finding import FINE, MUST, NOTE, Finding
from libvirt_guestnet.doctor.host_facts import HOST_ROUTED, HostFacts, NetworkFacts

_BRIDGED = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}


def chains(facts: HostFacts) -> Iterator[Finding]:
    if facts.chains is None:
        yield Finding("firewall", NOTE, "", "only root can see the host's rules", "run guestnet doctor as root")
    for chain in facts.chains or ():
        cut = [net for net in facts.networks if _versions(net, chain)]
        if chain.hook == "input":
            yield from _input(chain, [net for net in cut if not (chain.libvirts or _let(net.device, chain.inward))])
        else:
            yield from _forward(chain, [net for net in cut if _cannot_get_out(net, chain)], "get out")
            yield from _forward(chain, [net for net in cut if _cannot_be_reached(net, chain)], "be reached")
            if not any(_cannot_get_out(net, chain) or _cannot_be_reached(net, chain) for net in cut):
                yield Finding("firewall", FINE, chain.name, f"{chain.refuses}, and lets through what it must")


def _versions(net: NetworkFacts, chain: RefusingChain) -> bool:
    return bool(net.versions & set(chain.versions))


def _cannot_get_out(net: NetworkFacts, chain: RefusingChain) -> bool:
    passes = chain.ours if net.mode == HOST_ROUTED else chain.libvirts
    let = _let(net.vrf or net.device, chain.inward) or (net.vrf and _let(net.device, chain.within))
    return net.mode in ("nat", "route", HOST_ROUTED) and not passes and not let


def _cannot_be_reached(net: NetworkFacts, chain: RefusingChain) -> bool:
    ours = chain.ours or (chain.dnat and not net.untranslated and net.mode != HOST_ROUTED)
    let = _let(net.device, chain.outward) and not (net.untranslated and registry.named(chain.tool).by_name_translated)
    return (net.reached or net.mode == HOST_ROUTED) and not ours and not let


def _let(device: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(device, pattern) for pattern in patterns)


def _forward(chain: RefusingChain, cut: list[NetworkFacts], what: str) -> Iterator[Finding]:
    if cut:
        names = ", ".join(dict.fromkeys(net.name for net in cut))
        found = f"{chain.refuses}, and no accept of ours or libvirt's overrules it: guests of {names} cannot {what}"
        yield Finding("firewall", MUST, chain.name, found, _accept(chain, cut[0]))


def _input(chain: RefusingChain, cut: list[NetworkFacts]) -> Iterator[Finding]:
    served = [net for net in cut if net.mode not in (HOST_ROUTED, "bridge")]
    if served:
        names = ", ".join(net.name for net in served)
        found = f"{chain.refuses}: unless it accepts DHCP and DNS, guests of {names} get neither from this host"
        yield Finding("firewall", NOTE, chain.name, found, _accept(chain, served[0]))


def _accept(chain: RefusingChain, net: NetworkFacts) -> str:
    """What makes a chain let a network's traffic through, in the words of the tool whose chain it is."""
    is_tap = net.mode == HOST_ROUTED
    guests = Guests("vme*" if is_tap else net.device, net.vrf, net.mode == "route", net.untranslated or is_tap)
    return registry.advice(chain, guests)


_UNLESS_NEEDED = "they pass those; where nothing (Docker, Kubernetes) needs it: sysctl -w {}=0"


def bridged(facts: HostFacts) -> Iterator[Finding]:
    """br_netfilter, which Docker loads, hands frames between ports of one bridge to the forward chains."""
    for version, on in facts.bridged.items():
        refusing = [c for c in facts.chains or () if on and c.hook == "forward" and version in c.versions]
        cut = [net for net in facts.networks for chain in refusing if _cuts_bridge(net, chain)]
        silent = [net.name for net in facts.networks if on and version in net.isolated]
        if silent:
            found = f"is on: isolated ports of {', '.join(silent)} get no answer from their neighbours' forwards"
            do = f"sysctl -w {_BRIDGED[version]}=0, or take isolated-ports out"
            yield Finding("bridged frames", MUST, _BRIDGED[version], found, do)
        if cut:
            names = ", ".join(dict.fromkeys(net.name for net in cut))
            found = f"is on, and {refusing[0].name} refuses: guests of {names} cannot reach their own neighbours"
            yield Finding("bridged frames", MUST, _BRIDGED[version], found, f"sysctl -w {_BRIDGED[version]}=0")
        elif on and not silent:
            found = "is on: frames between ports of one bridge walk the forward chains of IP"
            yield Finding("bridged frames", NOTE, _BRIDGED[version], found, _UNLESS_NEEDED.format(_BRIDGED[version]))


def _cuts_bridge(net: NetworkFacts, chain: RefusingChain) -> bool:
    libvirts = chain.libvirts and net.mode != "bridge"
    return net.mode != HOST_ROUTED and not libvirts and not _let(net.device, chain.inward | chain.outward)


def legacy(facts: HostFacts) -> Iterator[Finding]:
    for family, tables in facts.legacy.items():
        found = f"has tables in use ({', '.join(tables)}), which are walked beside those of nftables"
        yield Finding("iptables-legacy", NOTE, family, found, "look for who still uses it: iptables-legacy -S")


def active(facts: HostFacts) -> Iterator[Finding]:
    for name in facts.firewalls:
        yield Finding(
            "firewall", NOTE, name, "is active; what of it keeps guests from something is named by its chains"
        )
