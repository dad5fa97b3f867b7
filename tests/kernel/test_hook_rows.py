"""Every row of the table of hook calls, with what real daemons of both versions sent for it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import A1, A2, DATA, DOMAIN, NETWORK, VERSIONS, Hooks, mac_in, port_call_of, with_metadata

from libvirt_guestnet.hook.call import VETO
from libvirt_guestnet.hook.concern import STARTED_WORDS
from libvirt_guestnet.hook.lifecycle import TABLE
from libvirt_guestnet.install import hook_files

NOTHING = sorted(row for row, call in TABLE.items() if call.work is None)
# Migration was captured between two daemons of 9.0.0 only.
NOT_CAPTURED = {("11.3.0", "qemu", "migrate")}
ROWS = [(v, *row) for v in VERSIONS for row in sorted(TABLE) if (v, *row) not in NOT_CAPTURED]


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    yield Hooks(box, tmp_path)
    box.close()


def captured(version: str, hook: str, operation: str) -> list[tuple[str, str, bytes]]:
    """(object, suboperation, stdin) of every captured call of a row, with metadata of ours."""
    found = []
    for file in sorted((DATA / version).glob(f"*/*-{hook}-*-{operation}-*.xml")):
        parts = port_call_of(file) if "port-" in file.stem else file.stem.split("-", 4)
        xml = file.read_bytes()
        macs = [mac_in(xml, index) for index in range(xml.count(b"<interface type"))]
        domain = DOMAIN.replace(A1, macs[0]).replace(A2, macs[-1]) if macs else DOMAIN
        found.append((parts[2], parts[4], with_metadata(xml, domain if hook == "qemu" else NETWORK)))
    return found


@pytest.mark.parametrize(("version", "hook", "operation"), ROWS)
def test_row(hooks: Hooks, version: str, hook: str, operation: str) -> None:
    calls = captured(version, hook, operation)
    assert calls, "no captured call"
    for name, sub, xml in calls:
        for tap in re.findall(r"<target dev='([^']+)'/>", xml.decode()):  # new ones, as libvirt makes them
            hooks.box.run("ip", "link", "del", tap)
            hooks.box.ok("ip", "tuntap", "add", tap, "mode", "tap")
        # `call` also checks that nothing is on stdout, which would replace a domain's XML.
        assert hooks.call(hook, name, operation, sub, xml) == (0, "")
        if (hook, operation) in NOTHING:
            assert hooks.box.run("ls", "/run/libvirt-guestnet").returncode != 0
            assert hooks.chains() == []


VETOED = sorted(row for row, call in TABLE.items() if call.failure == VETO)


@pytest.mark.parametrize(("hook", "operation"), VETOED)
def test_nothing_on_stdin_names_who_ran_the_hook_so(hooks: Hooks, hook: str, operation: str) -> None:
    """A dispatcher of the user's own: the first file in the folder reads what is on stdin, and ours finds nothing."""
    dispatcher = hooks.root / f"etc/libvirt/hooks/{hook}"
    dispatcher.write_text('#!/bin/sh\nfor file in "$0.d"/*; do "$file" "$@" || exit 1; done\n')
    (hooks.root / f"etc/libvirt/hooks/{hook}.d/10-first").write_text("#!/bin/sh\nexec cat >/dev/null\n")
    for path in (dispatcher, dispatcher.with_name(f"{hook}.d") / "10-first"):
        path.chmod(0o755)
    call = str(dispatcher), "g1", operation, "begin", "-"
    assert hooks.box.run(*call, stdin=DOMAIN.encode()).returncode == 0, "nobody on this host needs us"
    for place in ("libvirt-guestnet/networks/one.json", "libvirt-guestnet/forwards/t.json", "libvirt/qemu/g2.xml"):
        hooks.box.ok("sh", "-c", f"mkdir -p /run/{Path(place).parent} && echo '{{}}' >/run/{place}")
    done = hooks.box.run(*call, stdin=DOMAIN.encode())
    said = done.stderr.decode()
    assert (done.returncode, done.stdout, said.count("\n")) == (1, b"", 1)
    assert f"libvirt-guestnet: {hook} g1 {operation}: nothing on stdin, where libvirt gives the object's XML: " in said
    assert f"`/bin/sh {dispatcher} g1 {operation} begin -` (process " in said
    assert f"libvirt runs every file in /etc/libvirt/hooks/{hook}.d by itself" in said


@pytest.mark.parametrize(("hook", "operation"), NOTHING)
def test_a_row_of_nothing_costs_a_shell(hooks: Hooks, hook: str, operation: str) -> None:
    path = hooks.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
    path.write_text(path.read_text().replace("exec ", "exit 77; exec "))
    assert hooks.call(hook, "guesta", operation, "begin", DOMAIN.encode()) == (0, "")
    assert hooks.call(hook, "guesta", "start", "begin", DOMAIN.encode())[0] == 77


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plugged_nic_is_guarded_when_its_tap_comes(hooks: Hooks, version: str) -> None:
    ((name, _, xml),) = [c for c in captured_in(version, "attach-iface-network") if c[1] == "port-created"]
    owner, uuid = re.findall(r"<owner>\s*<name>(.*?)</name>\s*<uuid>(.*?)</uuid>", xml.decode())[0]
    status = (
        f"<domstatus state='running'><domain><name>{owner}</name><uuid>{uuid}</uuid><devices/></domain></domstatus>"
    )
    hooks.box.ok("mkdir", "-p", "/run/libvirt/qemu")
    hooks.box.run("tee", f"/run/libvirt/qemu/{owner}.xml", stdin=status.encode())
    bridge = re.findall(r"<plug type='network' bridge='(.*?)'/>", xml.decode())[0]
    mac = re.findall(r"<mac address='(.*?)'/>\s*<plug", xml.decode())[0]
    hooks.box.ok("ip", "link", "add", bridge, "type", "bridge")
    assert hooks.call("network", name, "port-created", "begin", xml) == (0, "")
    assert hooks.chains() == []
    hooks.box.ok("ip", "tuntap", "add", "vnet7", "mode", "tap")
    hooks.box.ok("ip", "tuntap", "add", "vnet8", "mode", "tap")
    hooks.box.ok("ip", "link", "set", "vnet8", "master", bridge, "up")
    hooks.box.ok("ip", "link", "set", "vnet7", "address", f"fe{mac[2:]}", "master", bridge, "up")
    deadline, wanted = time.monotonic() + 240, [f"{uuid}.json", "bridges.json", f"{name}.json", "vnet7.json"]
    while (hooks.chains(), hooks.receipts()) != (["vnet7"], wanted):
        assert time.monotonic() < deadline, (hooks.chains(), hooks.receipts())


def captured_in(version: str, scenario: str) -> list[tuple[str, str, bytes]]:
    """(object, operation, stdin) of the network calls of one scenario, on a network of ours."""
    files = sorted((DATA / version / scenario).glob("*-network-*.xml"))
    return [(port_call_of(file)[2], port_call_of(file)[3], with_metadata(file.read_bytes(), NETWORK)) for file in files]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", ["update-link-down", "update-source-network", "update-source-bridge-type"])
def test_an_update_without_a_running_domain_leaves_no_helper(hooks: Hooks, version: str, scenario: str) -> None:
    """libvirt has no record of the domain (it starts, or the call is stray): there is nothing to wait for."""
    for name, operation, xml in captured_in(version, scenario):
        assert hooks.call("network", name, operation, "begin", xml) == (0, "")
    assert not [name for name in hooks.receipts() if name not in ("bridges.json", "vlan1.json", "vlan2.json")]


PORT = next((DATA / "9.0.0/dom-start").glob("*-port-created-begin.xml"))
NAME = PORT.stem.split("-")[2]


# Python, as far as the work.
SHORT_OF_WORK = """
import sys
sys.path.insert(0, sys.argv[1])
from libvirt_guestnet.hook import concern, dispatch, main
dispatch.dispatch = lambda *_: 77
sys.exit(main.run("network", ["network", *sys.argv[2:]]))
"""
LONG = "<!-- " + "reserved\n" * 10_000 + " -->"


def _port_created(hooks: Hooks, old: str = "", new: str = "", padding: str = "") -> bool:
    """Whether a `port-created` call, with a text of its XML replaced, is worked on. The network's XML has `padding`:
    if that is long, it is Python that looks."""
    path, text = hooks.root / "etc/libvirt/hooks/network.d/50-guestnet", hook_files.filled_in("network")
    hooks.box.run("tee", "/run/look.py", stdin=SHORT_OF_WORK.encode())
    looking = f'all | {sys.executable} -IS /run/look.py {Path(hook_files.__file__).parents[2]} "$@"; exit; all |'
    path.write_text(text.replace("all |", looking if padding else "exit 77; all |"))
    xml = with_metadata(PORT.read_bytes(), NETWORK).decode().replace("</metadata>", f"{padding}</metadata>", 1)
    assert old in xml
    status, _ = hooks.call("network", NAME, "port-created", "begin", xml.replace(old, new).encode())
    return {0: False, 77: True}[status]


@pytest.mark.parametrize("padding", ["", LONG], ids=["short", "long"])
def test_a_port_that_can_wait_costs_a_shell_or_a_bare_python(hooks: Hooks, padding: str) -> None:
    def port_created(hooks: Hooks, old: str = "", new: str = "") -> bool:
        return _port_created(hooks, old, new, padding)

    text = PORT.read_text().rpartition("<networkport>")[2]
    portid, owner = re.findall(r"<uuid>(.*?)</uuid>", text)[0], re.findall(r"<name>(.*?)</name>", text)[0]
    record, noted = f"/run/libvirt/network/{NAME}.xml", f"/run/libvirt-guestnet/networks/{NAME}.json"
    hooks.box.ok("mkdir", "-p", "/run/libvirt/network", "/run/libvirt/qemu", "/run/libvirt-guestnet/networks")
    hooks.box.ok("touch", "-d", "1 minute ago", noted)
    hooks.box.ok("touch", record)
    assert port_created(hooks), "the network may have changed"
    hooks.box.ok("touch", "-d", "1 hour ago", record)
    assert not port_created(hooks), "the domain starts"
    for odd in ("a&amp;b", "", "gäst"):
        assert port_created(hooks, f"<name>{owner}</name>", f"<name>{odd}</name>"), "which file is its record?"
    assert port_created(hooks, portid, "none")
    hooks.record(owner, b"<source portid='61000001-0000-4000-8000-00000000abcd'/>")
    assert port_created(hooks), "a NIC is plugged"
    hooks.record(owner, f"<source network='x' portid='{portid}'/>".encode())
    assert not port_created(hooks), "the daemon has restarted"
    decoy = "<x>\n<networkport>\n<uuid>none</uuid>\n<name>none</name>\n</networkport>\n</x></metadata>"
    assert not port_created(hooks, "</metadata>", decoy), "somebody's metadata is no port"
    hooks.record(owner, b"<source portid='61000001-0000-4000-8000-00000000abcd'/>")
    for behind in ("\n" * 70_000, "x" * 70_000):
        decoy = f"<x>\n<networkport>\n<uuid>{portid}</uuid>\n<name>none</name>\n</networkport>{behind}\n</x></metadata>"
        assert port_created(hooks, "</metadata>", decoy), "nor is it where the shell does not read as far as the port"
    hooks.box.ok("rm", noted)
    hooks.record(owner, f"<source network='x' portid='{portid}'/>".encode())
    assert port_created(hooks), "nobody has told us of the network"
    assert not port_created(hooks, "libvirt-guestnet.org", "x.org"), "a plain network"


def _handed_on(hooks: Hooks, xml: bytes) -> bytes:
    path = hooks.root / "etc/libvirt/hooks/network.d/50-guestnet"
    path.write_text(hook_files.filled_in("network").replace("all |", "all >/run/handed-on; exit; all |"))
    assert hooks.call("network", NAME, "port-created", "begin", xml) == (0, "")
    return hooks.box.run("cat", "/run/handed-on").stdout


def test_the_shell_hands_on_what_it_has_read(hooks: Hooks) -> None:
    xml = with_metadata(PORT.read_bytes(), f"<x>\n  back\\slash \\n % $HOME `ä` *\t\n\n</x>{NETWORK}")
    for end in (b"", b"\n", b"\n\n"):
        assert _handed_on(hooks, xml.rstrip() + end) == xml.rstrip() + end


@pytest.mark.parametrize("octets", [65535, 65536, 65537, 65538, 1_000_000])
@pytest.mark.parametrize("filling", [b"x", b"\n", b"x\n", "ä".encode()], ids=["text", "newlines", "lines", "wide"])
def test_the_shell_hands_on_what_it_has_not_read(hooks: Hooks, octets: int, filling: bytes) -> None:
    """Whatever stands where it stops reading."""
    start, end = b"<hookData><x a='", b"\n</hookData>"
    xml = start + filling * ((octets - len(start)) // len(filling)) + b"'/>" + end
    assert _handed_on(hooks, xml) == xml


@pytest.mark.parametrize(
    "shape", ["16,000 reservations", "500 kB in short lines", "8 MiB in one line", "no port at all"]
)
def test_a_network_of_any_size_takes_a_moment(hooks: Hooks, shape: str) -> None:
    """Quadratic, the first took 20 s and the second 45 s."""
    text = {
        "16,000 reservations": "<host mac='52:54:00:00:00:01' ip='10.61.1.1'/>\n" * 16_000,
        "500 kB in short lines": "x\n" * 250_000,
        "8 MiB in one line": "x" * (9 << 20),
        "no port at all": "",
    }[shape]
    xml = PORT.read_bytes().replace(b"<bridge", f"<x>{text}</x><bridge".encode(), 1)
    xml = xml.partition(b"<networkport>")[0] if shape.startswith("no") else xml
    begin = time.monotonic()
    status, said = hooks.call("network", NAME, "port-created", "begin", xml)
    assert time.monotonic() - begin < 8
    refused = f"libvirt-guestnet: network {NAME} port-created: XML of more than 8 MiB refused\n"
    assert (status, said) == ((1, refused) if shape == "8 MiB in one line" else (0, ""))


@pytest.mark.parametrize(("hook", "operation"), [("network", "port-created"), ("qemu", "started"), ("qemu", "start")])
def test_stdin_that_never_ends_holds_nobody_up(hooks: Hooks, hook: str, operation: str) -> None:
    path = hooks.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
    path.write_text(path.read_text().replace("timeout 20", "timeout 1"))
    impatient = "import sys; sys.path.insert(0, sys.argv[1]); from libvirt_guestnet.hook import concern, main; concern.SECONDS = 1; sys.exit(main.run(sys.argv[2], sys.argv[2:]))"  # noqa: E501
    hooks.box.run("tee", "/run/impatient.py", stdin=impatient.encode())
    main = str(Path(hook_files.__file__).parents[1] / "hook/main.py")
    path.write_text(
        path.read_text().replace(f"-IS {main}", f"-IS /run/impatient.py {Path(hook_files.__file__).parents[2]}")
    )
    never = (
        f"mkfifo /run/never; sleep 25 >/run/never & {path} a {operation} begin - </run/never; s=$?; kill $!; exit $s"
    )
    begin = time.monotonic()
    done = hooks.box.run("bash", "-c", never)
    assert time.monotonic() - begin < 20
    assert done.returncode == 1
    assert "is the host overloaded? Start again" in done.stderr.decode()


def test_a_guest_without_routes_or_forwards_is_started_by_a_shell(hooks: Hooks) -> None:
    path = hooks.root / "etc/libvirt/hooks/qemu.d/50-guestnet"
    path.write_text(path.read_text().replace("all |", "exit 77; all |"))
    domain = f"<domain>{DOMAIN}</domain>\n"
    assert hooks.call("qemu", "guesta", "started", "begin", domain.encode()) == (0, "")
    for word in STARTED_WORDS:
        assert hooks.call("qemu", "guesta", "started", "begin", f"<!-- {word} -->{domain}".encode()) == (77, "")
    far = f"<domain>{' ' * 70_000}<!-- {STARTED_WORDS[0]} --></domain>".encode()
    assert hooks.call("qemu", "guesta", "started", "begin", far) == (77, ""), "the shell has not seen it all"
    hooks.box.ok("mkdir", "-p", "/run/libvirt-guestnet/forwards")
    hooks.box.ok("touch", "/run/libvirt-guestnet/forwards/vnet0.json")
    assert hooks.call("qemu", "guesta", "started", "begin", domain.encode()) == (77, "")
