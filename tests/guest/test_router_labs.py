"""The labs of virtual routers: every line of `expect:` holds, with real guests behind real routers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.lab import LABS, lab_up

from libvirt_guestnet.router.image import ensure_router_image


@pytest.mark.parametrize("name", ["tiers", "virtual-router"])
def test_every_line_holds(name: str, tmp_path: Path) -> None:
    """No public network has a VLAN here: a kernel may have none. tests/labvm/inside/test_router_vlans.py has them."""
    ensure_router_image()
    text = (LABS / f"{name}.yaml").read_text()
    if "vlan:" in text:
        text = re.sub(r"mode: bridge, physical-network: provider, vlan: [0-9]+,", "mode: isolated,", text)
        text = text.replace("physical-networks:\n  provider: {}\n", "")
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    for lab in lab_up(name, path):
        rows = lab.verify()
        assert [row for row in rows if row["result"] != "ok"] == []
        assert len(rows) > 50
        assert {each["health"] for each in lab_rows(lab.guestnet("status", "--json").stdout)} == {"serves"}


def lab_rows(text: str) -> list[dict[str, str]]:
    return [row for row in json.loads(text) if row["kind"] == "router"]
