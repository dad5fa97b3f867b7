"""Public networks on a real libvirtd, as people wrote them: imported as guestnet's own, made again, and as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet.sandbox import Sandbox, python_inside

FOLDER = Path(__file__).parents[1] / "data/networks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    each_sandbox.run(["mkdir", "-p", "/run/tftpboot"])  # the host's own folders are not the sandbox's to write to
    return each_sandbox


def guestnet(sandbox: Sandbox, *words: str, status: int = 0) -> str:
    argv = python_inside(["-m", "libvirt_guestnet.cli", *words], sandbox.root)
    done = sandbox.run(argv, check=False, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_public_network_is_taken_over(sandbox: Sandbox, name: str) -> None:
    found = (FOLDER / f"{name}.found.xml").read_text().replace("/var/lib/tftpboot", "/run/tftpboot")
    network = etree.fromstring(found.encode()).findtext("name") or ""
    file = f"/tmp/{name}.yaml"
    sandbox.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=found)
    sandbox.run(["tee", file], stdin=guestnet(sandbox, "import", "--own", "--name", name, network))
    sandbox.run(["virsh", "-q", "net-undefine", network])
    try:
        guestnet(sandbox, "apply", file)
        assert guestnet(sandbox, "plan", file) == "nothing to do\n"
    finally:
        guestnet(sandbox, "destroy", file)
