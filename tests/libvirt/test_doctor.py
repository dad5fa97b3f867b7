"""`guestnet doctor` on a real host: it names the chain that cuts guests off, and is content once that lets them be."""

from __future__ import annotations

import json

import pytest

from libvirt_guestnet.sandbox import Sandbox, python_inside

NETWORK = """<network><name>web</name><metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1"
  topology="t" name="web"/></metadata><forward mode="nat"/><bridge name="br-web"/>
  <ip address="10.61.1.1" netmask="255.255.255.0"/></network>"""
OWN = "add table inet mine; add chain inet mine c { type filter hook forward priority 5; policy drop; }"


def doctor(sandbox: Sandbox) -> tuple[int, list[dict[str, str]]]:
    done = sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "doctor", "--json"]), check=False)
    return done.returncode, [row for row in json.loads(done.stdout) if row["level"] == "must"]


@pytest.fixture(scope="module")
def host(hooked_sandbox: Sandbox) -> Sandbox:
    """With the network `web`."""
    hooked_sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
    return hooked_sandbox


def test_a_chain_that_nothing_may_overrule_is_named_until_it_lets_guests_pass(host: Sandbox) -> None:
    # Where br_netfilter is loaded, the chain would cut neighbours off as well.
    off = "for each in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $each ] || echo 0 > $each; done"
    host.run(["sh", "-c", off])
    before = host.run(["nft", "-s", "list", "ruleset"]).stdout
    assert doctor(host) == (0, [])
    assert host.run(["nft", "-s", "list", "ruleset"]).stdout == before
    host.run(["nft", OWN])
    status, rows = doctor(host)
    assert (status, [(row["check"], row["about"]) for row in rows]) == (1, [("firewall", "inet mine c")])
    assert "its policy is drop" in rows[0]["found"] and "guests of web cannot get out" in rows[0]["found"]
    for key in ("iifname", "oifname"):
        rule = f'{key} "br-web" accept'
        assert rule in rows[0]["do"]
        host.run(["nft", "insert", "rule", *rows[0]["about"].split(), rule])
    assert doctor(host) == (0, [])


def test_a_port_that_nobody_guards(host: Sandbox) -> None:
    host.run(["ip", "link", "add", "stray0", "master", "br-web", "type", "veth"])
    status, [row] = doctor(host)
    assert (status, row["check"], row["about"]) == (1, "ports", "stray0")
    host.run(["ip", "link", "del", "stray0"])
    assert doctor(host) == (0, [])


def test_what_import_cannot_write_has_the_same_reason_here(host: Sandbox) -> None:
    outside = "<network><name>outside</name><forward mode='bridge'><interface dev='lo'/></forward></network>"
    host.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=outside)
    said = host.run(python_inside(["-m", "libvirt_guestnet.cli", "doctor", "--json"])).stdout
    found = [row for row in json.loads(said) if row["check"] == "import"]
    assert [(row["about"], row["level"]) for row in found] == [("network 'outside'", "note")], "web is in a topology"
    done = host.run(python_inside(["-m", "libvirt_guestnet.cli", "import"]), check=False)
    reason = found[0]["found"].removeprefix("`guestnet import` leaves it out: ")
    assert f"network 'outside': {reason}\n" in done.stderr
    host.run(["virsh", "-q", "net-undefine", "outside"])
    assert doctor(host) == (0, [])


def test_others_than_root_see_what_they_may(hooked_sandbox: Sandbox) -> None:
    argv = python_inside(["-m", "libvirt_guestnet.cli", "doctor"])
    # The library and its Python may lie where nobody else can look.
    reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    done = hooked_sandbox.run(["setpriv", "--reuid", "1000", "--clear-groups", *reads, *argv], check=False)
    assert "NOTE: firewall: only root can see the host's rules" in done.stdout, done.stderr
