"""virt-install and virt-xml, as people use them, on networks that are adopted, that are guestnet's and of which nobody
spoke: what they make and change is guarded as it is declared, seen, and kept as they wrote it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adopted_host import DEFAULT, Host

from libvirt_guestnet.sandbox import Sandbox

HOST_YAML = "/etc/libvirt-guestnet/host.yaml"
WEB, LAN, LATE, OWN = (f"52:54:00:aa:00:{number:02}" for number in range(1, 5))
TOPOLOGY = f"""
name: mine
networks:
  default: {{ external: true }}
  inner: {{ mode: nat, subnets: [10.61.7.0/24], dhcp: {{}} }}
guests:
  web: {{ ports: [ {{ network: default, mac: "{WEB}" }} ] }}
"""


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    each_sandbox.run(["ip", "link", "add", "br0", "up", "type", "bridge"])
    made.define("net-define", DEFAULT)
    made.virsh("net-start", "default")
    yield made
    for topology in ("mine", "direct"):
        made.guestnet("destroy", "--name", topology, "--allow-interrupt", status=None)
    made.sandbox.run(["rm", "-f", HOST_YAML])
    made.guestnet("hooks", "sync")
    made.clear()
    each_sandbox.run(["ip", "link", "del", "br0"])


def client(host: Host, program: str, *words: str) -> None:
    """Debian 12's own, which speaks with the sandbox's daemon, of whatever version."""
    argv = [f"/usr/bin/{program}", "--connect", str(host.sandbox.uri), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def install(host: Host, name: str, *nics: str) -> None:
    """A guest that has nothing to boot, and needs no more than that."""
    client(
        host,
        "virt-install",
        *(
            "--name",
            name,
            "--memory",
            "32",
            "--virt-type",
            "qemu",
            "--import",
            "--machine",
            "pc",
            "--disk",
            "none",
            "--graphics",
            "none",
        ),
        *(
            "--osinfo",
            "detect=off,require=off",
            "--noautoconsole",
            "--console",
            "none",
            "--controller",
            "usb,model=none",
        ),
        *(word for nic in nics for word in ("--network", nic)),
    )


def edit(host: Host, name: str, *words: str) -> None:
    client(host, "virt-xml", name, *words, "--update")


def states(host: Host) -> dict[str, str]:
    rows = json.loads(host.guestnet("status", "--json", status=None))
    return {row["mac"]: row["state"] for row in rows if row["kind"] == "port"}


def test_what_virt_install_makes_is_guarded_as_its_network_and_this_host_say(host: Host) -> None:
    install(host, "before", f"network=default,model=virtio,mac={WEB}")
    assert states(host) == {WEB: "unguarded"}
    host.guestnet("guard", "observe", "default")
    install(host, "after", f"network=default,model=e1000,mac={LATE}", f"bridge=br0,model=virtio,mac={LAN}")
    assert states(host) == {WEB: "observed", LATE: "observed", LAN: "unguarded"}
    host.guestnet("destroy", "--name", "direct")
    host.sandbox.run(["mkdir", "-p", str(Path(HOST_YAML).parent)])
    host.sandbox.run(["tee", HOST_YAML], stdin="guard: all\n")
    host.guestnet("hooks", "sync")
    assert set(states(host).values()) == {"guarded"}
    install(host, "last", f"bridge=br0,model=virtio,mac={OWN}")
    assert states(host)[OWN] == "guarded"
    assert OWN in host.macs()


def test_an_import_of_what_virt_install_wrote_is_adopted_and_given_back_whole(host: Host) -> None:
    install(host, "web", f"network=default,model=virtio,mac={WEB}", f"bridge=br0,model=virtio,mac={LAN}")
    before = host.texts()
    assert "libosinfo" in before["domain web"] or "<metadata" not in before["domain web"]
    text = host.guestnet("import").rpartition("imported: ")[0]
    host.guestnet("apply", "/tmp/mine.yaml", topology=text)
    assert states(host) == {WEB: "observed", LAN: "observed"}
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
    host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
    assert [line for line in host.differences(before) if not line.endswith("+  <metadata/>")] == []


def test_virt_xml_plugs_changes_and_unplugs_nics_and_keeps_our_metadata(host: Host) -> None:
    install(host, "web", f"network=default,model=virtio,mac={WEB}")
    host.guestnet("apply", "/tmp/mine.yaml", topology=TOPOLOGY)
    assert states(host) == {WEB: "guarded"}
    ours = policies(host)
    # On a network of guestnet's: running and defined, in one go.
    edit(host, "web", "--add-device", "--network", f"network=inner,model=virtio,mac={LATE}")
    host.soon(lambda: LATE in host.macs(), "what is plugged in is guarded by its network")
    assert states(host) == {WEB: "guarded", LATE: "guarded"}
    # On a bridge of the host's that nobody speaks of.
    edit(host, "web", "--add-device", "--network", f"bridge=br0,model=virtio,mac={LAN}")
    assert states(host)[LAN] == "unguarded"
    edit(host, "web", "--edit", f"mac={WEB}", "--network", "link.state=down")
    assert link_of(host, WEB) == "down"
    edit(host, "web", "--edit", f"mac={WEB}", "--network", "link.state=up")
    edit(host, "web", "--edit", f"mac={LATE}", "--network", "network=default")
    host.soon(lambda: LATE not in host.macs(), "on the adopted network only the file's ports are guarded")
    assert policies(host) == ours, "what is declared of it stays"
    assert host.guarded() == {host.tap("web", WEB): WEB}
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=TOPOLOGY)
    for address in (LATE, LAN):
        client(host, "virt-xml", "web", "--remove-device", "--network", f"mac={address}")  # of the definition
        host.unplug("web", address) if address == LATE else unplug_bridge(host, address)
    host.soon(lambda: set(states(host)) == {WEB}, "they are gone")
    assert host.files("ports").keys() == {host.tap("web", WEB)}
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=TOPOLOGY)


def unplug_bridge(host: Host, address: str) -> None:
    host.virsh("detach-interface", "web", "bridge", "--mac", address, "--live")
    host.virsh("reset", "web")


def policies(host: Host) -> list[str]:
    """Our metadata in the running guest and in its definition, which clients indent as they like."""
    found = [host.virsh("dumpxml", *kind, "web") for kind in ((), ("--inactive",))]
    whole = ["".join(re.findall(r"<guestnet:domain .*?</guestnet:domain>", each, re.S)) for each in found]
    return [re.sub(r">\s+<", "><", each) for each in whole]


def link_of(host: Host, address: str) -> str:
    return host.virsh("domif-getlink", "web", address).split()[-1]
