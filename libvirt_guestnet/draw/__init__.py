"""Topologies, and what runs, as pictures, the two ways libvirt's network architecture page draws its own.

picture (what there is to draw) · logical, physical, hosts (topology → picture, pure) · outside, forwards, ports, crowds
(what they show) · running, places (what runs → topology) · dot, mermaid (picture → text) · graphviz (dot text → SVG or
PNG).
"""

from __future__ import annotations

from libvirt_guestnet.model.topology import Topology

from . import dot, graphviz, hosts, logical, mermaid, physical

__all__ = ["FORMATS", "VIEWS", "draw"]

FORMATS = ("svg", "png", "dot", "mermaid")
VIEWS = ("logical", "physical")
_PLANS = {"logical": logical.picture, "physical": physical.picture}


def draw(topology: Topology, view: str, kind: str) -> bytes:
    """The topology as one of VIEWS in one of FORMATS; dot and mermaid are the same bytes on every run.

    Raises GuestnetError when Graphviz, which svg and png need, is missing or fails.
    """
    many = view == "physical" and topology.hosts
    picture = hosts.picture(topology) if many else _PLANS[view](topology)
    if kind == "mermaid":
        return mermaid.text(picture).encode()
    text = dot.text(picture).encode()
    return text if kind == "dot" else graphviz.render(text, kind)
