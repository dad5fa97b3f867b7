"""A host for hooks to run in, many a second: real devices in a namespace of its own, and stand-ins for programs.

What would be run is kept; nft and iptables are asked nothing. Helpers do their work at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import seeds
from seeds import Call

from libvirt_guestnet import log
from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.forwards import conntrack
from libvirt_guestnet.datapath.netlink import links, probe
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.hook import concern, live, main
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.enforce import address_sets, checksum_guard
from libvirt_guestnet.hook.helpers import hotplug
from libvirt_guestnet.hook.processes import deadline, detached, incoming
from libvirt_guestnet.hook.read import hostwide, port_receipts
from libvirt_guestnet.hook.services import watch
from libvirt_guestnet.state.folder import ROOT

HOSTWIDE = "/run/hooks.json"
LEASE_FILE = "/run/leases-{}.status"
RECORDS, NETWORKS = Path("/run/libvirt/qemu"), Path("/run/libvirt/network")
BRIDGES = re.findall(r'<bridge name="([^"]+)"', "".join(each.decode() for each in seeds.NETWORKS.values()))
# A rule that libvirt has made for a network, as its nftables backend writes that down.
MADE = b"""<firewall name='fwRemoval' backend='nftables'><group><action layer='ipv4'><args><item>delete</item>
<item>rule</item><item>ip</item><item>libvirt_network</item><item>guest_nat</item><item>handle</item><item>7</item>
</args></action></group></firewall>"""
# Of a processor, and by the clock, which other work beside this makes slower.
LONGEST_SECONDS, LATEST_SECONDS = 5.0, 60.0
TUNNEL = (
    """[{"ifname": "up0"}, {"ifname": "gre1", "linkinfo": {"info_kind": "gre", "info_data": {"local": "10.6.6.6"}}}]"""
)
# What no value of the seeds has in it: were it to reach a program, a text of somebody's would have.
CANARY = "c4n4ry"
_SETTLED = re.compile(r"[\x20-\x7e\n\t]*\Z")


class Finding(Exception):
    """Something that must not happen did."""


class Chains:
    """The chains of one tap as batches leave them; a model of just as much of nft as that takes."""

    def __init__(self, tap: str) -> None:
        self.rules: dict[str, list[str]] = {}
        self._statement = re.compile(rf"(add|flush|delete) (chain|rule) netdev guestnet (\w+-{tap})\b ?(.*)")

    def apply(self, batch: str) -> None:
        for line in batch.splitlines():
            if line == "delete table netdev guestnet":
                self.rules.clear()
            elif found := self._statement.match(line):
                self._do(*found.groups())

    def _do(self, action: str, kind: str, chain: str, rest: str) -> None:
        if action == "delete" and kind == "chain":
            self.rules.pop(chain, None)
        elif action == "flush" or chain not in self.rules:
            self.rules[chain] = []
        if kind == "rule":
            self.rules[chain].append(rest)


class World:
    """The host, its stand-ins and what programs were given since `calm`."""

    def __init__(self) -> None:
        self.given: list[tuple[list[str], str]] = []
        self.tables: set[str] = set()
        self.logged: list[str] = []
        self.bystander = Chains("tap0")
        self.joined = "", ""
        self._devices()
        self._stand_in()

    def _devices(self) -> None:
        for name in seeds.BRIDGES:
            _ip("link", "add", name, "type", "bridge")
            _ip("link", "set", name, "up")
        for tap in (*seeds.TAPS, seeds.NEW_TAP, "up0", "up1", "up2"):
            _ip("tuntap", "add", tap, "mode", "tap")
            _ip("link", "set", tap, "up")
        for tap, bridge in seeds.ON_BRIDGES:
            _ip("link", "set", tap, "master", bridge)
        _ip("address", "add", "198.18.1.2/24", "dev", "up0")
        _ip("address", "add", "fd61:1::2/64", "dev", "up0", "nodad")

    def _stand_in(self) -> None:
        program.run = self._run
        detached.leave = self._leave
        links.Watch.tap = self._tap  # type: ignore[method-assign,assignment]
        is_on = links.is_on
        links.is_on = lambda name, bridge: (name, bridge) == self.joined or is_on(name, bridge)
        probe._GAPS = (0.0, 0.0, 0.001)
        concern.HOSTWIDE = hostwide.FILE = HOSTWIDE
        hostwide.read.__defaults__ = (HOSTWIDE,)
        checksum_guard.guard = lambda *_: checksum_guard.Put()
        checksum_guard.guard_when_limited = lambda *_: None
        checksum_guard.tidy = checksum_guard.unload = lambda *_: None
        checksum_guard.lost = lambda _: {}  # type: ignore[assignment]
        incoming._wait = lambda domain, taps, ears, connect: connect()
        incoming.repeat = lambda announce, tap: announce()
        log.complain = lambda text: self.logged.append(log.line(text))
        address_sets._LEASES = LEASE_FILE
        assert address_sets.leases.__defaults__ is not None
        address_sets.leases.__defaults__ = (*address_sets.leases.__defaults__[:-1], LEASE_FILE)
        hotplug.HELPER_SECONDS = 1
        port_receipts.FEW_RESERVED = 1  # the seeds have two
        conntrack.forget = lambda *_: None
        # This kernel's bridges may tell no VLANs apart.
        links.is_vlan_aware = lambda name: True
        vlan_bridge._read = lambda bridge, setting: {"vlan_filtering": "1", "default_pvid": "1"}.get(setting, "")
        vlan_bridge._write = lambda *_: None

    def _tap(self, mac: str, bridge: str, seconds: float, *_: object) -> str:
        """The new tap has joined whatever bridge somebody waits at."""
        self.joined = seeds.NEW_TAP, bridge
        if mac == seeds.LATE_MAC:
            time.sleep(seconds)
        return "" if mac == seeds.LATE_MAC else seeds.NEW_TAP

    def _run(self, argv: list[str], stdin: str, package: str, lock: int | None = None) -> program.Output:
        self.given.append((argv, stdin))
        self._check(argv, stdin)
        if argv[:3] == ["nft", "-f", "-"]:
            self.bystander.apply(stdin)
            self.tables |= set(re.findall(r"^(?:add )?table (\S+ \S+)", stdin, re.M))
            return program.Output(0, "", "")
        if argv[:3] == ["nft", "list", "tables"]:
            return program.Output(0, "".join(f"table {name}\n" for name in sorted(self.tables)), "")
        if argv[0] == "nft" and "-j" in argv:
            return program.Output(0, self._sets(argv), "")
        if argv[:4] == ["nft", "-a", "list", "table"]:  # libvirt's: a rule of each bridge is there, though not all
            return program.Output(0, "".join(f'\t\tiifname "{each}" reject # handle 9\n' for each in BRIDGES), "")
        if argv[:3] == ["nft", "-a", "list"]:
            return program.Output(0, "\tchain forward {\n\t\tjump guest_cross # handle 7\n\t}\n", "")
        if argv[:2] == ["ip", "-details"]:
            return program.Output(0, TUNNEL, "")
        if argv[0].endswith("iptables") and "-S" in argv:
            return program.Output(0, "-P FORWARD DROP\n-A FORWARD -j LIBVIRT_FWI\n-A FORWARD -j DOCKER-USER\n", "")
        if argv[0] == "bridge":
            return program.Output(0, "[]", "")
        if argv[0] == "busctl":
            return program.Output(0, json.dumps({"type": "as", "data": [["10.7.7.7"]]}), "")
        return program.Output(0, "", "")

    @staticmethod
    def _sets(argv: list[str]) -> str:
        """Two ports have learnt an address each."""
        names = {"learnt4-tap2": [0x0A000196], "learnt6-tap2": ["0xfd000001000000000000000000000150"]}
        names |= {f"held{name[6]}-gn-nat": elements for name, elements in names.items()}
        listed = [{"set": {"family": "netdev", "table": "guestnet", "name": n, "elem": e}} for n, e in names.items()]
        listed = [each for each in listed if "set" not in argv or each["set"]["name"] in argv]
        return json.dumps({"nftables": listed})

    @staticmethod
    def _check(argv: list[str], stdin: str) -> None:
        """No text of anybody's, and nothing but printable ASCII, whatever the product believes to have checked."""
        for text in (*argv, stdin):
            if CANARY in text or not _SETTLED.match(text):
                raise Finding(f"{argv[0]} was given a text of somebody's: {text[:300]!r}")

    def _leave(self, work: Callable[[], None], seconds: int, why: str, promise: object = None) -> None:
        with contextlib.suppress(deadline.DeadlineError):
            work()

    def calm(self, others: bool = True) -> None:
        """A host that has just booted; with firewalld, and libvirt's nftables backend, or without both."""
        shutil.rmtree(ROOT, ignore_errors=True)
        shutil.rmtree(RECORDS, ignore_errors=True)
        for path in Path("/run").glob("leases-*"):
            path.unlink()
        Path(HOSTWIDE).unlink(missing_ok=True)
        if not others:
            Path(HOSTWIDE).write_text('{"unguardable": "refuse"}')
        RECORDS.mkdir(parents=True)
        self.given.clear()
        self.tables = {"ip libvirt_network", "ip6 libvirt_network", "inet firewalld"} if others else set()
        self.bystander.rules.clear()
        self.logged.clear()

    def call(self, call: Call) -> tuple[int, str]:
        """One hook call, and what every one of them has to be."""
        if call.operation == "started":
            record(call.name, call.xml, MIGRATES if call.name == "direct" else "state='running'")
        if (call.hook, call.operation) == ("network", "started") and call.name in seeds.NETWORKS:
            NETWORKS.mkdir(parents=True, exist_ok=True)
            (NETWORKS / f"{call.name}.xml").write_bytes(
                b"<networkstatus>" + seeds.NETWORKS[call.name] + MADE + b"</networkstatus>"
            )
        if call.operation == "release":
            with contextlib.suppress(OSError, ValueError):
                (RECORDS / f"{call.name}.xml").unlink(missing_ok=True)
        if call.operation == "reconnect":
            return self.timed(lambda: self._reconnect(call.name))
        argv = [call.hook, call.name, call.operation, "begin", "-"]
        return self.timed(lambda: main.run(call.hook, argv), call.xml)

    def _reconnect(self, name: str) -> int:
        repair.repair([name], "by chance")
        return 0

    def timed(self, work: Callable[[], int], stdin: bytes = b"") -> tuple[int, str]:
        out, err, begun = io.StringIO(), io.StringIO(), os.times()
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = work()
        signal.alarm(0)
        self._judge(status, out.getvalue(), err.getvalue())
        self._judge_time(*(now - before for now, before in zip(os.times(), begun, strict=True)))
        return status, err.getvalue()

    @staticmethod
    def _judge_time(*seconds: float) -> None:
        *used, elapsed = seconds
        if sum(used) > LONGEST_SECONDS or elapsed > LATEST_SECONDS:
            raise Finding(f"took {sum(used):.1f} s of a processor, {elapsed:.1f} s by the clock")

    def _judge(self, status: int, out: str, err: str) -> None:
        said = [*err.splitlines(), *self.logged]
        if status not in (0, 1) or out:
            raise Finding(f"exit status {status}, stdout {out[:200]!r}")
        if status == 1 and not err:
            raise Finding("refused without a word")
        if any(not line.startswith("libvirt-guestnet: ") for line in err.splitlines()):
            raise Finding(f"said {err[:300]!r}")
        for line in said:
            if "internal error" in line or "Traceback" in line or len(line) > 2000:
                raise Finding(line[:2000])
        self.logged.clear()

    def watch(self) -> None:
        """One look of the service."""

        def look() -> int:
            watch._Watch().look()
            return 0

        self.timed(look)

    def sync(self, active: dict[str, bytes], domains: dict[str, bytes]) -> None:
        """What `guestnet hooks sync` does."""
        for xml in active.values():
            self.timed(partial(self._forgiven, live.adopt_network, xml))
        for xml in domains.values():
            self.timed(partial(self._forgiven, live.guard_domain, xml))
        self.timed(lambda: self._forgiven(live.tidy, set(active), set(active)))

    @staticmethod
    def _forgiven(step: Callable[..., None], *arguments: object) -> int:
        from libvirt_guestnet.errors import GuestnetError

        with contextlib.suppress(GuestnetError):
            step(*arguments)
        return 0

    def lives(self, operations: tuple[str, ...]) -> dict[str, list[str]]:
        """A guest that has nothing to do with all this: calls for it, and its rules then. Raises Finding when one is
        refused."""
        for operation in operations:
            status, said = self.call(Call("qemu", "bystander", operation, seeds.DOMAINS["bystander"]))
            if status:
                raise Finding(f"another guest's {operation} was refused: {said[:500]}")
        return {chain: list(rules) for chain, rules in self.bystander.rules.items()}


MIGRATES = "state='paused' reason='migration'><job type='none' async='migration in' phase='prepare'/"


def record(name: str, domain: bytes, state: str = "state='running' reason='booted'") -> None:
    """What libvirt keeps of a running domain."""
    if name and "/" not in name and "\0" not in name and len(name.encode()) < 200:
        (RECORDS / f"{name}.xml").write_bytes(f"<domstatus {state}>".encode() + domain + b"</domstatus>")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=120)


def put_leases(text: bytes) -> None:
    Path(LEASE_FILE.format("gn-nat")).write_bytes(text)


def receipts() -> list[Path]:
    """Every file of the hooks' own."""
    return sorted(path for path in Path(ROOT).rglob("*") if path.is_file())
