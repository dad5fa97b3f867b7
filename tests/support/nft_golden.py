"""The folder docs/nft: rules as nft 1.0.6 prints them, of the topology that lies beside them."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.topology import load

GOLDEN = Path(__file__).parents[2] / "docs/nft"
TOPOLOGY = load(GOLDEN / "ports.yaml")
HOSTMAP = HostMap({"lan": "up0", "campus": "ovs:br-campus"})
GUESTS = [guest.name for guest in TOPOLOGY.guests]
SHARED, BRIDGE_GUARD = "shared", "bridge-guard"

# A chain, set or map as nft prints it, and the names of those that all ports share.
_OBJECT = re.compile(r"^\t\w+ (?P<name>\S+) \{\n(?:\t\t.*\n|\n)*\t\}\n\n?", re.M)
_SHARED = set(re.findall(r"^add (?:chain|set) \S+ \S+ (\S+)", filters.shared(), re.M))


def divided(listed: str) -> tuple[str, str]:
    """Of a listed ruleset what all ports share, and the rest; without the time that is left to anything."""
    listed = re.sub(r" expires \w+", "", listed)
    head, *_ = listed.splitlines(keepends=True)
    assert head == f"table {filters.TABLE} {{\n"
    shared = "\n".join(match[0].rstrip() + "\n" for match in _OBJECT.finditer(listed) if match["name"] in _SHARED)
    rest = _OBJECT.sub(lambda match: "" if match["name"] in _SHARED else f"{match[0]}\n", listed)
    return f"{head}{shared}}}\n", rest.replace("\n\n}", "\n}").replace("\n\n\n", "\n\n")


def compare(name: str, rules: str, regenerate: bool = False) -> None:
    """Fails with the difference, unless the golden file is to be written again."""
    file = GOLDEN / f"{name}.nft"
    if regenerate:
        file.write_text(rules)
    golden = file.read_text() if file.exists() else ""
    differing = list(difflib.unified_diff(golden.splitlines(), rules.splitlines(), "golden", "nft", lineterm=""))
    assert not differing, "\n".join(["docs/nft: review with pytest --regenerate and git diff:", *differing])
