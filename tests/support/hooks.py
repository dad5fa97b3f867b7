"""The installed hook files, called as libvirt calls them with what real daemons sent, against a real kernel."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from libvirt_guestnet.install import hook_files
from support.box import Box

DATA = Path(__file__).parent.parent / "data/hooks"
VERSIONS = ("9.0.0", "11.3.0")
A1, A2 = "52:54:00:61:0a:0b", "52:54:00:61:0a:01"
NS = 'xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"'
DOMAIN = f"""<guestnet:domain {NS} topology="t" guest="a">
  <guestnet:port mac="{A1}" name="lan1" network="lan1"><guestnet:address ip="10.61.11.10"/></guestnet:port>
  <guestnet:port mac="{A2}" name="vlan1" network="vlan1"><guestnet:address ip="10.61.1.10"/></guestnet:port>
</guestnet:domain>"""
NETWORK = f"""<guestnet:network {NS} topology="t" name="vlan1"><guestnet:subnet prefix="10.61.1.0/24"/>
</guestnet:network>"""
# What starts leave behind, a moment later, has done its work.
SETTLED = "while ls /run/libvirt-guestnet/settling/* >/dev/null 2>&1; do sleep 0.02; done"
# The process that `reconnect` leaves behind has done its work.
REPAIRED = """
until [ -z "$(ls /run/libvirt-guestnet/reconnect)" ]; do sleep 0.01; done
flock -w 240 /run/libvirt-guestnet/reconnect.lock true
"""


class Hooks:
    """The hook files as `guestnet hooks install` writes them, called as libvirt calls them."""

    def __init__(self, box: Box, root: Path) -> None:
        self.box, self.root = box, root
        hook_files.install(root, any_owner=True)

    def call(self, hook: str, name: str, operation: str, sub: str, stdin: bytes) -> tuple[int, str]:
        path = str(self.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet")
        if operation == "reconnect":
            self.record(name, stdin)
        done = self.box.run("env", "-i", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", path, name, operation, sub, "-", stdin=stdin)  # fmt: skip  # noqa: E501
        if operation == "reconnect":
            self.box.ok("sh", "-c", REPAIRED)
        assert done.stdout == b"", "on restore and migrate, stdout replaces the domain's XML"
        return done.returncode, done.stderr.decode()

    def running(self, name: str, xml: bytes) -> None:
        """A guest starts, and libvirt writes down that it runs."""
        for operation in ("start", "started"):
            assert self.call("qemu", name, operation, "begin", xml) == (0, "")
        self.record(name, xml)

    def record(self, name: str, domain: bytes) -> None:
        """What libvirt keeps of a running domain."""
        keep = 'cd /run/libvirt/qemu && (echo "<status>"; cat; echo "</status>") >"$0.new" && mv "$0.new" "$0.xml"'
        self.box.ok("mkdir", "-p", "/run/libvirt/qemu")
        assert self.box.run("sh", "-c", keep, name, stdin=domain).returncode == 0

    def replay(self, version: str, scenario: str, pick: str, metadata: str | None = None) -> list[tuple[int, str]]:
        """Calls the hooks with every file of a scenario whose name contains `pick`, in order."""
        results = []
        for file in sorted((DATA / version / scenario).glob(f"*{pick}*.xml")):
            _, hook, name, operation, sub = file.stem.split("-", 4) if "port-" not in file.stem else port_call_of(file)
            xml = file.read_bytes() if metadata is None else with_metadata(file.read_bytes(), metadata)
            results.append(self.call(hook, name, operation, sub, xml))
        assert results, f"no call {pick} in {scenario}"
        return results

    def chains(self) -> list[str]:
        items = json.loads(self.box.ok("nft", "-j", "list", "chains"))["nftables"]
        names = [item["chain"]["name"] for item in items if "chain" in item]
        return sorted(name.removeprefix("tap-") for name in names if name.startswith("tap-"))

    def receipts(self) -> list[str]:
        """The names of all files that say something, but for the one that repeats it for others."""
        listed = self.box.run("find", "/run/libvirt-guestnet", "-name", "*.json").stdout.decode().split()
        return sorted(Path(path).name for path in listed if not path.endswith("/network.json"))


def port_call_of(file: Path) -> tuple[str, str, str, str, str]:
    number, hook, name, port, operation, sub = file.stem.split("-")
    return number, hook, name, f"{port}-{operation}", sub


def with_metadata(xml: bytes, metadata: str) -> bytes:
    head, _, rest = xml.decode().partition("<metadata>")
    _, _, tail = rest.partition("</metadata>")
    return f"{head}<metadata>{metadata}</metadata>{tail}".encode()


START = with_metadata((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
# A guest of somebody else's.
PLAIN = START.replace(b"61000001-", b"61000009-").replace(b"vnet", b"other").replace(b"libvirt-guestnet.org", b"x.org")
PRINTING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from libvirt_guestnet.datapath.run import nft, program
from libvirt_guestnet import log
from libvirt_guestnet.hook.calls import repair
log.complain = print
run = program.run
def counted(argv, stdin, *more):
    if argv == ["nft", "-f", "-"]:
        print("transaction")
    return run(argv, stdin, *more)
program.run = counted
sys.exit(repair.main())
"""
# What a killed one leaves behind, a fork of it perhaps, may have the lock for a moment.
REPAIR = 'exec 9>/run/libvirt-guestnet/reconnect.lock; flock -w 60 9; exec "$@"', "sh", sys.executable, "-IS", "-c"


def repaired(hooks: Hooks, *names: str) -> list[str]:
    """What the repair of these guests complains about, and its transactions."""
    hooks.box.ok("mkdir", "-p", "/run/libvirt-guestnet/reconnect")
    for name in names:
        hooks.box.ok("touch", f"/run/libvirt-guestnet/reconnect/{name}")
    done = hooks.box.ok("sh", "-c", *REPAIR, PRINTING)
    assert hooks.box.ok("ls", "/run/libvirt-guestnet/reconnect") == ""
    return done.splitlines()


def recorded(hooks: Hooks, number: int) -> str:
    """A running guest of that number, with its taps, of which the hooks have not heard yet."""
    for tap in (f"v{number}a", f"v{number}b"):
        hooks.box.run("ip", "tuntap", "add", tap, "mode", "tap")
    hooks.record(f"g{number}", numbered(number))
    return f"g{number}"


def numbered(number: int) -> bytes:
    xml = START.replace(b"61000001-", b"6200%04d-" % number).replace(b"<name>guesta<", b"<name>g%d<" % number)
    xml = xml.replace(b"vnet0", b"v%da" % number).replace(b"vnet1", b"v%db" % number)
    return xml.replace(b"52:54:00:61:0a", b"52:54:00:61:%02x" % number)


def own_table(hooks: Hooks) -> list[str]:
    """Every set and chain of our table, but for counters."""
    listed = hooks.box.run("nft", "-s", "list", "table", "netdev", "guestnet").stdout.decode()
    return sorted(re.findall(r"^\t(?:chain|set) .*?^\t}$", listed, re.M | re.S))


def with_handles(hooks: Hooks, *taps: str) -> str:
    """The rules of ports, with their handles: a rule that was written again has another."""
    return "".join(hooks.box.ok("nft", "-a", "-s", "list", "chain", "netdev", "guestnet", f"tap-{tap}") for tap in taps)


def mac_in(xml: bytes, index: int) -> str:
    return xml.decode().split("<mac address='")[index + 1].split("'")[0]
