"""A workflow as SVG: calls from left to right, each beside those that it led to. Pure: a graph in, markup out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from amqptasks.dashboard.wording import seconds, short, tone
from amqptasks.monitor.snapshot import Graph, GraphNode

WIDE, HIGH = 188, 40
GAP_X, GAP_Y = 44, 12
MARGIN = 3


@dataclass(frozen=True, slots=True)
class Place:
    node: GraphNode
    x: float
    y: float


def draw(graph: Graph, here: str, link: Callable[[str], str]) -> Markup:
    """Return the picture; `here` is the call that is marked, `link(id)` where a click leads."""
    places = {place.node.id: place for place in lay_out(graph)}
    if not places:
        return Markup("")
    width = max(place.x for place in places.values()) + WIDE + MARGIN
    height = max(place.y for place in places.values()) + HIGH + MARGIN
    edges = [
        _edge(places[place.node.parent], place) for place in places.values() if place.node.parent in places
    ]
    nodes = [_node(place, place.node.id == here, link(place.node.id)) for place in places.values()]
    return Markup(
        '<svg class="graph" width="{w:.0f}" height="{h:.0f}" viewBox="0 0 {w:.0f} {h:.0f}" role="group" '
        'aria-label="Workflow of {count} calls">{edges}{nodes}</svg>'
    ).format(w=width, h=height, count=len(places), edges=Markup("").join(edges), nodes=Markup("").join(nodes))


def lay_out(graph: Graph) -> list[Place]:
    """Columns by depth; a call stands in the middle of what it led to, and leaves take a row each."""
    known = {node.id: node for node in graph.nodes}
    children: dict[str, list[GraphNode]] = {}
    for node in graph.nodes:
        children.setdefault(
            node.parent if node.parent in known and node.parent != node.id else "", []
        ).append(node)
    rows: dict[str, float] = {}
    columns: dict[str, int] = {}
    free = 0.0
    # Without recursion: a chain may be longer than Python's stack.
    todo = [(node, 0, False) for node in reversed(children.get("", []))]
    while todo:
        node, column, seen = todo.pop()
        below = children.get(node.id, [])
        if seen:
            rows[node.id] = sum(rows[child.id] for child in below) / len(below)
        elif below:
            columns[node.id] = column
            todo.append((node, column, True))
            todo.extend((child, column + 1, False) for child in reversed(below))
        else:
            columns[node.id], rows[node.id] = column, free
            free += 1
    return [
        Place(known[name], MARGIN + columns[name] * (WIDE + GAP_X), MARGIN + rows[name] * (HIGH + GAP_Y))
        for name in rows
    ]


def _edge(start: Place, end: Place) -> Markup:
    x1, y1, x2, y2 = start.x + WIDE, start.y + HIGH / 2, end.x, end.y + HIGH / 2
    middle = (x1 + x2) / 2
    return Markup('<path class="edge" d="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}"/>').format(
        x1, y1, middle, y1, middle, y2, x2, y2
    )


def _node(place: Place, here: bool, href: str) -> Markup:
    node = place.node
    name = node.name.rpartition(".")[2] or "unknown"
    detail = node.state if node.runtime is None else f"{node.state} {seconds(node.runtime)}"
    return Markup(
        '<a href="{href}"{current}><g class="node{mark} hue-{hue}" transform="translate({x:.1f} {y:.1f})">'
        "<title>{title}</title>"
        '<rect width="{w}" height="{h}" rx="8"/><circle cx="15" cy="20" r="5"/>'
        '<text x="28" y="17">{name}</text><text class="sub" x="28" y="31">{detail}</text></g></a>'
    ).format(
        href=href,
        current=Markup(' aria-current="true"') if here else "",
        mark=" here" if here else "",
        hue=tone(node.state) or "soft",
        x=place.x,
        y=place.y,
        w=WIDE,
        h=HIGH,
        title=f"{node.name or 'unknown'} {node.id} {node.state}",
        name=short(name, 22),
        detail=short(detail, 22),
    )
