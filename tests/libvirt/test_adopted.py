"""Networks and NICs that were there before guestnet, on a real libvirtd: guarded while they run, and given back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
from support.libvirt_host import DOMAIN, Guests, uuid
from support.sandboxes import HERE, LIBVIRTS, install_hooks

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.libvirt

# As libvirt's package has it.
DEFAULT = """<network><name>default</name><bridge name='virbr0'/><forward/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
</ip></network>"""
# As virt-install writes it, but for the operating system.
METADATA = """<libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
<libosinfo:os id="http://debian.org/debian/12"/></libosinfo:libosinfo>"""
NIC = """<interface type='network'><mac address='{mac}'/><source network='{network}'{more}/><model type='rtl8139'/>
<boot order='1'/><alias name='ua-wan'/><coalesce><rx><frames max='7'/></rx></coalesce><rom enabled='no'/></interface>"""
WEB, OTHER = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
ADOPT = """
name: mine
networks: { default: { external: true } }
guests: { web: { ports: [ { network: default } ] } }
"""


class Host(Guests):
    """A sandbox in which `guestnet` itself is run."""

    sandbox: Sandbox

    def guestnet(self, *words: str, topology: str = ADOPT, status: int | None = 0) -> str:
        self.sandbox.run(["tee", "/tmp/mine.yaml"], stdin=topology)
        argv = python_inside(["-m", "libvirt_guestnet.cli", *words], self.sandbox.root)
        done = self.sandbox.run(argv, check=False, timeout=240)
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, said
        return said

    def domain(self, name: str, *nics: str, number: int = 1, metadata: str = METADATA) -> None:
        self.define("define", DOMAIN.format(name=name, uuid=uuid(number), policy=metadata, nics="".join(nics)))

    def texts(self) -> dict[str, str]:
        """What libvirt says of everything, live and inactive."""
        found = {}
        for kind, listed, dump in (("network", "net-list", "net-dumpxml"), ("domain", "list", "dumpxml")):
            for name in self.virsh(listed, "--all", "--name").splitlines():
                if name.strip():
                    found[f"{kind} {name} live"] = self.virsh(dump, name)
                    found[f"{kind} {name}"] = self.virsh(dump, "--inactive", name)
        return found

    def tap(self, name: str, address: str) -> str:
        return next(tap for tap, mac in self.nics(name).items() if mac == address)


@pytest.fixture(scope="module", params=LIBVIRTS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    found: Sandbox = request.getfixturevalue("hooked_sandbox" if request.param == HERE else "trixie_sandbox")
    return found


@pytest.fixture
def host(sandbox: Sandbox) -> Iterator[Host]:
    made = Host(sandbox)
    yield made
    made.guestnet("destroy", "--name", "mine", status=None)
    for name in made.running():
        made.virsh("destroy", name)
    for name in made.virsh("list", "--all", "--name").split("\n"):
        if name:
            made.virsh("undefine", name)
    for name in made.virsh("net-list", "--all", "--name").split("\n"):
        if name.strip():
            made.virsh("net-destroy", name.strip(), check=False)
            made.virsh("net-undefine", name.strip())


def test_a_running_guest_on_libvirts_default_network_is_guarded_and_given_back(host: Host) -> None:
    host.define("net-define", DEFAULT)
    host.virsh("net-start", "default")
    host.domain("web", NIC.format(mac=WEB, network="default", more=""))
    host.domain("other", NIC.format(mac=OTHER, network="default", more=""), number=2)
    host.virsh("start", "web")
    host.virsh("start", "other")
    before = host.texts()
    tap = host.tap("web", WEB)
    assert host.guestnet("plan", "/tmp/mine.yaml", status=3)
    print(host.guestnet("apply", "/tmp/mine.yaml"))
    assert host.guarded() == {tap: WEB}
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml")
    status = host.guestnet("status")
    assert re.search(r"default +nat", status), status
    assert tap in status
    print(host.guestnet("destroy", "/tmp/mine.yaml"))
    assert host.guarded() == {}
    assert host.texts() == before
