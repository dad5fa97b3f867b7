"""systemd-networkd and NetworkManager leave guests' devices alone, and doctor says so where networkd would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.doctor import finding, host_facts, judge
from libvirt_guestnet.install import network_managers
from libvirt_guestnet.install.network_managers import NETWORKD, Claim

PATTERNS = ["vme*", "vnet*", "gn-*", "virbr*"]


class Host:
    """A host in a folder, with what runs there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = {"systemd-networkd.service", "NetworkManager.service"}
        self.called: list[list[str]] = []
        self.put("usr/lib/systemd/systemd-networkd", "")
        self.put("usr/sbin/NetworkManager", "")

    def put(self, path: str, text: str) -> str:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        return str(self.root / path)

    def call(self, argv: list[str]) -> bool:
        if argv[:2] == ["systemctl", "is-active"]:
            return argv[-1] in self.runs
        self.called.append(argv)
        return True

    def install(self) -> list[str]:
        return network_managers.install(self.root, self.call)

    def claims(self, *devices: str) -> list[Claim]:
        return network_managers.claims(devices, self.root, self.call)

    def names(self) -> list[str]:
        return [claim.device for claim in self.claims()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


RELOADS = [["networkctl", "reload"], ["nmcli", "general", "reload", "conf"]]


def test_both_are_told_once_and_no_more_when_it_is_uninstalled(host: Host) -> None:
    said = host.install()
    assert [line.partition(": ")[2] for line in said] == [
        "has systemd-networkd leave vme* vnet* gn-* virbr* alone",
        "has NetworkManager leave vme* vnet* gn-* virbr* alone",
    ]
    assert (host.install(), host.called) == ([], RELOADS)
    assert len(network_managers.uninstall(host.root, host.call)) == 2
    assert (network_managers.uninstall(host.root, host.call), host.called) == ([], RELOADS * 2)
    assert list(host.root.glob("etc/*/*/*")) == []


def test_one_that_is_not_there_is_told_nothing_and_one_that_does_not_run_is_not_reloaded(host: Host) -> None:
    (host.root / "usr/sbin/NetworkManager").unlink()
    host.runs.clear()
    assert len(host.install()) == 1
    assert (host.called, host.claims()) == ([], [])


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ("Name=*", PATTERNS),
        ("Name=en* v*", ["vme*", "vnet*", "virbr*"]),
        ("Name=!en*", PATTERNS),
        ("Name=!v* gn-*", []),
        ("Type=ether", ["vme*", "vnet*"]),
        ("Type=bridge", ["gn-*", "virbr*"]),
        ("Type=!wlan\nHost=here", PATTERNS),
        ("Kind=bridge", ["gn-*", "virbr*"]),
        ("Driver=tun", ["vme*", "vnet*"]),
        ("Name=en*", []),
        ("Name=*\nMACAddress=52:54:00:00:00:01", []),
        ("Name=*\nName=\nName=en*", []),
        ("# Name=*", []),
        ("", []),
    ],
)
def test_a_wildcard_takes_what_it_matches(host: Host, match: str, taken: list[str]) -> None:
    file = host.put("etc/systemd/network/20-all.network", f"[Match]\n{match}\n[Network]\nDHCP=yes\n")
    assert host.claims() == [Claim(pattern, NETWORKD, file) for pattern in taken]
    host.install()
    assert host.claims() == []


@pytest.mark.parametrize("name", ["00-all", "05-x", "10-libvirt", "a"])
def test_our_file_comes_before_what_others_call_theirs(host: Host, name: str) -> None:
    host.install()
    host.put(f"etc/systemd/network/{name}.network", "[Match]\nName=*\n")
    assert host.names() == []


def test_the_first_file_by_name_counts_and_the_administrators_of_a_name(host: Host) -> None:
    host.put("usr/lib/systemd/network/20-all.network", "[Match]\nName=*\n")
    assert host.names() == PATTERNS
    host.put("etc/systemd/network/20-all.network", "[Match]\nName=en*\n")
    assert host.names() == []
    host.put("run/systemd/network/30-all.network", "[Match]\nName=*\n")
    assert host.names() == PATTERNS
    host.put("run/systemd/network/30-all.network.d/ours.conf", "[Link]\nUnmanaged=yes\n")
    assert host.names() == []
    host.put("etc/systemd/network/25-taps.network", "[Match]\nName=v*\n")
    assert host.names() == ["vme*", "vnet*", "virbr*"]


def test_a_device_that_is_configured_counts_whatever_its_name(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a bridge whose name a topology says."""
    monkeypatch.setattr(links, "index_of", {"br-mine": 5, "br-left": 6, "vnet1": 7}.get)
    host.put("run/systemd/netif/links/5", "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/b.network\n")
    host.put("run/systemd/netif/links/6", "ADMIN_STATE=unmanaged\n")
    host.put("run/systemd/netif/links/7", "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/b.network\n")
    assert [claim.device for claim in host.claims("br-mine", "br-left", "vnet1")] == ["br-mine", "vnet1"]
    host.put("etc/systemd/network/b.network", "[Match]\nName=br* vnet*\n")
    assert [claim.device for claim in host.claims("br-mine", "br-left", "vnet1")] == ["vnet*", "br-mine"]


@pytest.mark.parametrize(
    ("device", "unmanaged", "do"),
    [
        ("vnet*", "", "guestnet hooks install"),
        ("br-mine", "", "add the line `Name=!br-mine`"),
        ("virbr*", "", "guestnet hooks install"),
        ("vnet*", "/etc/systemd/network/0-libvirt-guestnet.network", "rename it to come after"),
    ],
)
def test_doctor_demands_it(device: str, unmanaged: str, do: str) -> None:
    claim = Claim(device, NETWORKD, "/etc/systemd/network/-all.network")
    facts = host_facts.HostFacts(claims=(claim,), unmanaged=unmanaged)
    (row,) = [row for row in judge.judge(facts) if row.level == finding.MUST]
    assert (row.check, row.about) == ("network manager", device)
    assert "systemd-networkd configures it by /etc/systemd/network/-all.network" in row.found
    assert do in row.do
    assert ("net-destroy and net-start" in row.do) == (not device.startswith("vnet"))
