"""What pictures are tried with: names that would break out of a label, and what a picture shows, read back."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from xml.etree import ElementTree

from libvirt_guestnet.draw.picture import Edge, Picture, PictureNode

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    'say "hi"',
    "back\\slash\\N\\",
    "two\nlines\r",
    "<b>&amp;</b><!-- -->",
    "a]; b}; c>",
    '"] end; click n "javascript:alert(1)"',
    "%%{init: {}}%%",
    "`*_#35;_*`",
    "nul\0 escape\x1b sep\u2028 rtl\u202e",
    "\ud800 alone",
    "größe → 大",
    "",
    " ",
    "x" * 500,
]


def words(svg: bytes) -> list[str]:
    """All text that an SVG shows; Graphviz writes each label line as one <text>."""
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return ["".join(text.itertext()).replace("\N{NO-BREAK SPACE}", " ").strip() for text in texts]


def dot_things(text: bytes) -> list[list[str]]:
    """The ids of nodes and edges as Graphviz itself reads them."""
    done = subprocess.run(["dot", "-Tplain"], input=text, capture_output=True, check=True, timeout=120)
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return sorted([w[0], *w[1 : {"node": 2, "edge": 3}[w[0]]]] for w in lines if w and w[0] in ("node", "edge"))


# Everything that a line of our Mermaid may consist of; a label is plain characters, references, <b> and <br/>.
LABEL = r'"(?:[\w .,:/()–→↔·]|#\d+;|</?b>|<br/>)*"'
MERMAID_LINE = re.compile(
    rf"flowchart (?:LR|TB)| *end| *subgraph host\[{LABEL}\]"
    rf"| *\w+(?:\(\[{LABEL}\]\)|\[{LABEL}\]|\({LABEL}\)):::\w+"
    rf"| *\w+ (?:---|-\.-)(?:\|{LABEL}\|)? \w+"
    r"| *classDef \w+ fill:#\w{6},stroke:#\w{6},color:#\w{6}| *class host host"
)


def rows(picture: Picture, title: str) -> dict[str, tuple[str, ...]]:
    [node] = [node for node in picture.nodes if node.title == title]
    return {row.label: row.values for row in node.rows}


def named_edges(picture: Picture) -> Iterator[tuple[str, str, str]]:
    titles = {node.id: node.title for node in picture.nodes}
    return ((titles[edge.source], titles[edge.target], edge.label) for edge in picture.edges)


def ends(edge: Edge, nodes: dict[str, PictureNode]) -> bool:
    pairs = ((edge.source, edge.source_row), (edge.target, edge.target_row))
    return all(not row or row in {r.id for r in nodes[node].rows} for node, row in pairs)


def size(svg: bytes) -> tuple[float, float]:
    """Width and height in points."""
    root = ElementTree.fromstring(svg)
    width, height = (float(str(root.get(key)).removesuffix("pt")) for key in ("width", "height"))
    return width, height
