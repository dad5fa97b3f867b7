"""What is refused of a topology with several hosts, or without any, before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.cli.main import main
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.lab.joined import Plug, check, plugs
from libvirt_guestnet.topology import load, loads

ROOT = Path(__file__).parents[2]
LAB, ONE = str(ROOT / "labs/two-hosts.yaml"), str(ROOT / "labs/archnetwork.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c", "test:///default", "plan", LAB], "-c: the topology has hosts:, each with uri: of its own"),
        (["apply", LAB, "--map", "core=eth0"], "--map: the topology has hosts:, each with labels: of its own"),
        (["plan", LAB, "--host", "gamma"], "--host gamma: topology 'two-hosts' has the hosts alpha, beta"),
        (["apply", ONE, "--host", "a"], "--host is for a topology with several hosts"),
        (["destroy", "--name", "t", "--allow-partial"], "--allow-partial is for a topology with several hosts"),
        (["doctor", LAB], "this is none of the hosts of topology 'two-hosts': alpha (198.18.7.1), beta (198.18.7.2)"),
        (["lab", "run", LAB, "--here"], "leave out --here and --map"),
    ],
)
def test_what_is_of_no_use(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert said in capsys.readouterr().err


def test_each_host_has_a_folder_of_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", LAB, "-o", str(tmp_path)]) == 0
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.xml")}
    assert {path.split("/")[0] for path in made} == {"alpha", "beta"}
    red = [path for path in tmp_path.rglob("*.xml") if "red" in path.name and "network" in str(path)]
    assert any('remote ip="198.18.7.2"' in path.read_text() for path in red if "alpha" in str(path))
    assert not any('remote ip="198.18.7.1"' in path.read_text() for path in red if "alpha" in str(path))
    capsys.readouterr()


def test_a_lab_has_a_nic_behind_each_label_and_an_underlay_on_one() -> None:
    found = load(Path(LAB))
    check(found)
    assert list(plugs(found)) == [
        Plug("alpha", "core", "eth1", "198.18.7.1/24"),
        Plug("alpha", "office", "eth2"),
        Plug("beta", "core", "eth3", "198.18.7.2/24"),
        Plug("beta", "office", "eth4"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("office: eth2", "office: br0/eth2", "host alpha: a lab makes NICs, and office: br0/eth2 is none"),
        ("underlay: 198.18.7.1", "underlay: 192.0.2.1", "host alpha: a lab needs its underlay"),
        ("expect:", "expect:\n  - { from: red1, forge: [mac] }", "leave out lines of expect: with host or forge"),
    ],
)
def test_what_a_lab_of_several_hosts_cannot_show(old: str, new: str, said: str) -> None:
    found = loads(Path(LAB).read_text().replace(old, new, 1), "t.yaml")
    with pytest.raises(GuestnetError, match=said):
        check(found)
