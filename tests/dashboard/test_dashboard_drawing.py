"""Charts, graphs and words: drawn from values alone."""

import re

import pytest

from amqptasks.dashboard import charts, wording
from amqptasks.dashboard.graphs import draw, lay_out
from amqptasks.monitor.snapshot import Graph, GraphNode, Series


def series(unit="", **values):
    count = max(map(len, values.values()), default=0)
    return Series(
        name="x", unit=unit, interval=2.0, times=tuple(2.0 * at + 2 for at in range(count)), values=values
    )


def heights(path: str) -> list[float]:
    return [float(found) for found in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]


def test_a_line_rises_with_its_values() -> None:
    chart = charts.lines("Depth", series(orders=(0, 5, 10)))

    stroke = re.search(r'class="stroke hue-busy" d="([^"]+)"', chart.picture)[1]
    low, middle, high = heights(stroke)
    assert low > middle > high
    assert chart.scale == ("10", "5", "0")
    assert chart.legend == (("orders", "busy", "10"),)
    assert chart.span == "4 s"


def test_a_line_is_interrupted_where_nothing_was_measured() -> None:
    stroke = re.search(
        r'class="stroke[^"]*" d="([^"]+)"', charts.lines("x", series(a=(1, None, 1, 1))).picture
    )[1]

    assert stroke.count("M") == 1
    assert stroke.count("L") == 1


def test_areas_stand_on_each_other() -> None:
    chart = charts.stacked("Calls", series("1/s", good=(4, 4), bad=(2, 2)), {"good": "good", "bad": "bad"})

    good, bad = re.findall(r'class="fill hue-\w+" d="([^"]+)"', chart.picture)
    assert min(heights(bad)) < min(heights(good))
    assert sorted(heights(bad)[2:]) == sorted(heights(good)[:2])  # the edge between them
    assert chart.scale == ("6.0/s", "3.0/s", "0/s")


def test_where_nothing_was_measured_there_is_no_area() -> None:
    chart = charts.stacked(
        "Calls", series(good=(4, None, 4), bad=(None, None, 1)), {"good": "good", "bad": "bad"}
    )

    good, bad = re.findall(r'class="fill hue-\w+" d="([^"]+)"', chart.picture)
    assert good.count("M") == 2
    assert bad.count("M") == 2  # not told of beside another that is: none of it


def test_what_never_happened_has_no_line() -> None:
    hues = {"good": "good", "bad": "bad"}

    assert [name for name, _, _ in charts.stacked("x", series(good=(1, 2), bad=(0, 0)), hues).legend] == [
        "good"
    ]
    assert [name for name, _, _ in charts.stacked("x", series(good=(0, 0), bad=(0, 0)), hues).legend] == [
        "good"
    ]


def test_the_highest_queues_are_drawn() -> None:
    many = series(**{f"q{at:02}": (at, at) for at in range(20)})

    assert [name for name, _, _ in charts.lines("Depth", many).legend] == [f"q{at}" for at in range(14, 20)]


@pytest.mark.parametrize("values", [{}, {"a": ()}, {"a": (1,)}])
def test_a_chart_of_nothing_is_empty(values) -> None:
    assert charts.lines("x", series(**values)).is_empty
    assert charts.stacked("x", series(**values), {"a": "good"}).is_empty


@pytest.mark.parametrize("value", [0, 1e-9, 0.003, 7, 99.9, 100, 1e12])
def test_a_scale_has_room_for_its_values_and_is_not_much_higher(value) -> None:
    top = charts._ceiling(value)

    assert top >= value
    assert top <= value * 1.5 or value == 0


def test_names_are_escaped_in_a_chart() -> None:
    chart = charts.lines('<"x">', series(**{"<b>&": (1, 2)}))

    assert "<b>" not in chart.picture
    assert "&lt;b&gt;&amp;" in chart.picture


def graph(*edges: tuple[str, str]) -> Graph:
    return Graph(
        root="root",
        nodes=tuple(GraphNode(id=name, name=f"t.{name}", parent=parent) for name, parent in edges),
    )


def test_a_call_stands_beside_what_it_led_to() -> None:
    places = {p.node.id: p for p in lay_out(graph(("root", ""), ("a", "root"), ("b", "root"), ("c", "b")))}

    assert places["root"].x < places["a"].x == places["b"].x < places["c"].x
    assert places["root"].y == (places["a"].y + places["b"].y) / 2
    assert places["b"].y == places["c"].y


def test_no_two_calls_stand_on_each_other() -> None:
    wide = graph(("root", ""), *((f"n{at}", "root" if at < 5 else f"n{at % 5}") for at in range(60)))

    places = {(p.x, p.y) for p in lay_out(wide)}

    assert len(places) == 61


def test_a_chain_longer_than_the_stack_and_a_ring_are_drawn() -> None:
    chain = graph(("n0", ""), *((f"n{at}", f"n{at - 1}") for at in range(1, 3000)))
    ring = Graph(
        root="a",
        nodes=(GraphNode(id="a", parent="b"), GraphNode(id="b", parent="a"), GraphNode(id="c", parent="c")),
    )

    assert len(lay_out(chain)) == 3000
    assert [place.node.id for place in lay_out(ring)] == ["c"]
    assert draw(Graph(root="x"), "x", str) == ""


def test_a_graph_is_text_where_it_is_named() -> None:
    shown = draw(
        Graph(root="<i>", nodes=(GraphNode(id="<i>", name='t.<b>"', state="FAILURE"),)),
        "<i>",
        lambda name: f"/{name}",
    )

    assert "<b>" not in shown
    assert "<i>" not in shown
    assert 'class="node here hue-bad"' in shown


@pytest.mark.parametrize(
    ("function", "value", "wanted"),
    [
        (wording.number, None, wording.NOTHING),
        (wording.number, 0, "0"),
        (wording.number, 1234, "1,234"),
        (wording.number, 1_284_103, "1.28 M"),
        (wording.rate, 0, "0"),
        (wording.rate, 0.01, "< 0.1"),
        (wording.rate, 12.34, "12.3"),
        (wording.rate, 5012.2, "5,012"),
        (wording.seconds, None, wording.NOTHING),
        (wording.seconds, 0, "0 ms"),
        (wording.seconds, 0.0000123, "12 µs"),
        (wording.seconds, 0.000934, "934 µs"),
        (wording.seconds, 0.0123, "12.3 ms"),
        (wording.seconds, 12.34, "12.3 s"),
        (wording.seconds, 60, "1 min"),
        (wording.seconds, 200, "3 min 20 s"),
        (wording.seconds, 5400, "1 h 30 min"),
        (wording.seconds, 90_061, "1 d 1 h"),
        (wording.age, 0.4, "now"),
        (wording.age, 61, "1 min ago"),
        (wording.age, None, wording.NOTHING),
        (wording.size, 210, "210 B"),
        (wording.size, 1536, "1.5 KiB"),
        (wording.size, 52_428_800, "50 MiB"),
        (wording.stamp, 0, wording.NOTHING),
        (wording.stamp, 1.0, "1970-01-01 00:00:01 UTC"),
        (wording.tone, "FAILURE", "bad"),
        (wording.tone, "MINE", ""),
        (wording.short, "a  b\n c", "a b c"),
        (wording.short, "x" * 100, "x" * 79 + "…"),
        (wording.sentence, "no plugin answers; see", "No plugin answers; see."),
        (wording.sentence, "w1@host did not answer", "w1@host did not answer."),
        (wording.sentence, "is it running?", "Is it running?"),
        (wording.sentence, "", ""),
        (wording.timetable, "<crontab: 0 3 * * * (m/h/dM/MY/d)>", "0 3 * * *"),
        (wording.timetable, "<freq: 30 s>", "every 30 s"),
        (wording.timetable, "<solar: sunset>", "<solar: sunset>"),
    ],
)
def test_words(function, value, wanted) -> None:
    assert function(value) == wanted


@pytest.mark.parametrize(
    ("moment", "wanted"),
    [(None, wording.NOTHING), (100.0, "now"), (88.0, "12 s ago"), (-100.0, "3 min ago"), (7300.0, "in 2 h")],
)
def test_moments_are_told_from_now(moment, wanted) -> None:
    assert wording.ago(moment, 100.0) == wanted


def test_counting() -> None:
    assert wording.plural(1, "queue") == "1 queue"
    assert wording.plural(1200, "entry", "entries") == "1,200 entries"
