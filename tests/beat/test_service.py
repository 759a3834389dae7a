"""Beats in this process on a broker in memory, with a clock of the test's own: what is sent, by whom, and when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from amqptasks import App, signals
from amqptasks.amqp import Binding, Exchange, Queue
from amqptasks.beat import lease, service
from amqptasks.beat.entries import Entry, read, run_id
from amqptasks.beat.lease import note, queue_of
from amqptasks.beat.scheduler import Scheduler
from amqptasks.beat.service import Beat, lease_name
from amqptasks.errors import AccessRefused, ImproperlyConfigured, NotFound
from amqptasks.schedules import crontab
from amqptasks.transport import codec, memory

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
LONGEST = 60.0

_numbers = itertools.count(1)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


class Stage:
    """A broker, a clock, and the beats of some apps."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        self.clock = Clock()
        self.broker = f"beat-{next(_numbers)}"
        self.beats: dict[Beat, asyncio.Task[None]] = {}

    def app(self, main: str | None = "proj", **settings: Any) -> App:
        app = App(main, broker=f"memory://{self.broker}", backend=None, set_as_current=False, **settings)
        app.task(_nothing, name="t")
        return app

    async def start(self, app: App) -> Beat:
        """Start a beat; return once it waits for the lease."""
        beat = Beat(app, max_interval=0.005, now=self.clock)
        waiting = self.hellos() + 1
        self.beats[beat] = asyncio.create_task(beat.run())
        await self.until(lambda: beat.leads or self.hellos() >= waiting or self.beats[beat].done())
        if self.beats[beat].done():
            await self.beats[beat]
        return beat

    async def leading(self, app: App) -> Beat:
        beat = await self.start(app)
        await self.until(lambda: beat.leads)
        return beat

    def hellos(self) -> int:
        """Beats that have begun to wait."""
        queues = memory.broker(self.broker).queues
        return sum(
            len(queue.subscriptions) for name, queue in queues.items() if name.startswith("amqptasks.beat.")
        )

    async def end(self, beat: Beat) -> None:
        beat.stop()
        await self.beats.pop(beat)

    async def kill(self, beat: Beat) -> None:
        """End it as a crash does: its connection goes, and nothing else is said."""
        task = self.beats.pop(beat)
        task.cancel()
        await asyncio.wait({task})

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + LONGEST
        while not condition():
            assert time.monotonic() < deadline, f"never came true: {condition}"
            await asyncio.sleep(0.002)

    async def sent(self, least: int = 0, queue: str = "amqptasks") -> list[tuple[str, Any, str]]:
        """Take what was sent out of the queue, at least so many: entry, how long after noon it was due, id."""
        link = await memory.connect(self.broker)
        found: list[tuple[str, Any, str]] = []
        try:
            async with asyncio.timeout(LONGEST):
                while len(found) < least or not found:
                    delivery = None
                    with contextlib.suppress(NotFound):
                        delivery = await link.get(queue)
                    if delivery is not None:
                        properties = codec.decode_header(delivery.header)
                        headers = properties.headers or {}
                        due = headers["x-amqptasks-due"]
                        due = due if due.startswith("run ") else datetime.fromisoformat(due) - NOON
                        found.append((headers["x-amqptasks-entry"], due, headers["id"]))
                    elif not least:
                        break
                    else:
                        await asyncio.sleep(0.002)
        finally:
            await link.close()
        return found

    async def dues(self, least: int = 0) -> list[tuple[str, str]]:
        return sorted((entry, str(due)) for entry, due, _ in await self.sent(least))

    async def settle(self, beat: Beat) -> None:
        """Return after the beat has looked at the clock twice."""
        for _ in range(2):
            seen = beat._clocks
            await self.until(lambda seen=seen: beat._clocks != seen)


def _nothing() -> None: ...


def played(
    test: Callable[[Stage], Awaitable[None]],
) -> Callable[[pytest.MonkeyPatch, pytest.LogCaptureFixture], None]:
    """Run an async test on a stage of its own."""

    def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(lease, "GRACE", 0.0)
        monkeypatch.setattr(service, "LAST_CONFIRMS", 0.1)

        async def bounded() -> None:
            stage = Stage(caplog)
            try:
                async with asyncio.timeout(2 * LONGEST):
                    await test(stage)
            finally:
                for beat in list(stage.beats):
                    await stage.kill(beat)

        asyncio.run(bounded())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def every(seconds: float, policy: str = "latest", **more: Any) -> dict[str, Any]:
    return {"task": "t", "schedule": seconds, "catch_up": policy, **more}


POLICIES = {policy: every(600, policy) for policy in ("all", "latest", "none")}


@played
async def test_what_is_due_is_sent_once_with_its_id(stage: Stage) -> None:
    await stage.leading(stage.app(beat_schedule={"a": every(60)}))
    assert await stage.sent() == []
    stage.clock.now = NOON + 60 * SECOND

    assert await stage.sent(1) == [("a", 60 * SECOND, run_id("proj", "a", NOON + 60 * SECOND))]
    assert await stage.sent() == []


@played
async def test_what_was_sent_is_told_as_of_any_call(stage: Stage) -> None:
    told: list[tuple[str, str, bool]] = []

    @signals.after_task_publish.connect
    def published(sender: str, headers: dict[str, Any], **_: Any) -> None:
        told.append((sender, headers["id"], threading.current_thread() is threading.main_thread()))

    app = stage.app(task_send_sent_event=True, beat_schedule={"a": every(60)})
    link = await memory.connect(stage.broker)
    await link.declare(Exchange("celeryev", "topic"), Queue("seen"), Binding("celeryev", "seen", "task.sent"))
    await stage.leading(app)
    stage.clock.now = NOON + 60 * SECOND
    ((_, _, id),) = await stage.sent(1)
    await stage.until(lambda: told)
    await stage.until(lambda: len(memory.broker(stage.broker).queues["seen"]))

    assert told == [("t", id, False)], "in a thread: it may block"
    event = await link.get("seen")
    assert event is not None
    assert id.encode() in event.body


@played
async def test_a_clock_that_jumps_forward_is_an_outage_to_each_policy(stage: Stage) -> None:
    beat = await stage.leading(stage.app(beat_schedule=POLICIES))
    stage.clock.now = NOON + 35 * 60 * SECOND
    found = await stage.dues(4)
    await stage.settle(beat)

    assert found + await stage.dues() == [
        ("all", "0:10:00"),
        ("all", "0:20:00"),
        ("all", "0:30:00"),
        ("latest", "0:30:00"),
    ]


@played
async def test_after_a_clock_that_was_put_back_intervals_go_on_and_crontabs_repeat_nothing(
    stage: Stage,
) -> None:
    entries = {"interval": every(600), "cron": {"task": "t", "schedule": crontab("*/10")}}
    beat = await stage.leading(stage.app(beat_schedule=entries))
    stage.clock.now = NOON + HOUR + SECOND
    first = await stage.sent(2)
    await stage.settle(beat)
    stage.clock.now = NOON + SECOND
    await stage.settle(beat)
    stage.clock.now = NOON + 10 * 60 * SECOND + SECOND
    second = await stage.sent(1)
    stage.clock.now = NOON + HOUR + 10 * 60 * SECOND + SECOND
    third = await stage.sent(2)

    ten = 600 * SECOND
    assert sorted(each[:2] for each in first) == [("cron", HOUR), ("interval", HOUR)]
    assert [each[:2] for each in second] == [("interval", ten + SECOND)]
    assert sorted(each[:2] for each in third) == [("cron", HOUR + ten), ("interval", HOUR + ten + SECOND)]
    ids = [each[2] for each in first + second + third]
    assert len(set(ids)) == len(ids)


@played
async def test_what_was_missed_while_no_beat_ran_is_for_the_policy_of_the_next(stage: Stage) -> None:
    app = stage.app(beat_schedule=POLICIES)
    await stage.end(await stage.leading(app))
    stage.clock.now = NOON + 35 * 60 * SECOND
    beat = await stage.leading(app)
    found = await stage.dues(4)
    await stage.settle(beat)

    assert found + await stage.dues() == [
        ("all", "0:10:00"),
        ("all", "0:20:00"),
        ("all", "0:30:00"),
        ("latest", "0:30:00"),
    ]


@played
async def test_the_next_beat_takes_over_from_one_that_was_killed(stage: Stage) -> None:
    app = stage.app(beat_schedule={"a": every(1, "all")})
    first = await stage.leading(app)
    second = await stage.start(stage.app(beat_schedule={"a": every(1, "all")}))
    stage.clock.now = NOON + 3 * SECOND
    before = await stage.sent(3)
    assert not second.leads
    await stage.kill(first)
    await stage.until(lambda: second.leads)
    stage.clock.now = NOON + 5 * SECOND
    after = await stage.sent(2)

    assert [each[1] for each in before + after] == [number * SECOND for number in range(1, 6)]
    assert await stage.sent() == []


@played
async def test_a_wish_for_a_run_outlives_the_leader_that_did_not_see_it(stage: Stage) -> None:
    app = stage.app(beat_schedule={"a": every(3600)})
    await stage.end(await stage.leading(app))
    link = await memory.connect(stage.broker)
    wish = note(queue_of("proj").name, "run", {"entry": "a"})
    link.post(codec.pack(wish), lambda error: None)
    await stage.leading(app)
    (entry, due, _), *more = await stage.sent(1)

    assert (entry, due, more) == ("a", f"run {wish.properties.message_id}", [])
    await stage.end(next(iter(stage.beats)))
    await stage.leading(app)
    assert await stage.sent() == [], "it was carried out already"


@played
async def test_an_entry_that_the_broker_refuses_does_not_hold_up_the_others(stage: Stage) -> None:
    bad = {"options": {"exchange": "nowhere", "routing_key": "x", "countdown": 60}}
    beat = await stage.leading(stage.app(beat_schedule={"bad": every(60, **bad), "good": every(60)}))
    for number in range(1, 4):
        stage.clock.now = NOON + number * 60 * SECOND
        assert await stage.dues(1) == [("good", f"0:0{number}:00")]

    assert beat.leads


class Table(Scheduler):
    """Entries that change while beat runs, as a database's do."""

    refresh = 0.001
    rows: Mapping[str, Any] | None = None

    def entries(self) -> Mapping[str, Entry]:
        if self.rows is None:
            raise OSError("the database is away")
        return {name: read(name, line) for name, line in self.rows.items()}


@played
async def test_a_scheduler_of_one_s_own_is_asked_again(stage: Stage) -> None:
    Table.rows = {"a": every(60)}
    beat = await stage.leading(stage.app(beat_scheduler=f"{__name__}:Table"))
    Table.rows = None
    await stage.until(lambda: "cannot be read; the entries stay" in stage.caplog.text)
    Table.rows = {"a": every(60), "bad": every(60, args=[object()])}
    await stage.until(lambda: "beat_schedule['bad'] cannot be sent" in stage.caplog.text)
    stage.clock.now = NOON + 60 * SECOND
    assert await stage.dues(1) == [("a", "0:01:00")]
    Table.rows = {"b": every(30)}
    await stage.until(lambda: set(beat.agenda.entries) == {"b"})
    stage.clock.now = NOON + 120 * SECOND

    assert await stage.dues(2) == [("b", "0:01:30"), ("b", "0:02:00")]


@pytest.mark.parametrize("embedded", [True, False])
def test_beat_says_that_it_starts(
    embedded: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, object]] = []

    @signals.beat_init.connect
    def started(sender: object, **_: Any) -> None:
        told.append(("beat_init", sender))

    @signals.beat_embedded_init.connect
    def beside_a_worker(sender: object, **_: Any) -> None:
        told.append(("beat_embedded_init", sender))

    @played
    async def start(stage: Stage) -> None:
        beat = Beat(stage.app(), embedded=embedded, now=stage.clock)
        stage.beats[beat] = asyncio.create_task(beat.run())
        await stage.until(lambda: beat.leads)
        assert told == [("beat_init", beat), *([("beat_embedded_init", beat)] if embedded else [])]

    start(monkeypatch, caplog)


@played
async def test_beats_of_two_apps_lead_side_by_side(stage: Stage) -> None:
    one = await stage.leading(stage.app("one", beat_schedule={"a": every(60)}))
    two = await stage.leading(stage.app("two", beat_schedule={"a": every(60)}))
    stage.clock.now = NOON + 60 * SECOND
    found = await stage.sent(2)

    assert one.leads
    assert two.leads
    assert {each[2] for each in found} == {run_id(name, "a", stage.clock.now) for name in ("one", "two")}


@played
async def test_a_beat_of_another_project_under_the_same_name_is_told(stage: Stage) -> None:
    await stage.leading(stage.app("tasks", beat_schedule={"ours": every(60)}))
    await stage.start(stage.app("tasks", beat_schedule={"ours": every(60), "more": every(60)}))
    await stage.start(stage.app("tasks", beat_schedule={}))
    assert "set beat_name" not in stage.caplog.text
    await stage.start(stage.app("tasks", beat_schedule={"theirs": every(60)}))
    await stage.until(lambda: "set beat_name" in stage.caplog.text)


def test_an_app_without_a_name_needs_a_beat_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="beat_name"):
        lease_name(App(broker="memory://", set_as_current=False))
    assert lease_name(App(broker="memory://", set_as_current=False, beat_name="b")) == "b"


@played
async def test_what_is_added_is_checked_by_the_leader(stage: Stage) -> None:
    beat = await stage.leading(stage.app(beat_schedule={"own": every(60)}))
    link = await memory.connect(stage.broker)
    await link.declare(Queue("answers"))

    async def answer(name: str, task: str = "t", args: Any = ()) -> dict[str, Any]:
        line = {"task": task, "schedule": {"every": 60}, "args": args}
        said = note(queue_of("proj").name, "add", {"entry": name, "given": line}, reply_to="answers")
        link.post(codec.pack(said), lambda error: None)
        await stage.until(lambda: len(memory.broker(stage.broker).queues["answers"]))
        found = await link.get("answers")
        assert found is not None
        return dict(orjson.loads(found.body))

    assert await answer("good") == {"ok": "add: good"}
    assert await answer("odd", "tt") == {
        "ok": "add: odd",
        "remark": "no task is named 'tt'; did you mean 't'?",
    }
    assert "too many positional arguments" in (await answer("many", args=[1]))["error"]
    assert "in the app's own schedule" in (await answer("own"))["error"]
    assert set(beat.agenda.entries) == {"own", "good", "odd"}


@played
async def test_an_entry_removed_and_added_again_begins_anew(stage: Stage) -> None:
    app = stage.app()
    beat = await stage.leading(app)
    link = await memory.connect(stage.broker)

    async def tell(command: str) -> None:
        given = {"task": "t", "schedule": {"every": 600}}
        before = beat._saved
        said = note(queue_of("proj").name, command, {"entry": "x", "given": given})
        link.post(codec.pack(said), lambda error: None)
        await stage.until(lambda: beat._saved != before)

    await tell("add")
    await tell("remove")
    stage.clock.now = NOON + HOUR
    await tell("add")
    await stage.settle(beat)
    assert await stage.sent() == [], "it was not due while it did not exist"
    stage.clock.now = NOON + HOUR + 600 * SECOND

    assert await stage.dues(1) == [("x", "1:10:00")]


@played
async def test_a_beat_can_be_stopped_while_the_broker_takes_nothing(stage: Stage) -> None:
    beat = await stage.leading(stage.app(beat_schedule={"a": every(60)}))
    broker = memory.broker(stage.broker)
    broker.block("out of disk")
    stage.clock.now = NOON + 60 * SECOND
    await stage.until(lambda: any(link._waiting for link in broker._links))
    await stage.end(beat)

    assert "takes nothing (out of disk)" in stage.caplog.text


@played
async def test_a_broker_that_is_not_there_yet_is_waited_for(stage: Stage) -> None:
    memory.broker(stage.broker).refuse_connections()
    beat = Beat(stage.app(beat_schedule={"a": every(60)}), now=stage.clock)
    stage.beats[beat] = asyncio.create_task(beat.run())
    await stage.until(lambda: "refuses connections" in stage.caplog.text)
    memory.broker(stage.broker).accept_connections()
    await stage.until(lambda: beat.leads)


@played
async def test_a_refusal_at_the_start_is_an_error(stage: Stage) -> None:
    memory.broker(stage.broker).refuse_connections(AccessRefused("no"))
    with pytest.raises(AccessRefused):
        await Beat(stage.app(), now=stage.clock).run()


CHANGES = [
    ("Europe/Berlin", "2026-03-29", "02:30", "03:00+0200", 23),
    ("Europe/Berlin", "2026-10-25", "02:30", "02:30+0200", 25),
    ("America/New_York", "2026-03-08", "02:30", "03:00-0400", 23),
    ("America/New_York", "2026-11-01", "01:30", "01:30-0400", 25),
    # Half an hour: the clock goes from 02:00 to 02:30, and from 02:00 back to 01:30.
    ("Australia/Lord_Howe", "2026-10-04", "02:15", "02:30+1100", 23),
    ("Australia/Lord_Howe", "2026-04-05", "01:45", "01:45+1100", 24),
]
"""Zone, day, a time of day in the gap or twice there, when it runs, and how many full hours the day has."""


@pytest.mark.parametrize(("zone", "day", "time_of_day", "runs_at", "hours"), CHANGES, ids=str)
def test_a_day_with_a_change_of_the_clock_and_of_the_leader(
    zone: str,
    day: str,
    time_of_day: str,
    runs_at: str,
    hours: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The leader is killed right after the change; each run is sent once, none is skipped."""
    place = ZoneInfo(zone)
    hour, minute = time_of_day.split(":")
    entries = {
        "daily": {"task": "t", "schedule": crontab(minute, hour, tz=zone), "catch_up": "all"},
        "hourly": {"task": "t", "schedule": crontab(0, tz=zone), "catch_up": "all"},
    }

    @played
    async def walked(stage: Stage) -> None:
        midnight = datetime.fromisoformat(day).replace(tzinfo=place).astimezone(UTC)
        stage.clock.now = midnight - SECOND
        found = []
        app = stage.app(beat_schedule=entries)
        beat = await stage.leading(app)
        for _ in range(52):
            stage.clock.now += HOUR / 2
            await stage.settle(beat)
            found += await stage.sent()
            if stage.clock.now - midnight == 5 * HOUR / 2 - SECOND:
                await stage.kill(beat)
                beat = await stage.leading(app)
        local = [
            (entry, (NOON + due).astimezone(place).strftime("%Y-%m-%d %H:%M%z")) for entry, due, _ in found
        ]
        of_day = [each for each in local if each[1].startswith(day)]

        assert len({each[2] for each in found}) == len(found)
        assert [at for entry, at in of_day if entry == "daily"] == [f"{day} {runs_at}"]
        assert len([at for entry, at in of_day if entry == "hourly"]) == hours

    walked(monkeypatch, caplog)
