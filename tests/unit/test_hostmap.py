"""Labels to devices, from the host's file and the command line."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.model.network import Mode, Network, Vxlan


def written(directory: Path, text: str) -> Path:
    file = directory / "host.yaml"
    file.write_text(text)
    return file


def test_file_and_pairs_which_win(tmp_path: Path) -> None:
    file = written(tmp_path, "physical-networks:\n  lan1: eth1\n  lan2: eth2\n")
    hostmap = load_hostmap(file, ["lan2=br0", "lan3=eno1.100"])
    assert hostmap.devices == {"lan1": "eth1", "lan2": "br0", "lan3": "eno1.100"}


def test_missing_and_empty_files_map_nothing(tmp_path: Path) -> None:
    assert load_hostmap(tmp_path / "none.yaml").devices == {}
    assert load_hostmap(written(tmp_path, "# nothing yet\n")).devices == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("physical-networks: [lan1]", 'under "physical-networks:" there must be lines'),
        ("lan1: eth1", 'must hold "physical-networks:"'),
        ("physical-networks: {lan1: eth1}\nother: 1", "unknown key 'other': the file must hold \"physical-networks:\""),
        ("physical-networks: {lan1: a-name-that-is-too-long}", "lan1: 'a-name-that-is-too-long' is not a device name"),
        ("physical-networks: {lan1: ../eth1}", "lan1: '../eth1' is not a device name"),
        ("physical-networks: {lan1: 7}", "lan1: 7 is not a device name"),
        ("physical-networks: {lan1: 'eth1:'}", "lan1: 'eth1:' is not a device name"),
        ("physical-networks: {lan1: nci:eth1}", "lan1: 'nci:eth1' is not a device name"),
        ("physical-networks: {lan1: eth1", "2:1: not valid YAML: expected ',' or '}'"),
        ("physical-networks: !!python/object/apply:os.getcwd []", "1:20: not valid YAML"),
        ("# " + "x" * 70000, "larger than 65536 bytes"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(GuestnetError) as caught:
        load_hostmap(file)
    assert str(caught.value).startswith(f"{file}:")
    assert message in str(caught.value)


@pytest.mark.parametrize("pair", ["lan1", "=eth1", "lan1=", "lan1=..", "lan1=a b"])
def test_bad_pairs_are_refused(tmp_path: Path, pair: str) -> None:
    with pytest.raises(GuestnetError, match=r"LABEL=DEVICE|not a device name"):
        load_hostmap(tmp_path / "none.yaml", [pair])


def _is_bridge(_device: str) -> bool:
    return True


def _is_none(_device: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("entry", "bridge", "uplink"),
    [
        ("nic:eth1", "gn-n", "eth1"),
        ("bridge:br0", "br0", None),
        ("bridge:br0/eth1", "br0", None),
        ("br0/eth1", "br0", None),
        ("ovs:br0", "br0", None),
    ],
)
def test_a_map_of_another_host_says_what_its_devices_are(entry: str, bridge: str, uplink: str | None) -> None:
    """Whatever this host has by that name."""
    network = Network(name="n", mode=Mode.BRIDGE, bridge="gn-n", physical_network="lan")
    for here in (True, False):
        hostmap = load_hostmap(Path("/nonexistent"), [f"lan={entry}"])
        hostmap = HostMap(hostmap.devices, device_is_bridge=_is_bridge if here else _is_none)
        assert (hostmap.bridge(network), hostmap.uplink(network)) == (bridge, uplink)
        assert hostmap.device("lan") == (uplink or bridge)
        hostmap.check_kinds([network], lambda _device: False)
    with pytest.raises(GuestnetError, match="not a device name"):
        load_hostmap(Path("/nonexistent"), ["lan=nic:eth1/eth2"])


def test_a_bare_name_that_this_host_does_not_have_is_not_guessed_at() -> None:
    network = Network(name="n", mode=Mode.BRIDGE, bridge="gn-n", physical_network="lan")
    hostmap = HostMap({"lan": "br0"})
    with pytest.raises(GuestnetError, match="write lan=nic:br0 or lan=bridge:br0"):
        hostmap.check_kinds([network], lambda _device: False)
    hostmap.check_kinds([network], lambda _device: True)
    routed = Network(name="n", mode=Mode.ROUTE, bridge="gn-n", physical_network="lan")
    hostmap.check_kinds([routed], lambda _device: False)


def test_all_labels_that_are_missing_are_named_at_once() -> None:
    vxlan = Vxlan(vni=7, underlay="core", group=ip_address("239.0.0.1"))
    networks = [
        Network(name="a", mode=Mode.BRIDGE, bridge="gn-a", physical_network="lan"),
        Network(name="a2", mode=Mode.ROUTE, bridge="gn-a2", physical_network="lan"),
        Network(name="b", mode=Mode.NAT, bridge="gn-b", physical_network="wan"),
        Network(name="c", mode=Mode.ISOLATED, bridge="gn-c", vxlan=vxlan),
        Network(name="d", mode=Mode.ISOLATED, bridge="gn-d"),
    ]
    with pytest.raises(GuestnetError) as error:
        HostMap({"lan1": "eth1", "wan": "eth2"}).check_mapped(networks)
    first, second = str(error.value).splitlines()
    assert "networks 'a', 'a2' need physical network 'lan', and this host maps no device to it (but one" in first
    assert "(but one to 'lan1')" in first
    assert "network 'c' needs physical network 'core'" in second
    HostMap({"lan": "eth1", "wan": "eth2", "core": "eth3"}).check_mapped(networks)


def test_a_device_that_does_not_exist_is_no_bridge() -> None:
    assert HostMap({"lan": "no-such-dev"}).is_bridge("lan") is False


def test_the_bridge_named_in_the_topology_has_no_uplink_when_it_is_itself_mapped() -> None:
    network = Network(name="n", mode=Mode.BRIDGE, bridge="br-office", physical_network="office")
    hostmap = HostMap({"office": "br-office"}, device_is_bridge=lambda _device: False)
    assert (hostmap.bridge(network), hostmap.uplink(network)) == ("br-office", None)


def test_other_modes_keep_their_own_bridge_and_need_no_label_for_it() -> None:
    network = Network(name="n", mode=Mode.NAT, bridge="gn-n", physical_network="wan")
    assert (HostMap().bridge(network), HostMap().uplink(network)) == ("gn-n", None)
