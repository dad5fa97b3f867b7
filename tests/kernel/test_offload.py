"""The checksum guard's life: attached and kept in place by the hooks, whatever else is at a tap's tc ingress.

What it lets pass is judged in test_offload_corpus.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.hooks import START, Hooks

ROOT = Path(__file__).parents[2]
DATA = ROOT / "libvirt_guestnet/datapath/data"
PINS = "/sys/fs/bpf/libvirt-guestnet"
NO_BTF = "mount -t tmpfs none /sys/kernel/btf"
MADE_BY = "clang version 14.0.6"
SEEN = """
import json
from libvirt_guestnet.datapath.port import bpf, checksum
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port.bpf import BpfError
from libvirt_guestnet.datapath.netlink.tc import Tc
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
state = UnlockedState()
known, where = offload.program_state(state), {}
taps = [name for name in sorted(links.names()) if name.startswith("vnet")]
with Tc() as tc:
    for tap in taps:
        programs, there = checksum._programs(links.index_of(tap)), []
        there += ["tcx"] if known.loaded and known.loaded.guard in (programs or []) else []
        there += ["tc"] if known.loaded and tc.attached(links.index_of(tap)) == known.loaded.guard else []
        where[tap] = there
program = checksum.opened(known.loaded)
counted = sorted(links.name_of(index) for index in program.drops()) if program else []
print(json.dumps({"where": where, "lost": sorted(offload.lost(state)), "counted": counted, "cannot": known.cannot}))
"""
# As on a kernel without tcx.
BEFORE_TCX = """
import errno
from libvirt_guestnet.datapath.port import bpf
def refuse(ifindex):
    raise bpf.BpfError("programs", errno.EINVAL)
bpf.attached = refuse
"""
CALL = """
from libvirt_guestnet.hook import concern, main
sys.exit(main.run("qemu", ["qemu", "guesta", "start", "begin"]))
"""
ANOTHER = f"""
import os
from libvirt_guestnet.datapath.port import bpf, bpfload
program, table = bpfload.load_one(b"guard_probe")
os.unlink("{PINS}/guard")
bpf.pin(program, "{PINS}/guard")
"""
LOST = (
    "from libvirt_guestnet.hook.enforce import checksum_guard as offload\n"
    "from libvirt_guestnet.state.locked import UnlockedState\nprint(sorted(offload.lost(UnlockedState())))"
)


def python(
    hooks: Hooks, code: str, stdin: bytes = b"", under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    whole = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return hooks.box.run(*under, sys.executable, "-c", whole, stdin=stdin)


def as_the_service() -> tuple[str, ...]:
    """With the capabilities that its unit leaves it."""
    unit = (ROOT / "hooks/libvirt-guestnet.service").read_text()
    kept = unit.split("CapabilityBoundingSet=")[1].splitlines()[0].lower().replace("cap_", "+").split()
    return "setpriv", f"--bounding-set=-all,{','.join(kept)}"


def seen(hooks: Hooks) -> dict[str, Any]:
    done = python(hooks, SEEN)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def start(hooks: Hooks, xml: bytes = START) -> tuple[int, str]:
    return hooks.call("qemu", "guesta", "start", "begin", xml)


def _hooks_run(hooks: Hooks) -> bool:
    return any("hook/main.py" in args for args in hooks.box.processes().values())


def settled(hooks: Hooks) -> dict[str, Any]:
    """What is there when the process that a start or the service leaves behind is done."""
    deadline, notes = time.monotonic() + 240, Path(f"/proc/{hooks.box.pid}/root/run/libvirt-guestnet/settling")
    while (notes.exists() and any(notes.iterdir())) or _hooks_run(hooks):
        assert time.monotonic() < deadline, hooks.box.processes()
        time.sleep(0.1)
    return seen(hooks)


def has_tcx() -> bool:
    major, minor = map(int, Path("/proc/sys/kernel/osrelease").read_text().split(".")[:2])
    return (major, minor) >= (6, 6)


BEST = ["tcx"] if has_tcx() else ["tc"]
BOTH = ["vnet0", "vnet1"]
NOWHERE: dict[str, list[str]] = {"vnet0": [], "vnet1": []}


def test_every_guarded_tap_has_it_from_start_to_release(hooks: Hooks) -> None:
    assert start(hooks) == (0, "")
    now = seen(hooks)
    assert (now["lost"], now["counted"], [bool(where) for where in now["where"].values()]) == ([], BOTH, [True, True])
    assert settled(hooks)["where"] == dict.fromkeys(BOTH, BEST)
    assert start(hooks) == (0, "")  # again, as a repair does
    assert settled(hooks)["where"] == dict.fromkeys(BOTH, BEST)
    hooks.box.ok("ip", "link", "del", "vnet1")
    assert hooks.call("qemu", "guesta", "release", "end", START) == (0, "")
    assert seen(hooks) == {"where": {"vnet0": []}, "lost": [], "counted": [], "cannot": ""}


def test_a_port_that_is_guarded_no_more_loses_it(hooks: Hooks) -> None:
    assert start(hooks) == (0, "")
    settled(hooks)
    trusted = START.replace(b'name="lan1"', b'name="lan1" guarded="no"')
    assert trusted != START
    assert start(hooks, trusted) == (0, "")
    now = settled(hooks)
    assert (now["where"], now["lost"], now["counted"]) == ({"vnet0": [], "vnet1": BEST}, [], ["vnet1"])


@pytest.mark.parametrize("damage", ["nothing pinned", "another program", "the receipt", "an upgrade"])
def test_what_is_pinned_counts_only_while_it_is_ours(hooks: Hooks, damage: str) -> None:
    assert start(hooks) == (0, "")
    settled(hooks)
    if damage == "nothing pinned":
        hooks.box.ok("rm", "-r", PINS)
    elif damage == "another program":
        done = python(hooks, ANOTHER)
        assert done.returncode == 0, done.stderr
    elif damage == "the receipt":
        hooks.box.ok("sh", "-c", "echo damaged >/run/libvirt-guestnet/checksum")
    else:
        hooks.box.ok("sed", "-i", 's/"object": "/&1/', "/run/libvirt-guestnet/checksum")
    assert start(hooks) == (0, "")
    now = settled(hooks)
    assert (now["where"], now["lost"], now["counted"]) == (dict.fromkeys(BOTH, BEST), [], BOTH)
    if damage != "the receipt":  # then nobody knows of the one before, which does no harm
        assert _programs_at(hooks, "vnet0") == 1


_IMPORTS = "from libvirt_guestnet.datapath.netlink import links\nfrom libvirt_guestnet.datapath.port import checksum\n"


def _programs_at(hooks: Hooks, tap: str) -> int:
    count = f"print(len(checksum._programs(links.index_of({tap!r})) or [0]))"
    return int(python(hooks, f"{_IMPORTS}{count}").stdout)


def test_uninstalling_takes_it_off_running_guests_too(hooks: Hooks) -> None:
    assert start(hooks) == (0, "")
    settled(hooks)
    assert python(hooks, "from libvirt_guestnet.hook import live; live.release_all()").returncode == 0
    now = seen(hooks)
    assert (now["where"], now["counted"]) == (NOWHERE, [])
    assert hooks.box.run("ls", PINS).returncode != 0
    assert _programs_at(hooks, "vnet0") <= 1
    left = hooks.box.ok("sh", "-c", "cd /run/libvirt-guestnet; find . -type f ! -name lock ! -name '*.lock'").split()
    assert left in ([], ["./format"])


@pytest.mark.parametrize("loaded", [True, False])
def test_the_service_misses_it_and_a_repair_puts_it_back(hooks: Hooks, loaded: bool) -> None:
    hooks.record("guesta", START)
    assert start(hooks) == (0, "")
    settled(hooks)
    imports = (
        f"{_IMPORTS}from libvirt_guestnet.hook.enforce import checksum_guard as offload\n"
        "from libvirt_guestnet.hook.services import watch\nfrom libvirt_guestnet.state.locked import UnlockedState\n"
    )
    detach = "checksum.detach(links.index_of('vnet0'), offload.program_state(UnlockedState()).loaded)"
    assert python(hooks, imports + detach).returncode == 0
    if not loaded:
        hooks.box.ok("rm", "-r", PINS)
    look = "print(watch.lost(UnlockedState()).ports)\nwatch._Watch().look()"
    done = python(hooks, imports + look, under=as_the_service())
    assert done.stdout == b"{'vnet0': 'guesta'}\n", done.stderr
    assert settled(hooks)["where"] == dict.fromkeys(BOTH, BEST)


@pytest.mark.parametrize("qdisc", ["ingress", "clsact"])
def test_it_shares_tc_ingress_with_what_is_there(hooks: Hooks, qdisc: str) -> None:
    hooks.box.ok("tc", "qdisc", "add", "dev", "vnet0", qdisc)
    theirs = "protocol all u32 match u32 0 0 flowid :1"
    parent = ["parent", "ffff:"] if qdisc == "ingress" else ["ingress"]
    hooks.box.ok("tc", "filter", "add", "dev", "vnet0", *parent, *theirs.split())
    done = python(hooks, BEFORE_TCX + CALL, START)
    assert (done.returncode, done.stderr) == (0, b"")
    listed = hooks.box.ok("tc", "filter", "show", "dev", "vnet0", "ingress")
    assert "pref 1 bpf" in listed
    assert listed.index("pref 1 bpf") < listed.index("u32")
    # And libvirt as it comes later: it deletes and adds what it wants, and needs that to succeed.
    if qdisc == "ingress":
        for words in ("del dev vnet0 ingress", "add dev vnet0 ingress"):
            hooks.box.ok("tc", "qdisc", *words.split())
        done = python(hooks, BEFORE_TCX + LOST)
        assert done.stdout == b"['vnet0']\n", done.stderr
    for words in ("del dev vnet1 ingress", "add dev vnet1 ingress"):  # where our own was
        hooks.box.ok("tc", "qdisc", *words.split())


def test_a_start_that_cannot_have_it_though_the_kernel_can_is_vetoed(hooks: Hooks) -> None:
    hooks.box.ok("tc", "qdisc", "add", "dev", "vnet0", "ingress")
    hooks.box.ok(
        "tc",
        "filter",
        "add",
        "dev",
        "vnet0",
        "parent",
        "ffff:",
        *["pref", "1", "protocol", "all", "u32", "match", "u32", "0", "0", "flowid", ":1"],
    )
    done = python(hooks, BEFORE_TCX + CALL, START)
    assert done.returncode == 1
    assert b"the checksum guard cannot be put in place: the kernel refused a filter at tc ingress" in done.stderr
    assert hooks.chains() == BOTH, "a running guest that is repaired keeps its chains"
    if has_tcx():  # somebody else's filter is no hindrance there
        assert start(hooks) == (0, "")
        assert settled(hooks)["where"] == dict.fromkeys(BOTH, BEST)


def test_a_host_without_btf_says_so_and_refuses_whom_it_must(hooks: Hooks) -> None:
    hooks.box.ok("sh", "-c", NO_BTF)
    assert start(hooks) == (0, "")
    now = seen(hooks)
    assert (now["where"], now["lost"]) == (NOWHERE, [])
    assert "CONFIG_DEBUG_INFO_BTF" in now["cannot"]
    status, said = start(hooks, START.replace(b'name="vlan1"', b'name="vlan1" offload="refuse"'))
    assert status == 1
    assert "52:54:00:61:0a:01: this host cannot guard checksum offload: the kernel does not describe its types" in said
    assert hooks.call("qemu", "guesta", "release", "end", START) == (0, "")
    assert hooks.chains() == []


def test_no_domain_lowers_what_its_network_insists_on(hooks: Hooks) -> None:
    hooks.box.ok("sh", "-c", NO_BTF)
    marked = (
        "<hookData><network><name>vlan1</name><bridge name='virbr1'/><metadata><g:network "
        "xmlns:g='https://libvirt-guestnet.org/xmlns/1' topology='t' name='vlan1' offload='refuse'/></metadata>"
        "</network></hookData>"
    )
    assert hooks.call("network", "vlan1", "started", "begin", marked.encode()) == (0, "")
    assert start(hooks)[0] == 1


OBJECTS = ("guard_cast.o", "guard_probe.o")


@pytest.mark.parametrize("name", OBJECTS)
def test_the_objects_are_made_from_the_source(name: str) -> None:
    source, built = (DATA / "checksum_guard.c").read_bytes(), (DATA / name).read_bytes()
    assert hashlib.sha256(source).hexdigest().encode() in built


@pytest.mark.parametrize(("name", "calls"), [("guard_cast.o", 0), ("guard_probe.o", 2)])
def test_fields_of_the_kernels_are_read_at_once(name: str, calls: int) -> None:
    """A call of bpf_probe_read_kernel takes five times as long as the rest of the program."""
    call = bytes.fromhex("85000000") + (113).to_bytes(4, "little")
    assert (DATA / name).read_bytes().count(call) == calls


def test_the_objects_are_made_again_byte_by_byte(tmp_path: Path) -> None:
    """By the compiler that made them, Debian 12's; another's have only to be ones that the kernel takes."""
    clang = shutil.which("clang-14") or "clang"
    strip = shutil.which("llvm-strip-14") or "llvm-strip"
    version = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout
    environment = {"PATH": "/usr/bin:/bin", "CLANG": clang, "STRIP": strip}
    subprocess.run([ROOT / "scripts/make-bpf", tmp_path], check=True, env=environment)
    if MADE_BY in version:
        assert [(tmp_path / name).read_bytes() for name in OBJECTS] == [(DATA / name).read_bytes() for name in OBJECTS]
    code = f"""
from libvirt_guestnet.datapath.port import bpfload
bpfload.OBJECTS = {str(tmp_path)!r}
print(bpfload.load_one(b"guard_probe"))
"""
    argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.startswith("("), done.stderr
