"""A picture as Mermaid text, which GitHub and many editors draw by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from .picture import PALETTE, TEXT, Edge, Picture, PictureNode, Shape, Tone
from .text import line

# Everything else is written as a character reference: Mermaid finds markup and syntax also inside of quotes.
_PLAIN = frozenset(" .,:/()–→↔·")
_FRAMES = {Shape.CLOUD: ("([", "])"), Shape.BAR: ("[", "]"), Shape.BOX: ("[", "]"), Shape.SMALL: ("(", ")")}


def text(picture: Picture) -> str:
    """The Mermaid flowchart of a picture."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield f"flowchart {'LR' if picture.sideways else 'TB'}"
    framed = {node for cluster in picture.clusters for node in cluster.nodes}
    yield from (f"  {_node(node)}" for node in picture.nodes if node.id not in framed)
    for cluster in picture.clusters:
        yield f"  subgraph {cluster.id}[{_quoted(cluster.title)}]"
        yield from (f"    {_node(node)}" for node in picture.nodes if node.id in cluster.nodes)
        yield "  end"
    yield from (f"  {_edge(edge)}" for edge in picture.edges)
    used = {node.tone for node in picture.nodes} | ({Tone.HOST} if picture.clusters else set())
    for tone, colours in ((each, colours) for each, colours in PALETTE.items() if each in used):
        yield f"  classDef {tone} fill:{colours.fill},stroke:{colours.stroke},color:{TEXT}"
    yield from (f"  class {cluster.id} {Tone.HOST}" for cluster in picture.clusters)


def _node(node: PictureNode) -> str:
    rows = (f"{_escaped(row.label)}: {', '.join(map(_escaped, row.values))}" for row in node.rows)
    badge = f" ({_escaped(node.badge)})" if node.badge else ""
    title = f"<b>{_escaped(node.title)}</b>{badge}"
    label = "<br/>".join((title, *map(_escaped, node.lines), *rows, *map(_escaped, node.notes)))
    opening, closing = _FRAMES[node.shape]
    return f'{node.id}{opening}"{label}"{closing}:::{node.tone}'


def _edge(edge: Edge) -> str:
    line_kind = "-.-" if edge.dashed else "---"
    label = f"|{_quoted(edge.label)}|" if edge.label else ""
    return f"{edge.source} {line_kind}{label} {edge.target}"


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in line(text))
