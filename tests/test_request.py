"""`self.request`: every attribute that Celery's has, on what a worker runs, in threads, coroutines and in place."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, Task, get_task_logger
from amqptasks.request import Request
from tests.working import Work

ATTRIBUTES = [
    "id",
    "task",
    "args",
    "kwargs",
    "retries",
    "eta",
    "expires",
    "group",
    "group_index",
    "root_id",
    "parent_id",
    "origin",
    "chord",
    "chain",
    "callbacks",
    "errbacks",
    "correlation_id",
    "reply_to",
    "delivery_info",
    "hostname",
    "loglevel",
    "logfile",
    "is_eager",
    "called_directly",
    "utc",
    "timelimit",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "shadow",
    "headers",
    "properties",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "children",
]


def facts(request: Any) -> dict[str, Any]:
    found = {name: getattr(request, name) for name in ATTRIBUTES}
    return found | {"children": list(request.children)}  # it grows by what follows from the run


@pytest.fixture
def look(app: App) -> Any:
    seen: list[dict[str, Any]] = []

    @app.task(bind=True, name="proj.look")
    def look(self: Task[..., Any], *args: Any, **kwargs: Any) -> None:
        seen.append(facts(self.request))

    look.seen = seen  # type: ignore[attr-defined]
    return look


def test_it_says_all_that_the_call_said(app: App, work: Work, look: Any) -> None:
    expires = datetime(2040, 1, 1, tzinfo=UTC)
    look.apply_async(
        (1,),
        {"x": 2},
        task_id="i",
        headers={"tenant": "t1"},
        expires=expires,
        time_limit=20,
        soft_time_limit=10,
        ignore_result=True,
        shadow="sum",
        priority=3,
        link=look.s(1),
        link_error=look.si(0),
        correlation_id="c",
        reply_to="r",
        group_id="g",
        group_index=1,
        root_id="root",
        parent_id="parent",
        retries=2,
        chain=[look.s(9)],
        stamps={"tenant": "t2"},
        stamped_headers=["tenant"],
        replaced_task_nesting=1,
    )
    work(1)
    (seen,) = look.seen

    assert {key: seen[key] for key in ("id", "task", "args", "kwargs", "retries", "eta", "expires")} == {
        "id": "i",
        "task": "proj.look",
        "args": [1],
        "kwargs": {"x": 2},
        "retries": 2,
        "eta": None,
        "expires": expires,
    }
    assert [seen[key] for key in ("group", "group_index", "root_id", "parent_id")] == [
        "g",
        1,
        "root",
        "parent",
    ]
    assert [seen[key] for key in ("correlation_id", "reply_to", "shadow", "headers")] == [
        "c",
        "r",
        "sum",
        {"tenant": "t1"},
    ]
    assert tuple(seen["timelimit"]) == (seen["time_limit"], seen["soft_time_limit"]) == (20, 10)
    assert (seen["ignore_result"], seen["called_directly"], seen["is_eager"], seen["utc"]) == (
        True,
        False,
        False,
        True,
    )
    assert [each["task"] for each in seen["callbacks"] + seen["errbacks"] + seen["chain"]] == [
        "proj.look"
    ] * 3
    assert (seen["stamps"], list(seen["stamped_headers"])) == ({"tenant": "t2"}, ["tenant"])
    assert (seen["replaced_task_nesting"], seen["chord"], seen["children"]) == (1, None, [])
    assert seen["hostname"] == "w1@test"
    assert seen["origin"].startswith("gen")


def test_it_knows_the_delivery_and_its_properties(app: App, work: Work, look: Any) -> None:
    look.apply_async(priority=4)
    work(1)
    (seen,) = look.seen

    assert seen["delivery_info"] == {
        "exchange": "amqptasks",
        "routing_key": "amqptasks",
        "priority": 4,
        "redelivered": False,
        "queue": "amqptasks",
    }
    assert {"content_type": "application/json", "delivery_mode": 2, "priority": 4}.items() <= seen[
        "properties"
    ].items()
    assert "headers" not in seen["properties"]
    assert seen["properties"]["correlation_id"] == seen["id"]


def test_the_level_and_the_file_of_the_log(
    app: App, work: Work, look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = logging.FileHandler(tmp_path / "worker.log")
    monkeypatch.setattr(logging.getLogger(), "handlers", [own])
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)

    look.delay()
    work(1)
    own.close()
    (seen,) = look.seen

    assert (seen["loglevel"], seen["logfile"]) == (logging.ERROR, str(tmp_path / "worker.log"))


def test_in_place_and_outside_a_run(app: App, look: Any) -> None:
    look.apply((1,))
    look(2)
    eager, outside = look.seen

    assert (eager["is_eager"], eager["called_directly"], eager["hostname"]) == (True, False, "eager")
    assert (outside["called_directly"], outside["id"], outside["properties"]) == (True, None, {})
    assert (outside["loglevel"], outside["logfile"], outside["retries"]) == (None, None, 0)


def test_each_thread_sees_its_own(app: App, work: Work) -> None:
    meet = threading.Barrier(2, timeout=60)
    seen: dict[int, tuple[str | None, list[Any]]] = {}

    @app.task(bind=True, name="proj.pair")
    def pair(self: Task[..., Any], number: int) -> None:
        meet.wait()
        seen[number] = (self.request.id, list(self.request.args))
        meet.wait()

    ids = [pair.delay(number).id for number in range(2)]
    threads = []
    for _ in range(2):
        delivery = work.take("amqptasks", 60)
        assert delivery is not None
        threads.append(threading.Thread(target=copy_context().run, args=(Work(app).run, delivery)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert seen == {0: (ids[0], [0]), 1: (ids[1], [1])}


def test_coroutines_and_the_tasks_they_start_see_it(app: App, work: Work) -> None:
    seen: list[Any] = []

    @app.task(bind=True, name="proj.slow")
    async def slow(self: Task[..., Any]) -> None:
        async def inner() -> None:
            await asyncio.sleep(0)
            seen.append(self.request.id)

        await asyncio.gather(inner(), asyncio.to_thread(lambda: seen.append(self.request.id)))

    result = slow.delay()
    work(1)

    assert seen == [result.id, result.id]


def test_a_task_s_log_lines_say_which_run_wrote_them(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    logger = get_task_logger("proj.tasks.lines")

    @app.task(name="proj.say")
    def say() -> None:
        logger.warning("inside")

    result = say.apply_async(shadow="told")
    with caplog.at_level(logging.INFO):
        work(1)
        logger.warning("outside")
    records = {record.getMessage(): record for record in caplog.records}

    assert (records["inside"].task_id, records["inside"].task_name) == (result.id, "proj.say")  # type: ignore[attr-defined]
    assert (records["outside"].task_id, records["outside"].task_name) == (None, None)  # type: ignore[attr-defined]
    assert any(text.startswith(f"Task told[{result.id}] succeeded") for text in records)


def test_what_is_expected_is_logged_without_a_traceback(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.fail", throws=(KeyError,))
    def fail(known: bool) -> None:
        raise KeyError("k") if known else ValueError("v")

    fail.delay(True)
    fail.delay(False)
    with caplog.at_level(logging.INFO):
        work(2)
    lines = [
        (record.levelno, record.getMessage()) for record in caplog.records if "raised" in record.getMessage()
    ]

    assert [level for level, _ in lines] == [logging.INFO, logging.ERROR]
    assert ["Traceback" in text for _, text in lines] == [False, True]
    assert [outcome.state for outcome in work.outcomes] == ["FAILURE", "FAILURE"]


def test_a_shadow_name_is_made_of_the_arguments(app: App, work: Work) -> None:
    class Named(Task[..., Any]):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"look at {args[0]}"

    seen: list[Any] = []

    @app.task(base=Named, bind=True, name="proj.named")
    def named(self: Task[..., Any], what: str) -> None:
        seen.append((self.request.shadow, self.request.name, self.request.task))

    named.delay("this")
    named.apply_async(("that",), shadow="chosen")
    work(2)

    assert seen[0] == ("look at this", "look at this", "proj.named")


def test_a_value_in_the_log_is_cut_to_resultrepr_maxsize(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="proj.long", resultrepr_maxsize=30)(lambda: "x" * 100).delay()
    app.task(name="proj.longer", resultrepr_maxsize=60)(lambda: "x" * 100).delay()
    with caplog.at_level(logging.INFO):
        work(2)
    short, long = [
        record.getMessage().count("x") for record in caplog.records if "succeeded" in record.getMessage()
    ]

    assert short < long <= 60


def test_a_request_may_be_pushed_in_a_test(app: App, look: Any) -> None:
    token = look.push_request(Request(id="mine", task="proj.look", called_directly=False))
    try:
        look()
    finally:
        look.pop_request(token)

    assert look.seen[0]["id"] == "mine"
    assert look.request.id is None
