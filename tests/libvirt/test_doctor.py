"""`guestnet doctor` on a real host: it names the chain that cuts guests off, and is content once that lets them be."""

from __future__ import annotations

import json

from libvirt_guestnet.sandbox import Sandbox, python_inside

NETWORK = """<network><name>web</name><metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1"
  topology="t" name="web"/></metadata><forward mode="nat"/><bridge name="br-web"/>
  <ip address="10.61.1.1" netmask="255.255.255.0"/></network>"""
OWN = "add table inet mine; add chain inet mine c { type filter hook forward priority 5; policy drop; }"


def doctor(sandbox: Sandbox) -> tuple[int, list[dict[str, str]]]:
    done = sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "doctor", "--json"]), check=False)
    return done.returncode, [row for row in json.loads(done.stdout) if row["level"] == "must"]


def test_a_chain_that_nothing_may_overrule_is_named_until_it_lets_guests_pass(hooked_sandbox: Sandbox) -> None:
    # Where br_netfilter is loaded, the chain would cut neighbours off as well.
    off = "for each in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $each ] || echo 0 > $each; done"
    hooked_sandbox.run(["sh", "-c", off])
    assert doctor(hooked_sandbox) == (0, [])
    hooked_sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
    before = hooked_sandbox.run(["nft", "-s", "list", "ruleset"]).stdout
    assert doctor(hooked_sandbox) == (0, [])
    assert hooked_sandbox.run(["nft", "-s", "list", "ruleset"]).stdout == before
    hooked_sandbox.run(["nft", OWN])
    status, rows = doctor(hooked_sandbox)
    assert (status, [(row["check"], row["about"]) for row in rows]) == (1, [("firewall", "inet mine c")])
    assert "its policy is drop" in rows[0]["found"] and "guests of web cannot get out" in rows[0]["found"]
    for key in ("iifname", "oifname"):
        rule = f'{key} "br-web" accept'
        assert rule in rows[0]["do"]
        hooked_sandbox.run(["nft", "insert", "rule", *rows[0]["about"].split(), rule])
    assert doctor(hooked_sandbox) == (0, [])


def test_a_port_that_nobody_guards(hooked_sandbox: Sandbox) -> None:
    hooked_sandbox.run(["ip", "link", "add", "stray0", "master", "br-web", "type", "veth"])
    status, [row] = doctor(hooked_sandbox)
    assert (status, row["check"], row["about"]) == (1, "ports", "stray0")
    hooked_sandbox.run(["ip", "link", "del", "stray0"])
    assert doctor(hooked_sandbox) == (0, [])


def test_others_than_root_see_what_they_may(hooked_sandbox: Sandbox) -> None:
    argv = python_inside(["-m", "libvirt_guestnet.cli", "doctor"])
    done = hooked_sandbox.run(["setpriv", "--reuid", "1000", "--clear-groups", *argv], check=False)
    assert "NOTE: firewall: only root can see the host's rules" in done.stdout, done.stderr
