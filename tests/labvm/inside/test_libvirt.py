"""Our hooks under libvirt on Debian's own kernel."""

from __future__ import annotations

import subprocess

import pytest

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.only("bookworm")  # minutes each: test_bridge_guard_libvirt.py is the other one's

NET = """
name: lab
networks:
  one: {mode: nat, subnets: [10.61.1.0/24], dhcp: {}}
guests:
  a: {ports: [{network: one}]}
"""
# Nothing boots in it; its NIC is there all the same.
EMPTY = """<domain type='qemu'><name>a</name><memory unit='MiB'>8</memory><os><type machine='pc'>hvm</type></os>
<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
PORT_LIMITED = NET.replace("{network: one}", "{network: one, bandwidth: {inbound: {average: 1000}}}")
PORT_WIDENED = PORT_LIMITED.replace("1000", "2000")
NETWORK_LIMITED = NET.replace("dhcp: {}", "dhcp: {}, bandwidth: {inbound: {average: 3000}}")


@pytest.fixture(scope="module")
def host(hooked_sandbox: Sandbox) -> Sandbox:
    write(hooked_sandbox, "/tmp/a.xml", EMPTY)
    hooked_sandbox.run(["virsh", "define", "/tmp/a.xml"])
    return hooked_sandbox


def write(host: Sandbox, path: str, text: str) -> None:
    host.run(["tee", path], stdin=text)


def guestnet(host: Sandbox, verb: str, topology: str, *options: str) -> subprocess.CompletedProcess[str]:
    write(host, "/tmp/net.yaml", topology)
    argv = python_inside(["-m", "libvirt_guestnet.cli", verb, "/tmp/net.yaml", *options])
    return host.run(argv, timeout=480)


def test_a_guest_starts_guarded_and_is_limited_while_it_runs(host: Sandbox) -> None:
    guestnet(host, "apply", PORT_LIMITED)
    host.run(["virsh", "start", "a"])
    assert guarded(host)
    assert "rate 8Mbit" in classes(host, tap(host))
    guestnet(host, "apply", PORT_WIDENED)
    assert "rate 16Mbit" in classes(host, tap(host))


def test_a_networks_limit_interrupts_its_guests_and_says_so(host: Sandbox) -> None:
    applied = guestnet(host, "apply", NETWORK_LIMITED, "--allow-interrupt")
    assert "restart network one (interrupts a): bandwidth" in applied.stdout
    assert "rate 24Mbit" in classes(host, "gn-one")
    assert guarded(host)


def guarded(host: Sandbox) -> bool:
    return f'hook ingress device "{tap(host)}"' in host.run(["nft", "list", "ruleset"]).stdout


def tap(host: Sandbox) -> str:
    return host.run(["virsh", "domiflist", "a"]).stdout.splitlines()[2].split()[0]


def classes(host: Sandbox, device: str) -> str:
    return host.run(["tc", "class", "show", "dev", device]).stdout
