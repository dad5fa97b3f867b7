"""libvirt's own port filter, clean-traffic, on many taps."""

from __future__ import annotations

import re
import subprocess
import time

import libvirt
import taps

FILTER = "clean-traffic"

_BINDING = """<filterbinding>
  <owner><name>guest{port}</name><uuid>00000000-0000-4000-8000-{port:012x}</uuid></owner>
  <portdev name='{tap}'/>
  <mac address='{mac}'/>
  <filterref filter='{filter}'><parameter name='IP' value='{ip}'/></filterref>
</filterbinding>"""

_DOMAIN = """<domain type='qemu'>
  <name>nwfilter</name><memory unit='MiB'>8</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='br0'/><target dev='{tap}'/><model type='rtl8139'/>
      <filterref filter='{filter}'><parameter name='IP' value='{ip}'/></filterref>
    </interface>
    <memballoon model='none'/>
  </devices>
</domain>"""


def _values(port: int, tap: str) -> dict[str, str]:
    return {"tap": tap, "mac": taps.mac(port).hex(":"), "ip": str(taps.ip4(port)), "filter": FILTER}


def bind(connection: libvirt.virConnect, port: int) -> float:
    """Lets libvirt filter a guest's tap; returns the seconds it took."""
    started = time.perf_counter()
    connection.nwfilterBindingCreateXML(_BINDING.format(port=port, **_values(port, taps.tap_name(port))), 0)
    return time.perf_counter() - started


def check_same_as_domain(connection: libvirt.virConnect, namespace: int) -> None:
    """Fails unless a real domain's NIC gets the rules that `bind` gets for port 0, which must be bound."""
    domain = connection.createXML(_DOMAIN.format(**_values(0, "tdom")), 0)
    try:
        saved = _saved(namespace)
    finally:
        domain.destroy()
    bound, real = ({_renamed(rule, tap, "t0") for rule in _of(saved, tap)} for tap in ("t0", "tdom"))
    if not bound or bound != real:
        raise SystemExit(f"a domain's rules are not those of a binding: {sorted(bound ^ real)}")


def copy(namespace: int, ports: range) -> None:
    """Gives ports the rules that libvirt gave port 0, each with its own names and addresses, in one go: libvirt
    itself needs a second for each."""
    saved = _saved(namespace)
    model = _of(saved, "t0")
    head = [line for line in saved if line.startswith(":")]
    rules = [line for line in saved if line.startswith("-A")]
    for port in ports:
        mine = [_for_port(line, port) for line in model]
        head += [line for line in mine if line.startswith(":")]
        rules += [line for line in mine if line.startswith("-A")]
    text = "\n".join(["*nat", *head, *rules, "COMMIT", ""])
    with taps.inside(namespace):
        subprocess.run(["ebtables-restore"], input=text.encode(), check=True, timeout=300)


def rules(namespace: int) -> int:
    """How many rules there are."""
    return sum(line.startswith("-A") for line in _saved(namespace))


def _saved(namespace: int) -> list[str]:
    with taps.inside(namespace):
        done = subprocess.run(["ebtables-save"], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.split("*nat\n")[1].splitlines()


def _of(saved: list[str], tap: str) -> list[str]:
    return [line for line in saved if re.search(rf"\b{tap}\b", line)]


def _renamed(line: str, old: str, new: str) -> str:
    return re.sub(rf"\b{old}\b", new, line)


def _for_port(line: str, port: int) -> str:
    line = _renamed(line, "t0", taps.tap_name(port))
    line = line.replace(taps.mac(0).hex(":"), taps.mac(port).hex(":"))
    return re.sub(rf"\b{re.escape(str(taps.ip4(0)))}\b", str(taps.ip4(port)), line)
