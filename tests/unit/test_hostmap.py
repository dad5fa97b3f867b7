"""Labels to devices, from the host's file and the command line."""

from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.model_network import Mode, Network


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
        ("physical-networks: [lan1]", 'must hold one key, "physical-networks:"'),
        ("lan1: eth1", 'must hold one key, "physical-networks:"'),
        ("physical-networks: {lan1: eth1}\nother: 1", 'must hold one key, "physical-networks:"'),
        ("physical-networks: {lan1: a-name-that-is-too-long}", "lan1: 'a-name-that-is-too-long' is not a device name"),
        ("physical-networks: {lan1: ../eth1}", "lan1: '../eth1' is not a device name"),
        ("physical-networks: {lan1: 7}", "lan1: 7 is not a device name"),
        ("physical-networks: {lan1: eth1", "not YAML"),
        ("physical-networks: !!python/object/apply:os.getcwd []", "not YAML"),
        ("# " + "x" * 70000, "larger than 65536 bytes"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(GuestnetError) as caught:
        load_hostmap(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("pair", ["lan1", "=eth1", "lan1=", "lan1=..", "lan1=a b"])
def test_bad_pairs_are_refused(tmp_path: Path, pair: str) -> None:
    with pytest.raises(GuestnetError, match=r"LABEL=DEVICE|not a device name"):
        load_hostmap(tmp_path / "none.yaml", [pair])


def test_a_device_that_does_not_exist_is_no_bridge() -> None:
    assert HostMap({"lan": "no-such-dev"}).is_bridge("lan") is False


def test_the_bridge_named_in_the_topology_has_no_uplink_when_it_is_itself_mapped() -> None:
    network = Network(name="n", mode=Mode.BRIDGE, bridge="br-office", physical_network="office")
    hostmap = HostMap({"office": "br-office"}, device_is_bridge=lambda _device: False)
    assert (hostmap.bridge(network), hostmap.uplink(network)) == ("br-office", None)


def test_other_modes_keep_their_own_bridge_and_need_no_label_for_it() -> None:
    network = Network(name="n", mode=Mode.NAT, bridge="gn-n", physical_network="wan")
    assert (HostMap().bridge(network), HostMap().uplink(network)) == ("gn-n", None)
