"""What a plan does of what routers left behind on the host, or what is in the way of a topology's control network."""

from __future__ import annotations

import pytest

from libvirt_guestnet.libvirtd.snapshot import NetworkState, Snapshot, Wanted, WantedNetwork, parse_xml
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.order import plan, plan_destroy
from libvirt_guestnet.plan.problems import PlanError
from libvirt_guestnet.plan.router import forgotten


def test_the_topology_that_left_disks_removes_them() -> None:
    here = Snapshot(left_routers={"edge": "t", "other": "u", "old": ""})
    (removal,) = plan(Wanted("t"), here).changes
    assert str(removal.line()) == "remove disks of router edge: its domain is gone"
    assert [each.name for each in plan_destroy("t", here).changes] == ["edge"]
    assert plan(Wanted("x"), here).changes == ()


def test_a_router_that_is_still_wanted_keeps_its_disks() -> None:
    assert list(forgotten("t", Snapshot(left_routers={"edge": "t"}), {"edge"})) == []


def network(name: str, topology: str, address: str = "169.254.24.1", length: str = 'prefix="24"') -> NetworkState:
    mark = f'<g:network xmlns:g="{NAMESPACE}" topology="{topology}" name="{name}"/>' if topology else ""
    ip = f'<ip address="{address}" {length}/>'
    return NetworkState(name, "u", parse_xml(f"<network><name>{name}</name><metadata>{mark}</metadata>{ip}</network>"))


def test_two_control_networks_of_one_number_are_refused_by_name() -> None:
    mine = Wanted("t", networks=(WantedNetwork("t-control", network("t-control", "t").config),))
    for other, owner in ((network("u-control", "u"), " of topology 'u'"), (network("somebodys", ""), "")):
        with pytest.raises(PlanError) as caught:
            plan(mine, Snapshot(networks=(other,)))
        assert str(caught.value) == (
            f"network 't-control': its 169.254.24.0/24 follows from this topology's name, and libvirt network "
            f"'{other.name}'{owner} has it already: give this topology another name"
        )
    wide = network("wide", "", "169.254.1.1", 'netmask="255.255.0.0"')
    with pytest.raises(PlanError, match="libvirt network 'wide' has it already"):
        plan(mine, Snapshot(networks=(wide,)))
    assert plan(mine, Snapshot(networks=(network("u-control", "u", "169.254.25.1"), network("odd", "", "nonsense"))))
