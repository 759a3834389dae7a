"""Calls as their events tell of them: order, retries, sampling of whole workflows, bounded memory."""

from typing import Any

import pytest

from amqptasks.monitor.calls import LARGEST, LONG, TARGET, TIMELINE, Calls, Sampling


def event(kind: str, uuid: str, at: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"type": f"task-{kind}", "uuid": uuid, "timestamp": at, "hostname": "w1@here", **fields}


def taken(*events: dict[str, Any], limit: int = 100) -> Calls:
    calls = Calls(limit)
    for each in events:
        calls.take(each)
    return calls


def test_a_call_has_its_state_times_and_place() -> None:
    calls = taken(
        event(
            "sent",
            "a",
            10.0,
            name="shop.mail",
            args="(1,)",
            queue="mail",
            exchange="e",
            routing_key="k",
            root_id="a",
        ),
        event("received", "a", 10.5, name="shop.mail", retries=0, root_id="a", parent_id=None),
        event("started", "a", 11.0),
        event("succeeded", "a", 13.0, result="'ok'", runtime=2.0),
    )

    detail = calls.detail("a")

    assert detail is not None
    row = detail.row
    assert (row.state, row.name, row.worker, row.queue, row.result) == (
        "SUCCESS",
        "shop.mail",
        "w1@here",
        "mail",
        "'ok'",
    )
    assert (row.runtime, row.wait, row.at) == (2.0, 1.0, 13.0)
    assert detail.timeline == (("PENDING", 10.0), ("RECEIVED", 10.5), ("STARTED", 11.0), ("SUCCESS", 13.0))
    assert (detail.exchange, detail.routing_key, detail.root, detail.parent) == ("e", "k", "a", "")


def test_what_is_heard_late_undoes_nothing() -> None:
    calls = taken(
        event("received", "a", 10.5, name="t"),
        event("started", "a", 11.0),
        event("succeeded", "a", 12.0, runtime=1.0),
        event("sent", "a", 10.0, name="t"),
        event("received", "a", 10.5, name="t"),
    )

    assert calls.rows({}, "", None, 1)[0].state == "SUCCESS"
    assert calls.rows({}, "", None, 1)[0].wait == 1.0


def test_a_call_is_sent_before_all_else_whatever_the_clocks_say() -> None:
    calls = taken(event("received", "a", 10.0), event("sent", "a", 10.1), event("started", "a", 10.2))

    detail = calls.detail("a")

    assert detail is not None
    assert detail.timeline == (("PENDING", 10.0), ("RECEIVED", 10.0), ("STARTED", 10.2))
    assert detail.row.state == "STARTED"


def test_that_a_call_was_sent_may_be_told_when_it_has_ended() -> None:
    """It is told once the call has left: by a sender that was held up then, later than what a quick worker did."""
    calls = taken(
        event("received", "a", 10.0), event("failed", "a", 10.1), event("sent", "a", 10.2, name="t")
    )

    detail = calls.detail("a")

    assert detail is not None
    assert (detail.row.state, detail.row.name) == ("FAILURE", "t")
    assert [state for state, _ in detail.timeline] == ["PENDING", "RECEIVED", "FAILURE"]


def test_a_retry_begins_anew_and_its_steps_are_kept() -> None:
    calls = taken(
        event("received", "a", 1.0, name="t", retries=0),
        event("started", "a", 2.0),
        event("retried", "a", 3.0, exception="ValueError('no')", traceback="Traceback ..."),
        event("received", "a", 4.0, name="t", retries=1),
        event("started", "a", 5.0),
        event("failed", "a", 6.0, exception="KeyError('x')", traceback="Traceback: x"),
    )

    detail = calls.detail("a")

    assert detail is not None
    assert [state for state, _ in detail.timeline] == [
        "RECEIVED", "STARTED", "RETRY", "RECEIVED", "STARTED", "FAILURE",
    ]  # fmt: skip
    assert (detail.row.retries, detail.row.exception, detail.traceback) == (
        1,
        "KeyError('x')",
        "Traceback: x",
    )


def test_the_oldest_are_forgotten_and_texts_are_cut() -> None:
    calls = taken(
        *[event("received", str(n), float(n), name="t", args="x" * 5000) for n in range(5)], limit=3
    )

    rows = calls.rows({}, "", None, 10)

    assert [row.id for row in rows] == ["4", "3", "2"]
    assert len(rows[0].args) == LONG


def test_states_are_counted_of_those_in_memory() -> None:
    calls = Calls(10)
    for number in range(100):
        uuid = str(number % 30)
        calls.take(
            event(("received", "started", "succeeded", "retried")[number % 4], uuid, float(number), name="t")
        )

        counted: dict[str, int] = {}
        for row in calls.rows({}, "", None, 100):
            counted[row.state] = counted.get(row.state, 0) + 1
        assert calls.states() == counted


def test_a_timeline_is_bounded() -> None:
    calls = taken(
        event("sent", "a", 0.5, name="t"), *[event("retried", "a", float(n)) for n in range(1, 200)]
    )

    detail = calls.detail("a")

    assert detail is not None
    assert len(detail.timeline) == TIMELINE
    assert (detail.timeline[0], detail.timeline[-1]) == (("PENDING", 0.5), ("RETRY", 199.0))


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "task-received"},
        {"type": "task-received", "uuid": 17},
        {"type": "task-unheard-of", "uuid": "a"},
        {"type": None, "uuid": "a"},
        {},
    ],
)
def test_what_is_no_event_of_a_call_is_passed_over(odd: dict[str, Any]) -> None:
    assert len(taken(odd)) == 0


def test_odd_fields_do_not_matter() -> None:
    calls = taken(
        event("received", "a", name=17, args=["x"], retries="many", runtime="long") | {"timestamp": "soon"}
    )

    row = calls.rows({}, "", None, 1)[0]

    assert (row.name, row.args, row.retries, row.at) == ("17", "['x']", 0, 0.0)


def test_rows_are_chosen_by_state_name_worker_queue_and_word() -> None:
    calls = taken(
        event("sent", "a", 1.0, name="shop.mail", queue="mail"),
        event("received", "b", 2.0, name="shop.charge", args="('Smith',)"),
        event("failed", "c", 3.0, name="shop.mail", exception="ValueError('Smith')"),
    )

    def ids(search: str = "", before: float | None = None, **wanted: str) -> list[str]:
        return [row.id for row in calls.rows(wanted, search, before, 10)]

    assert ids() == ["c", "b", "a"]
    assert ids(state="FAILURE") == ["c"]
    assert ids(name="shop.mail") == ["c", "a"]
    assert ids(queue="mail") == ["a"]
    assert ids(worker="w1@here") == ["c", "b"]
    assert ids("smith") == ["c", "b"]
    assert ids(before=3.0) == ["b", "a"]
    assert calls.names() == ("shop.charge", "shop.mail")
    assert calls.states() == {"PENDING": 1, "RECEIVED": 1, "FAILURE": 1}


# --- workflows -------------------------------------------------------------------------------------------


def test_a_graph_has_the_root_first_and_parents_before_children() -> None:
    calls = taken(
        event("received", "c2", 3.0, name="t", root_id="r", parent_id="c1"),
        event("received", "c1", 2.0, name="t", root_id="r", parent_id="r"),
        event("received", "lost", 2.0, name="t", root_id="r", parent_id="gone"),
        event("received", "r", 1.0, name="t", root_id="r"),
        event("received", "other", 1.0, name="t", root_id="other"),
    )

    graph = calls.graph("c2", 10)

    assert graph is not None
    assert graph.root == "r"
    assert [(node.id, node.parent, node.depth) for node in graph.nodes] == [
        ("r", "", 0), ("lost", "", 0), ("c1", "r", 1), ("c2", "c1", 2),
    ]  # fmt: skip
    detail = calls.detail("r")
    assert detail is not None
    assert detail.children == ("c1",)
    cut = calls.graph("c2", 2)
    assert cut is not None
    assert (len(cut.nodes), cut.cut) == (2, True)
    assert calls.graph("unknown", 10) is None


def test_a_graph_of_calls_that_are_each_others_parents_ends() -> None:
    calls = taken(
        event("received", "a", name="t", root_id="a", parent_id="b"),
        event("received", "b", name="t", root_id="a", parent_id="a"),
        event("received", "c", name="t", root_id="a", parent_id="c"),
    )

    graph = calls.graph("a", 10)

    assert graph is not None
    assert {node.id for node in graph.nodes} == {"a", "b", "c"}


# --- sampling --------------------------------------------------------------------------------------------


def test_sampling_keeps_the_rate_of_what_is_kept_below_its_target() -> None:
    sampling = Sampling()
    for _ in range(10):
        sampling.turn(10_000, 2.0)
    busy = sampling.n

    for _ in range(30):
        sampling.turn(20, 2.0)

    assert 5000 / busy <= TARGET < 2 * 5000 / busy
    assert sampling.n == 1


def test_sampling_does_not_flicker_at_a_steady_rate() -> None:
    sampling, seen = Sampling(), []
    for turn in range(50):
        sampling.turn(800 + 100 * (turn % 2), 1.0)
        seen.append(sampling.n)

    assert seen[5:] == [4] * 45


def test_a_flood_ends_at_the_largest() -> None:
    sampling = Sampling()
    sampling.turn(10**9, 1.0)

    assert sampling.n == LARGEST


def test_what_is_kept_is_whole_workflows_with_their_whole_timelines() -> None:
    calls = Calls(10_000)
    calls.sampling.n = 8
    for root in range(400):
        for member in range(3):
            uuid = f"{root}-{member}"
            calls.take(event("received", uuid, 1.0, name="t", root_id=f"root-{root}", parent_id=None))
            calls.take(event("started", uuid, 2.0))
            calls.take(event("succeeded", uuid, 3.0, runtime=1.0))

    kept = calls.rows({}, "", None, 10_000)

    roots = {row.id.split("-")[0] for row in kept}
    assert 20 < len(roots) < 100
    assert len(kept) == 3 * len(roots)
    assert all(row.state == "SUCCESS" and row.wait == 1.0 for row in kept)
    counts, runtimes, _ = calls.turn(1.0)
    assert counts == {"received": 1200, "started": 1200, "succeeded": 1200}
    assert len(runtimes) == LONG


def test_a_call_without_a_root_is_its_own() -> None:
    calls = Calls(1000)
    calls.sampling.n = 4
    for number in range(400):
        calls.take(event("received", str(number), name="t"))

    assert 50 < len(calls) < 200


def test_a_call_that_began_unseen_is_taken_in_only_where_all_are() -> None:
    calls = Calls(10)
    calls.take(event("started", "a"))
    calls.sampling.n = 2
    for n in range(64):
        calls.take(event("started", f"b{n}"))

    assert [row.id for row in calls.rows({}, "", None, 100)] == ["a"]
