"""Which networks and guests each host of a topology has."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.topology_files import ROOT

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply import reaching
from libvirt_guestnet.apply.reaching import here, unattended
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hostmap import of_host
from libvirt_guestnet.libvirtd.connection import Connection
from libvirt_guestnet.model.host import Fabric, FabricKind, Host
from libvirt_guestnet.model.placing import in_file, lacking, on_host, place
from libvirt_guestnet.parse import address
from libvirt_guestnet.topology import load, loads

MANY = load(ROOT / "topologies/many-hosts.yaml")
ALPHA, BETA, GAMMA = MANY.hosts


def names(host: Host) -> list[str]:
    return [network.name for network in in_file(MANY, host).networks]


def test_a_host_has_the_networks_whose_labels_it_maps() -> None:
    everywhere = ["inside", "store", "many-hosts-control"]
    assert names(ALPHA) == names(BETA) == ["joined", "some", "tagged", "direct", *everywhere]
    assert names(GAMMA) == ["joined", "some", *everywhere]


def test_a_tunnel_leads_to_all_others_that_have_its_underlay() -> None:
    ends = {h.name: [*map(str, in_file(MANY, h).network("joined").vxlan.remotes)] for h in MANY.hosts}
    assert ends == {
        "alpha": ["192.0.2.2", "192.0.2.3"],
        "beta": ["192.0.2.1", "192.0.2.3"],
        "gamma": ["192.0.2.1", "192.0.2.2"],
    }


def test_a_host_is_no_end_of_its_own_where_the_file_lists_them() -> None:
    listed = {h.name: [*map(str, in_file(MANY, h).network("some").vxlan.remotes)] for h in MANY.hosts}
    assert listed["alpha"] == ["192.0.2.2", "192.0.2.9"]
    assert listed["gamma"] == ["192.0.2.1", "192.0.2.2", "192.0.2.9"]


def test_each_host_has_its_own_devices() -> None:
    said = {
        host.name: "".join(xmlgen.to_string(n.element) for n in wanted(in_file(MANY, host), of_host(host)).networks)
        for host in (ALPHA, BETA)
    }
    assert '<bridge name="br-lan"/>' in said["alpha"]
    assert 'device="eth2"' in said["beta"]
    assert 'device="eth2"' not in said["alpha"]


def test_a_host_routed_guest_is_published_on_its_own_hosts_lan() -> None:
    part = in_file(MANY, ALPHA)
    said = xmlgen.to_string(xmlgen.domain_metadata(part, part.guest("web"), of_host(ALPHA)))
    assert 'label="wan" device="eth3"' in said


def test_without_hosts_nothing_is_said_of_any() -> None:
    found = loads("name: t", "t.yaml")
    assert (found.hosts, found.fabric) == ((), Fabric(FabricKind.BRIDGE))


def test_a_guest_is_where_the_file_says_or_its_domain_is() -> None:
    found = place(MANY, {"alpha": {"web", "roams"}, "beta": {"roams"}, "gamma": {"other"}})
    assert found.guests == {
        "alpha": frozenset({"web", "roams"}),
        "beta": frozenset({"gate", "roams"}),
        "gamma": frozenset({"db"}),
    }
    assert not any(found.astray.values())
    assert found.notes == ()


def test_a_domain_that_is_elsewhere_stays_there() -> None:
    found = place(MANY, {"alpha": set(), "beta": {"web"}, "gamma": {"web"}})
    assert found.guests["alpha"] == {"web"}
    assert found.astray == {"alpha": frozenset(), "beta": frozenset({"web"}), "gamma": frozenset({"web"})}
    assert [note.partition(":")[0] for note in found.notes] == [
        "guest 'web' has its domain on host beta, and the file says alpha",
        "guest 'web' has its domain on host gamma, and the file says alpha",
        "guest 'roams' has no domain on any host yet",
    ]


def test_a_guest_of_guestnets_own_goes_where_the_file_has_it() -> None:
    """What it defined elsewhere before is no user's: it is removed there."""
    found = place(MANY, {"alpha": {"db"}, "beta": set(), "gamma": set()})
    assert not any(found.astray.values())
    assert "db" not in found.guests["alpha"]


def test_a_domain_on_a_host_without_its_network() -> None:
    assert lacking(MANY, ALPHA, {"roams"}) == []
    assert lacking(MANY, GAMMA, {"roams"}) == [
        "guest 'roams' is on it, and needs network 'tagged', for which its labels say no device"
    ]
    assert [guest.name for guest in in_file(MANY, GAMMA).guests] == ["db"]


def test_only_the_guests_that_are_meant() -> None:
    assert [guest.name for guest in on_host(MANY, ALPHA, {"roams"}).guests] == ["roams"]


def test_which_of_them_this_host_is() -> None:
    assert here(MANY.hosts, {"10.0.0.1", "192.0.2.3"}) == GAMMA
    assert here(MANY.hosts, {"10.0.0.1"}) is None


def test_a_host_without_underlay_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"nodename": "left.example"}))
    left, right = Host("left", "qemu+tcp://l/system"), Host("right", "qemu+tcp://r/system")
    other = Host("left", "qemu+tcp://l/system", underlay=address("192.0.2.1"))
    assert here([right, left], set()) == left
    assert here([right, other], set()) is None


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("qemu+ssh://a/system", "qemu+ssh://a/system?no_tty=1"),
        ("qemu+ssh://a/system?keyfile=/k", "qemu+ssh://a/system?keyfile=/k&no_tty=1"),
        ("qemu+ssh://a/system?no_tty=0", "qemu+ssh://a/system?no_tty=0"),
        ("qemu+tls://a/system", "qemu+tls://a/system"),
    ],
)
def test_ssh_asks_nobody(uri: str, asked: str) -> None:
    assert unattended(uri) == asked


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ext://a/system?command=/tmp/x",
        "qemu+ssh://a/system?netcat=/tmp/x",
        "qemu+ssh://a/system?no_tty=1&command=/tmp/x",
        "qemu+ssh://-oProxyCommand=x/system",
        "qemu+ssh://a/system\\n",
        "qemu+ssh://a/session",
        "qemu+unix:///system?socket=/tmp/x",
        "xen+ssh://a/system",
    ],
)
def test_a_uri_that_could_run_something_or_is_of_no_host(uri: str) -> None:
    with pytest.raises(TopologyError):
        loads(f'name: t\nhosts: {{ a: {{ uri: "{uri}" }} }}', "t.yaml")


def test_a_percent_sign_hides_no_parameter() -> None:
    """libvirt decodes names of parameters, too."""
    with pytest.raises(TopologyError):
        loads('name: t\nhosts: { a: { uri: "qemu+ssh://a/system?comman%64=/tmp/x" } }', Path("t.yaml").name)


def test_hosts_are_asked_side_by_side_and_each_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(len(MANY.hosts), timeout=60)
    asked: dict[str, int] = {}

    def connect(uri: str) -> Connection:
        asked[uri] = together.wait()
        raise GuestnetError("nobody there")

    monkeypatch.setattr(reaching, "connect", connect)
    monkeypatch.setattr(reaching, "_addresses", lambda: {"192.0.2.2"})
    with ExitStack() as closing:
        reached, down = reaching.reach(MANY.hosts, closing)
    assert reached == []
    assert down == dict.fromkeys(("alpha", "beta", "gamma"), "nobody there")
    assert set(asked) == {
        "qemu+ssh://root@alpha.example/system?no_tty=1",
        "qemu:///system",
        "qemu+ssh://root@[2001:db8::3]:2222/system?no_tty=1",
    }
