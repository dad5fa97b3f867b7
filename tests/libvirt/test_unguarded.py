"""On a real daemon, NICs that cannot be guarded: shown, refused where somebody insists, no harm to their neighbours;
and NICs whose plug helper gave up or was killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.libvirt_host import DOMAIN, MARK, NIC, XMLNS, Host, mac, uuid
from support.own_programs import watching

from libvirt_guestnet.sandbox import Sandbox, python_inside

# Two lines: libvirt makes a bridge for the first network; the second hands out macvtap devices.
INSISTS = """<network><name>insists</name><metadata><g:network {xmlns} topology="t" name="insists" guarded="required">
<g:subnet prefix="10.61.9.0/24"/></g:network></metadata><bridge name='br-insists'/>
<ip address='10.61.9.1' netmask='255.255.255.0'/></network>"""
MACVTAP = """<network><name>{name}</name>{mark}<forward mode='{mode}'><interface dev='up0'/></forward></network>"""
OTHERS = {
    "user": "<interface type='user'>{}</interface>",
    "direct": "<interface type='direct'><source dev='up0' mode='private'/>{}</interface>",
    "udp": "<interface type='udp'><source address='127.0.0.1' port='11115'>"
    "<local address='127.0.0.1' port='11116'/></source>{}</interface>",
}
INSIDE = "<mac address='{}'/><model type='rtl8139'/><rom enabled='no'/>"
POLICY = (
    f'<g:domain {XMLNS} topology="t" guest="a"><g:port mac="{mac(1, 0)}" name="p" network="insists" {{}}/></g:domain>'
)


# In the place of udev, which makes the character device of a macvtap device; libvirt waits 0.2 s for that.
UDEV = """
import glob, os, time
while True:
    for path in glob.glob("/sys/class/net/*/tap*/dev"):
        node = "/dev/" + path.split("/")[-2]
        try:
            device = os.makedev(*map(int, open(path).read().split(":")))
            if not (os.path.exists(node) and os.stat(node).st_rdev == device):
                os.path.exists(node) and os.unlink(node)
                os.mknod(node, 0o20600, device)
        except OSError:
            pass
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def shared(hooked_sandbox: Sandbox) -> Iterator[Host]:
    udev = subprocess.Popen(hooked_sandbox.command(["python3", "-c", UDEV]))
    try:
        yield prepared(hooked_sandbox)
    finally:
        udev.terminate()
        udev.wait()


def prepared(sandbox: Sandbox) -> Host:
    host = Host(sandbox)
    host.networks()
    host.sandbox.run(
        ["sh", "-c", "ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up"]
    )
    host.define("net-define", INSISTS.format(xmlns=XMLNS))
    host.virsh("net-start", "insists")
    return host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    yield shared
    for name in shared.running():
        shared.virsh("destroy", name)
    for name in shared.virsh("list", "--all", "--name").split():
        shared.virsh("undefine", name)
    assert (shared.guarded(), shared.files("ports"), shared.files("plugging")) == ({}, {}, {})
    shared.soon(lambda: shared.helpers() == [], "no process is left")


def cli(host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
    return host.sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", *argv], host.sandbox.root), check=False)


def guestnet(host: Host, *argv: str) -> list[dict[str, Any]]:
    done = cli(host, *argv, "--json")
    return json.loads(done.stdout) if done.stdout else []


def unguarded(host: Host) -> dict[tuple[str, str], dict[str, Any]]:
    """By domain and type, what status says of NICs that nothing guards."""
    return {(row["guest"], row["type"]): row for row in guestnet(host, "status") if row["kind"] == "unguarded"}


def defined(host: Host, name: str, *nics: str, number: int = 1, policy: str = "") -> None:
    host.define("define", DOMAIN.format(name=name, uuid=uuid(number), policy=policy, nics="".join(nics)))


def other(kind: str, nic: int, number: int = 1) -> str:
    return OTHERS[kind].format(INSIDE.format(mac(number, nic)))


@contextmanager
def asked(host: Host, setting: str) -> Iterator[None]:
    """With this in host.yaml, and the hooks told of it."""
    file = "/etc/libvirt-guestnet/host.yaml"
    host.sandbox.run(["sh", "-c", f"mkdir -p ${{0%/*}} && cat > {file}", file], stdin=setting)
    cli(host, "hooks", "sync")
    try:
        yield
    finally:
        host.sandbox.run(["rm", file])
        cli(host, "hooks", "sync")


def test_what_cannot_be_guarded_is_shown_for_every_domain(host: Host) -> None:
    nics = [other(kind, nic) for nic, kind in enumerate(OTHERS, start=1)]
    defined(host, "a", NIC.format(network="one", mac=mac(1, 0)), *nics)
    host.virsh("start", "a")
    found = unguarded(host)
    assert set(found) == {("a", "user"), ("a", "direct private"), ("a", "udp")}
    row = found["a", "direct private"]
    assert (row["mac"], row["topology"], row["refused"]) == (mac(1, 2), "", False)
    assert "macvtap" in row["reason"] and "mode bridge" in row["instead"]
    rows = {row["about"]: row for row in guestnet(host, "doctor") if row["check"] == "ports"}
    assert {f"a {mac(1, nic)}": "note" for nic in (1, 2, 3)} == {about: row["level"] for about, row in rows.items()}
    text = cli(host, "status").stdout
    assert all(mac(1, nic) in text for nic in (1, 2, 3))
    assert len(host.guarded()) == 1


def test_a_network_that_insists_is_not_lowered(host: Host) -> None:
    nic = NIC.format(network="insists", mac=mac(1, 0))
    defined(host, "a", nic, policy=POLICY.format('guarded="no"'))
    refusal = host.virsh("start", "a", check=False)
    assert f"interface {mac(1, 0)}: network 'insists' insists on guarded ports, and the domain's metadata" in refusal
    # Nor by naming its bridge.
    defined(host, "a", nic.replace("'network'", "'bridge'").replace("network=", "bridge=").replace("insists", "br-insists"), policy=POLICY.format('guarded="no"'))  # fmt: skip  # noqa: E501
    assert "network 'insists' insists" in host.virsh("start", "a", check=False)
    defined(host, "a", nic, policy=POLICY.format('guarded="yes"'))
    host.virsh("start", "a")
    assert list(host.guarded().values()) == [mac(1, 0)]


def test_a_network_that_insists_is_not_lowered_by_hot_plug(host: Host) -> None:
    defined(host, "a", policy=POLICY.format('guarded="no"'))
    host.virsh("start", "a")
    refusal = host.virsh("attach-interface", "a", "network", "insists", "--mac", mac(1, 0), "--live", check=False)
    assert "network 'insists' insists on guarded ports" in refusal
    host.virsh("attach-interface", "a", "network", "insists", "--mac", mac(1, 1), "--live")
    host.soon(lambda: mac(1, 1) in host.guarded().values() and not host.files("plugging"), "another NIC is plugged")


def test_metadata_lowered_while_the_guest_runs_lowers_nothing(host: Host) -> None:
    defined(host, "a", NIC.format(network="insists", mac=mac(1, 0)))
    host.virsh("start", "a")
    before = host.guarded()
    lowered = POLICY.format('guarded="no"').replace(f" {XMLNS}", "").replace("g:", "")
    host.virsh("metadata", "a", XMLNS.split('"')[1], "--live", "--key", "g", "--set", lowered)
    cli(host, "hooks", "sync")
    assert host.guarded() == before


@pytest.mark.parametrize("mode", ["private", "vepa", "passthrough", "bridge"])
def test_a_network_that_insists_and_gives_no_taps_does_not_start(host: Host, mode: str) -> None:
    mark = f"<metadata>{MARK}</metadata>".format(name="vtap", number=8)
    insists = mark.replace('topology="t"', 'topology="t" guarded="required"')
    host.define("net-define", MACVTAP.format(name="vtap", mode=mode, mark=insists))
    try:
        refusal = host.virsh("net-start", "vtap", check=False)
        assert "network 'vtap' insists on guarded ports, and gives none: a macvtap device" in refusal
    finally:
        host.virsh("net-undefine", "vtap")


def test_a_host_that_refuses_what_cannot_be_guarded(host: Host) -> None:
    host.define("net-define", MACVTAP.format(name="vtap", mode="private", mark=""))
    host.virsh("net-start", "vtap")
    try:
        _refuses(host)
    finally:
        host.virsh("net-destroy", "vtap")
        host.virsh("net-undefine", "vtap")


def _refuses(host: Host) -> None:
    with asked(host, "unguardable: refuse\n"):
        for kind in OTHERS:
            defined(host, "a", other(kind, 0))
            refusal = host.virsh("start", "a", check=False)
            assert f"type '{kind}' cannot be guarded, and this host refuses what cannot" in refusal
            assert "host.yaml" in refusal
        defined(host, "a", NIC.format(network="vtap", mac=mac(1, 0)))
        assert "type 'direct' cannot be guarded" in host.virsh("start", "a", check=False)
        defined(host, "a", NIC.format(network="plain", mac=mac(1, 0)))
        host.virsh("start", "a")
        plug = ("attach-interface", "a", "network", "vtap", "--mac", mac(1, 3), "--live")
        assert "type 'direct' cannot be guarded" in host.virsh(*plug, check=False)
        # No hook hears of this one: it is shown.
        host.virsh("attach-interface", "a", "direct", "up0", "--mac", mac(1, 4), "--live")
        assert unguarded(host)["a", "direct vepa"]["refused"]
        levels = {row["about"]: row["level"] for row in guestnet(host, "doctor") if row["check"] == "ports"}
        assert levels == {f"a {mac(1, 4)}": "must"}
    host.virsh("destroy", "a")
    defined(host, "a", NIC.format(network="vtap", mac=mac(1, 0)))
    host.virsh("start", "a")


def test_a_damaged_setting_refuses_by_name_and_doctor_tells(host: Host) -> None:
    defined(host, "a", other("user", 0))
    with asked(host, "unguardable: refuse\n"):
        host.sandbox.run(["sh", "-c", "echo '{' > /etc/libvirt-guestnet/hooks.json"])
        assert "/etc/libvirt-guestnet/hooks.json is damaged: run `guestnet hooks install`" in host.virsh(
            "start", "a", check=False
        )
        (row,) = (row for row in guestnet(host, "doctor") if row["about"].endswith("hooks.json"))
        assert (row["level"], row["do"]) == ("must", "guestnet hooks sync")
    host.virsh("start", "a")


def test_without_the_library_a_host_that_refuses_still_does(host: Host) -> None:
    defined(host, "a", other("user", 0))
    defined(host, "b", NIC.format(network="plain", mac=mac(2, 0)), number=2)
    away = "sed -i.kept 's|/hook/main.py|/hook/gone.py|' /etc/libvirt/hooks/*.d/50-guestnet && rm -f /etc/libvirt/hooks/*.d/*.kept"  # noqa: E501
    with asked(host, "unguardable: refuse\n"):
        host.sandbox.run(["sh", "-c", away])
        try:
            assert "its library is gone" in host.virsh("start", "a", check=False)
            host.virsh("start", "b")
        finally:
            host.sandbox.run(
                ["sh", "-c", away.replace("s|/hook/main.py|/hook/gone.py|", "s|/hook/gone.py|/hook/main.py|")]
            )


def test_a_nic_that_cannot_be_guarded_does_not_keep_its_neighbours_from_it(host: Host) -> None:
    """Plugged by virsh, with a policy of its own: no hook could refuse it."""
    policy = (
        POLICY.format("")
        .replace("insists", "one")
        .replace("</g:domain>", f'<g:port mac="{mac(1, 4)}" name="q" network="one"/></g:domain>')
    )
    defined(host, "a", NIC.format(network="one", mac=mac(1, 0)), policy=policy)
    host.virsh("start", "a")
    before = host.guarded()
    host.virsh("attach-interface", "a", "direct", "up0", "--mac", mac(1, 4), "--live")
    host.sandbox.run(["nft", "delete table netdev guestnet"])
    done = host.sandbox.run(
        python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"], host.sandbox.root), check=False
    )
    assert (done.returncode, f"interface {mac(1, 4)}: type 'direct' has no tap to guard" in done.stderr) == (1, True)
    assert host.guarded() == before
    host.sandbox.run(["nft", "delete table netdev guestnet"])
    host.restart_daemon()
    host.soon(lambda: host.guarded() == before, "guarded again after the daemon's restart")


# Of hooks that are called after ours: one holds libvirt up until our helper has given up, one kills it.
SLOW = '#!/bin/sh\n[ "$2" != port-created ] || sleep 11.5\n'
KILLS = """#!/bin/sh
[ "$2" = port-created ] || exit 0
for each in /proc/[0-9]*; do
    if tr '\\0' ' ' 2>/dev/null <$each/cmdline | grep -q 'main.py network .* port-created'; then kill -9 ${each##*/}; fi
done
"""


@contextmanager
def after_ours(host: Host, script: str) -> Iterator[None]:
    path = "/etc/libvirt/hooks/network.d/60-in-the-way"
    host.sandbox.run(["tee", path], stdin=script)
    host.sandbox.run(["chmod", "755", path])
    try:
        yield
    finally:
        host.sandbox.run(["rm", path])


def plug_unheard(host: Host, script: str) -> None:
    defined(host, "a", NIC.format(network="plain", mac=mac(1, 0)))
    host.virsh("start", "a")
    with after_ours(host, script):
        host.virsh("attach-interface", "a", "network", "one", "--mac", mac(1, 2), "--live")


@pytest.mark.parametrize("script", [SLOW, KILLS], ids=["slow", "killed"])
def test_a_nic_whose_helper_is_gone_is_guarded_by_the_service(host: Host, script: str) -> None:
    with watching(host.sandbox):
        plug_unheard(host, script)
        host.soon(lambda: mac(1, 2) in host.guarded().values(), "the service guards it")
        host.soon_exact()


def test_a_nic_whose_helper_is_gone_is_shown_and_guarded_by_sync(host: Host) -> None:
    plug_unheard(host, KILLS)
    (mark,) = host.files("plugging").values()
    assert (mark["mac"], mark["alone"], host.guarded()) == (mac(1, 2), False, {})
    row = unguarded(host)["a", "network"]
    assert (row["mac"], row["network"], row["refused"]) == (mac(1, 2), "one", True)
    assert "its plug helper" in row["reason"]
    assert f"a {mac(1, 2)}" in [row["about"] for row in guestnet(host, "doctor") if row["level"] == "must"]
    host.sandbox.run(["sh", "-c", "touch -d '10 seconds ago' /run/libvirt-guestnet/plugging/*"])
    cli(host, "hooks", "sync")
    host.exact()
    assert unguarded(host) == {}


def test_the_mark_goes_with_the_nic(host: Host) -> None:
    plug_unheard(host, KILLS)
    assert len(host.files("plugging")) == 1
    host.unplug("a", mac(1, 2))
    host.soon(lambda: not host.files("plugging"), "the mark is gone")


def test_a_tap_and_what_it_stands_in_for_have_one_mac_address(host: Host) -> None:
    """As net_failover has them; here it is a macvtap device in the place of a virtual function."""
    policy = POLICY.format('guarded="yes"').replace("insists", "one")
    tap = NIC.format(network="one", mac=mac(1, 0))
    for nics in ([tap, other("direct", 0)], [other("direct", 0), tap]):
        defined(host, "a", *nics, policy=policy)
        host.virsh("start", "a")
        (guarded,) = host.guarded().items()
        assert guarded[1] == mac(1, 0)
        assert [row["mac"] for row in unguarded(host).values()] == [mac(1, 0)]
        sync = cli(host, "hooks", "sync")
        assert (sync.returncode, host.guarded()) == (0, dict([guarded])), sync.stderr
        host.virsh("destroy", "a")
