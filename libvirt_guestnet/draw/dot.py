"""A picture as Graphviz dot text. User text appears only inside of HTML-like labels, escaped as in XML."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from .picture import MUTED, PALETTE, TEXT, Edge, Picture, PictureNode, PictureRow, Shape, Tone
from .text import line

_FONT = "Helvetica,Arial,sans-serif"
# Graphviz undoes the references first and then replaces \N, \G and the like, so a backslash has to be two.
_ESCAPES = {c: f"&#{ord(c)};" for c in "&<>\"'"} | {"\\": "&#92;&#92;"}
_SHAPES = {Shape.CLOUD: "ellipse", Shape.BAR: "box", Shape.BOX: "box", Shape.SMALL: "box"}
_SMALL = 9


def text(picture: Picture) -> str:
    """The dot file of a picture."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield "graph guestnet {"
    yield from (f"  {setting}" for setting in _settings(picture))
    yield from (f"  {_node(node)}" for node in picture.nodes)
    yield from (f"  {_edge(edge, picture.sideways)}" for edge in picture.edges)
    clouds = [node.id for node in picture.nodes if node.shape == Shape.CLOUD]
    if clouds:
        yield f"  {{ rank=min; {'; '.join(clouds)} }}"
    for cluster in picture.clusters:
        yield f"  subgraph cluster_{cluster.id} {{"
        yield f"    margin=14; label=<<b>{_escaped(cluster.title)}</b>>;"
        yield from (f"    {node};" for node in cluster.nodes)
        yield "  }"
    yield "}"


def _settings(picture: Picture) -> Iterator[str]:
    direction, between, apart = ("LR", 0.5, 0.14) if picture.sideways else ("TB", 0.4, 0.35)
    host = PALETTE[Tone.HOST]
    yield f"graph [rankdir={direction}, ranksep={between}, nodesep={apart}];"
    yield "graph [pad=0.2, bgcolor=white, outputorder=edgesfirst];"
    yield f'graph [fontname="{_FONT}", fontsize=11, fontcolor="{MUTED}", labelloc=t, labeljust=l];'
    yield f"graph [label=<{_escaped(picture.title)}>];"
    yield f'graph [style="rounded,filled", color="{host.stroke}", fillcolor="{host.fill}"];'
    yield f'node [fontname="{_FONT}", fontsize=11, fontcolor="{TEXT}"];'
    yield 'node [margin="0.06,0.03", width=0.2, height=0.2];'
    yield f'edge [fontname="{_FONT}", fontsize={_SMALL}, fontcolor="{MUTED}", penwidth=1.8];'


def _node(node: PictureNode) -> str:
    colours = PALETTE[node.tone]
    style = '"rounded,filled,dashed"' if node.dashed else '"rounded,filled"'
    shape = _SHAPES[node.shape]
    if node.shape == Shape.CLOUD:
        style = '"filled"'
    return (
        f'{node.id} [shape={shape}, style={style}, fillcolor="{colours.fill}", color="{colours.stroke}", '
        f"label=<{_label(node)}>];"
    )


def _label(node: PictureNode) -> str:
    width = 2 * node.columns
    rows = [_title(node, width), _text(node.lines, width), *_rows(node), _text(node.notes, width)]
    return f'<table border="0" cellborder="0" cellspacing="1" cellpadding="2">{"".join(rows)}</table>'


def _title(node: PictureNode, width: int) -> str:
    title = f"<b>{_escaped(node.title)}</b>"
    if not node.badge:
        return _cell(title, width)
    badge = f'<font point-size="{_SMALL}" color="white">{_escaped(node.badge)}</font>'
    return (
        f'<tr><td colspan="{width}" bgcolor="{PALETTE[node.tone].stroke}" style="rounded">'
        '<table border="0" cellborder="0" cellspacing="0" cellpadding="1"><tr>'
        f'<td align="left"><font color="white">{title}</font>&#160;</td><td align="right">&#160;{badge}</td>'
        "</tr></table></td></tr>"
    )


def _text(lines: tuple[str, ...], width: int) -> str:
    return _cell("".join(f'{_muted(text)}<br align="left"/>' for text in lines), width) if lines else ""


def _cell(content: str, width: int) -> str:
    return f'<tr><td colspan="{width}" align="left">{content}</td></tr>'


def _muted(text: str) -> str:
    return f'<font point-size="{_SMALL}" color="{MUTED}">{_escaped(text)}</font>'


def _rows(node: PictureNode) -> Iterator[str]:
    """Rows of the table, each with what stands side by side."""
    for beside in zip_longest(*_columns(node)):
        yield f"<tr>{''.join(_row(row) for row in beside if row)}</tr>"


def _columns(node: PictureNode) -> list[list[PictureRow]]:
    """The rows of each column; none begins with what belongs to the end of the one before."""
    height = -(-len(node.rows) // node.columns)
    found: list[list[PictureRow]] = []
    for row in node.rows:
        if not found or (len(found[-1]) >= height and not row.below):
            found.append([])
        found[-1].append(row)
    return found


def _row(row: PictureRow) -> str:
    fill = PALETTE[row.tone].fill
    values = "".join(f'{_muted(value)}<br align="left"/>' for value in row.values) or " "
    return (
        f'<td port="{row.id}" align="left" bgcolor="{fill}">'
        f'<font point-size="{_SMALL}">{_escaped(row.label)}</font></td>'
        f'<td align="left">{values}</td>'
    )


def _edge(edge: Edge, sideways: bool) -> str:
    source, target = edge.source, edge.target
    if sideways:
        source += f":{edge.source_row}:e" if edge.source_row else ""
        target += f":{edge.target_row}:w" if edge.target_row else ""
    style = "dashed" if edge.dashed else "solid"
    weight = 8 if edge.uplink else 1
    label = f", label=<&#160;{_escaped(edge.label)}&#160;>" if edge.label else ""
    return f'{source} -- {target} [color="{PALETTE[edge.tone].stroke}", style={style}, weight={weight}{label}];'


def _escaped(text: str) -> str:
    """As in XML. An empty label is a syntax error in Graphviz, so it is a space."""
    return "".join(_ESCAPES.get(c, c) for c in line(text)) or "&#160;"
