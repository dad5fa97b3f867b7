"""The command line: what each verb takes."""

from __future__ import annotations

import argparse

from libvirt_guestnet import __version__

EXIT_STATUS = (
    "exit status: 0 done, or nothing to do; 1 failed; 2 wrong usage or topology; 3 plan found changes to make, "
    "status a NIC that should be guarded and is not, or router health a router that does not serve"
)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="guestnet",
        description="Guest networks for libvirt, described once in a file and enforced by libvirt's own hooks.",
        epilog=EXIT_STATUS,
        allow_abbrev=False,
    )
    words.add_argument("--version", action="version", version=f"guestnet {__version__}")
    words.add_argument("--debug", action="store_true", help="show tracebacks")
    words.add_argument(
        "-c",
        "--connect",
        metavar="URI",
        help="libvirt connection (default: VIRSH_DEFAULT_CONNECT_URI, LIBVIRT_DEFAULT_URI, then qemu:///system)",
    )
    words.add_argument("--sandbox", metavar="NAME", help="run the command inside this sandbox")
    # Of a command that runs itself again inside a sandbox: the file it has read, and when it began.
    words.add_argument("--topology-name", help=argparse.SUPPRESS)
    words.add_argument("--began", type=float, help=argparse.SUPPRESS)
    verbs = words.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_topology_verbs(verbs)
    _add_direct_verbs(verbs)
    _add_router(verbs)
    _add_ovn(verbs)
    _add_host_verbs(verbs)
    _add_lab_verbs(verbs)
    """Of the whole command line; `run` is a verb's function by its dotted name in this package."""
    return words


_Verbs = argparse._SubParsersAction


def _verb(verbs: _Verbs[argparse.ArgumentParser], name: str, run: str, text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=EXIT_STATUS)
    verb.set_defaults(run=run)
    return verb


def _topology(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("topology", metavar="TOPOLOGY", help="the topology file, or - for standard input")


def _map(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--map",
        metavar="LABEL=DEVICE",
        action="append",
        default=[],
        help="what stands behind a physical network's label on this host: a NIC, a bridge, BRIDGE/NIC or ovs:BRIDGE; "
        "for another host nic:NIC or bridge:BRIDGE; once for each label (default: /etc/libvirt-guestnet/host.yaml)",
    )


def _hosts(verb: argparse.ArgumentParser) -> None:
    text = "of a topology with several hosts only this one; once for each (default: all)"
    verb.add_argument("--host", metavar="NAME", action="append", default=[], help=text)
    text = "of several hosts, finish those that answer; the next apply completes it"
    verb.add_argument("--allow-partial", action="store_true", help=text)


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="for programs: a flat list with stable keys")


def _add_topology_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "validate", "topologies.validate", "check a topology file and report everything wrong with it")
    _topology(verb)
    _json(verb)
    verb = _verb(verbs, "plan", "topologies.plan", "show what apply would change, and whom it would interrupt")
    _topology(verb)
    _map(verb)
    _hosts(verb)
    _json(verb)
    verb = _verb(verbs, "apply", "topologies.apply", "make libvirt's networks and interfaces match a topology file")
    _topology(verb)
    _map(verb)
    _hosts(verb)
    verb.add_argument("--allow-interrupt", action="store_true", help="also make changes that interrupt running guests")
    verb = _verb(
        verbs,
        "destroy",
        "topologies.destroy",
        "take a topology away: its networks, lab guests, plugged NICs and metadata; domains of your own stay",
    )
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="the topology file, or - for standard input")
    what.add_argument("--name", help="the topology's name, where the file is gone")
    text = (
        "also cut off running guests that are not in the file, copies of its guests, and guests' own NICs on a "
        "network that goes"
    )
    verb.add_argument("--allow-interrupt", action="store_true", help=text)
    text = "also remove the disks of guests with an image file, with all that is on them (default: they stay)"
    verb.add_argument("--remove-disks", action="store_true", help=text)
    _hosts(verb)
    verb = _verb(verbs, "render", "topologies.render", "write the libvirt XML of a topology, for virsh")
    _topology(verb)
    _map(verb)
    verb.add_argument("-o", "--output", metavar="DIRECTORY", help="write files here (default: print all)")
    verb = _verb(verbs, "graph", "topologies.graph", "draw a topology, or what runs on this host")
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="the topology file, or - for standard input")
    text = "networks, bridges and every NIC of every running domain, with its state and drops; changes nothing"
    what.add_argument("--live", action="store_true", help=text)
    verb.add_argument("--view", choices=["logical", "physical"], default="logical", help="default: logical")
    verb.add_argument("--format", choices=["svg", "png", "dot", "mermaid"], help="default: the output's ending, or dot")
    verb.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    _verb(verbs, "schema", "topologies.schema", "print the JSON Schema of topology files, for editors")


_INTERRUPT = "also make changes that interrupt running guests"
_ONE_PORT = "a domain, or one port of it by name or MAC address"


def _add_direct_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "guard what runs, and at each start, without a file; observe it first; or take that away"
    verb = _verb(verbs, "guard", "direct.guard", text)
    verb.add_argument(
        "how", choices=["on", "observe", "off"], help="observe: what would be dropped is counted, and passes"
    )
    text = "a domain, one port of it by name or MAC address, or a network: all ports there that say nothing themselves"
    verb.add_argument("name", metavar="DOMAIN[.PORT]|NETWORK", help=text)
    kind = verb.add_mutually_exclusive_group()
    for word in ("domain", "network"):
        text = f"a {word} is meant, where both have that name"
        kind.add_argument(f"--{word}", dest="kind", action="store_const", const=word, help=text)
    verb.add_argument("--allow-interrupt", action="store_true", help=_INTERRUPT)
    _add_forward(verbs)
    _add_address(verbs)


def _add_forward(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "ports of this host that are a guest's, without a file: add, remove, list"
    texts = {
        "add": "forward ports of the host to a guest, now and at each start",
        "remove": "end that again",
        "list": "list the forwards of all domains, or of one",
    }
    ports = (
        "ports of the host and the guest's first one; tcp/80 is tcp/80:80; ranges, such as udp/8000-8010, too; with "
        "--at all of a protocol without ports: gre, esp, ipip, 6in4, proto/NUMBER"
    )
    found = _add_edited(verbs, "forward", text, texts, ("forwards", "tcp/8080:80", ports))
    at = "the host's address that is meant (default: every address but loopback)"
    for verb in found.values():
        verb.add_argument("--at", metavar="ADDRESS", help=at)
    clients = "only clients with an address in this prefix; once for each (default: whoever reaches the host)"
    found["add"].add_argument("--from", metavar="PREFIX", dest="sources", action="append", help=clients)
    found["remove"].set_defaults(sources=None)


def _add_address(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "which addresses a guest may use, without a file: add, remove, list"
    texts = {
        "add": "let a guest use addresses beside what it has, now and at each start",
        "remove": "end that again",
        "list": "list the addresses that are listed for all domains, or one",
    }
    addresses = "an address; or a prefix or a range, such as 10.0.0.240-10.0.0.250, which others may share"
    _add_edited(verbs, "address", text, texts, ("addresses", "ADDRESS", addresses))


def _add_edited(
    verbs: _Verbs[argparse.ArgumentParser], name: str, text: str, texts: dict[str, str], values: tuple[str, str, str]
) -> dict[str, argparse.ArgumentParser]:
    """What can be added to a port, removed and listed: `texts` say so, `values` are the argument's name, how it is
    shown and its help. Returns the verbs that change something."""
    actions = _verb(verbs, name, "", text).add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True
    )
    plural, shown, what = values
    found = {action: _verb(actions, action, f"direct.{name}", texts[action]) for action in ("add", "remove")}
    for verb in found.values():
        verb.add_argument("domain", metavar="DOMAIN[.PORT]", help=_ONE_PORT)
        verb.add_argument(plural, metavar=shown, nargs="+", help=what)
        verb.add_argument("--allow-interrupt", action="store_true", help=_INTERRUPT)
    listing = _verb(actions, "list", f"direct.{plural}", texts["list"])
    listing.add_argument("domain", metavar="DOMAIN", nargs="?", help="default: all")
    return found


def _add_router(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "virtual routers: what one does, its leases, what its rules counted, whether it serves; replace it"
    actions = _verb(verbs, "router", "", text).add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True
    )
    texts = {
        "show": "what a router has been told and does, and how it is",
        "leases": "which addresses it gave, to whom",
        "rules": "how often each of its rules was met",
        "health": "try with packets whether it serves the guests of each of its networks (3: it does not)",
        "replace": "restart it as it is defined, with the newest appliance; it keeps its leases and MAC addresses",
    }
    for action, text in texts.items():
        verb = _verb(actions, action, f"router.{action}", text)
        verb.add_argument("router", metavar="ROUTER", help="its guest's name")
        _json(verb)
        if action == "rules":
            verb.add_argument("--nft", action="store_true", help="the whole ruleset, as the router itself lists it")


def _add_ovn(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "OVN on this host, for topologies with a fabric of that kind"
    actions = _verb(verbs, "ovn", "", text).add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True
    )
    text = "make this host the chassis that a topology says it is, of Debian's packages; what it is already it stays"
    verb = _verb(actions, "up", "ovn.up", text)
    _topology(verb)
    verb.add_argument("--central", action="store_true", help="also have OVN's databases and northd run here")
    where = "the southbound database (default: beside the northbound one, at port 6642)"
    verb.add_argument("--southbound", metavar="ADDRESS", help=where)


def _add_host_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = (
        "show networks, every NIC of every running domain and whether it is guarded, forwards and routes to guests "
        "(3: a NIC that should be guarded is not)"
    )
    verb = _verb(verbs, "status", "status.status", text)
    verb.add_argument("--guest", metavar="NAME", help="only this guest's NICs, and its networks")
    verb.add_argument("--network", metavar="NAME", help="only this network, and the NICs on it")
    text = "of a topology with several hosts: how each is and which of its guests' ports it has, by libvirt there"
    verb.add_argument("--hosts", metavar="TOPOLOGY", help=f"{text} (1: one does not answer)")
    # Not `topology`, which is the file of other verbs: `main` would read it.
    verb.add_argument("--topology", metavar="NAME", dest="of_topology", help="only what belongs to this topology")
    _json(verb)
    verb.add_argument("--drops", action="store_true", help="what port security dropped, by port and reason")
    text = (
        "go on until Ctrl-C: at a terminal draw it again and again, elsewhere write a line for whatever changes (with "
        "--json a JSON object in a line)"
    )
    verb.add_argument("--watch", action="store_true", help=text)
    text = (
        "say what to declare of ports that are only observed, so that nothing honest is dropped once they are guarded"
    )
    verb = _verb(verbs, "suggest", "suggest.suggest", text)
    verb.add_argument("port", metavar="GUEST[.PORT]", nargs="?", help="only this guest, or port (default: all)")
    _json(verb)
    verb = _verb(verbs, "import", "importing.run", "write a topology file of the networks and guests that are there")
    verb.add_argument(
        "names",
        metavar="DOMAIN|NETWORK",
        nargs="*",
        help="only these domains with their networks, and these networks or bridges with their domains (default: all)",
    )
    text = "observe: count what port security would drop; true: drop it (default: observe)"
    verb.add_argument("--guarded", choices=["observe", "true"], default="observe", help=text)
    text = (
        "write networks of libvirt's as ones that guestnet takes over, each with all that it is, and the guests on it"
    )
    verb.add_argument("--own", action="store_true", help=text)
    verb.add_argument("--name", default="imported", help="the topology's name (default: imported)")
    verb.add_argument("-o", "--output", metavar="FILE", help="a new file, or - (default: standard output)")
    text = (
        "say what on this host keeps guests from being guarded or reached, and what to do (1: something must be done)"
    )
    verb = _verb(verbs, "doctor", "doctor.doctor", text)
    verb.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="also what this topology needs of the host")
    text = "also measure the path of each VXLAN to the hosts that it names, with echo requests of its packets' size"
    verb.add_argument("--packets", action="store_true", help=text)
    _map(verb)
    _json(verb)
    text = (
        "send frames on every guest network of this host, from ports made for that, and look for them on all others "
        "(1: one was seen where it does not belong, or could not be tried)"
    )
    verb = _verb(verbs, "verify", "verifying.verify", text)
    verb.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="only this topology's networks")
    verb.add_argument("--isolation", action="store_true", required=True, help="what keeps networks apart")
    _json(verb)
    text = (
        "libvirt's hooks: install, uninstall (with every filter), status, or sync (guard what runs already). "
        "install and sync take over from /etc/libvirt-guestnet/host.yaml whether guests that nobody declared are "
        "guarded (guard: declared, observe or all) and those that cannot be may start (unguardable: allow or refuse)"
    )
    verb = _verb(verbs, "hooks", "hooks.hooks", text)
    verb.add_argument("action", choices=["install", "uninstall", "status", "sync"])
    verb.add_argument(
        "--any-owner", action="store_true", help="install even if others than root can change guestnet's files"
    )
    _json(verb)
    text = (
        "private libvirt hosts in namespaces, which change nothing on this machine: start, stop, list, or a shell "
        "in one (files written there vanish with it)"
    )
    verb = _verb(verbs, "sandbox", "sandboxes.sandboxes", text)
    verb.add_argument("action", choices=["start", "stop", "list", "shell"])
    verb.add_argument("name", nargs="?", default="default", help="default: default")
    _json(verb)


def _add_lab_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    lab = _verb(
        verbs,
        "lab",
        "",
        "run a topology for real in a sandbox, with tiny guests and a computer for each LAN, and verify it",
    )
    actions = lab.add_subparsers(title="actions", metavar="ACTION", required=True)
    texts = {
        "run": "up, verify, down again",
        "up": "start the networks, the computers on the LANs and the guests",
        "verify": "check every `expect:` line from inside the guests",
        "down": "take everything away",
        "shell": "a guest's console, or without GUEST a shell on the lab's host",
    }
    for action, text in texts.items():
        verb = _verb(actions, action, f"lab.{action}", text)
        _topology(verb)
        if action == "shell":
            verb.add_argument("guest", nargs="?", metavar="GUEST")
        else:
            verb.add_argument("--here", action="store_true", help="on this host instead of in a sandbox")
        if action in ("run", "up"):
            _map(verb)
        if action == "run":
            verb.add_argument("--keep", action="store_true", help="leave the lab up")
        if action in ("run", "verify"):
            _json(verb)
