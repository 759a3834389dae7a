"""Which runs are sent, and which are let go: catch-up policies, restarts, clocks that jump."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from amqptasks import App
from amqptasks.beat.agenda import AT_A_TIME, Agenda
from amqptasks.beat.entries import Entry, read, run_id
from amqptasks.beat.planning import AT_ONCE, plan
from amqptasks.beat.scheduler import Scheduler, open_scheduler
from amqptasks.beat.state import KEPT, State
from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import crontab, schedule

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def entry(policy: str = "latest", every: Any = 3600) -> Entry:
    return read("e", {"task": "t", "schedule": every, "catch_up": policy})


@pytest.mark.parametrize("policy", ["all", "latest", "none"])
def test_what_is_late_by_seconds_is_sent_under_every_policy(policy: str) -> None:
    planned = plan(entry(policy, 2), NOON, NOON + 7 * SECOND)

    assert planned.send == (NOON + 2 * SECOND, NOON + 4 * SECOND, NOON + 6 * SECOND)
    assert planned.last == NOON + 6 * SECOND
    assert planned.dropped == 0


@pytest.mark.parametrize(("policy", "hours"), [("all", [1, 2, 3]), ("latest", [3]), ("none", [])])
def test_what_was_missed_is_for_the_policy(policy: str, hours: list[int]) -> None:
    planned = plan(entry(policy), NOON, NOON + 3.5 * HOUR)

    assert planned.send == tuple(NOON + hour * HOUR for hour in hours)
    assert planned.last == NOON + 3 * HOUR
    assert planned.dropped == 3 - len(hours)


def test_latest_sends_nothing_old_where_something_prompt_follows() -> None:
    assert plan(entry("latest"), NOON, NOON + 3 * HOUR + SECOND).send == (NOON + 3 * HOUR,)


def test_nothing_is_due_twice_when_the_clock_goes_back() -> None:
    first = plan(entry(), NOON, NOON + HOUR)

    assert first.send == (NOON + HOUR,)
    assert plan(entry(), first.last, NOON).send == ()
    assert plan(entry(), first.last, NOON + 2 * HOUR).send == (NOON + 2 * HOUR,)


@pytest.mark.parametrize("policy", ["all", "latest", "none"])
def test_a_long_time_is_caught_up_in_portions(policy: str) -> None:
    last, now, sent = NOON, NOON + 2.5 * AT_ONCE * SECOND, []
    for _ in range(3):
        planned = plan(entry(policy, 1), last, now)
        sent += planned.send
        last = planned.last

    assert last == now
    prompt = 61
    assert len(sent) == {"all": 2.5 * AT_ONCE, "latest": prompt, "none": prompt}[policy]
    assert sent[-1] == now


def test_latest_sends_the_last_run_however_many_were_missed() -> None:
    """A thousand exactly fill one portion: the next one is empty."""
    planned = plan(entry("latest"), NOON, NOON + (AT_ONCE + 0.5) * HOUR)

    assert planned.send == (NOON + AT_ONCE * HOUR,)
    assert planned.complete


def test_a_deadline_is_for_crontabs() -> None:
    hourly = entry("all", crontab(0))

    assert len(plan(hourly, NOON, NOON + 3.5 * HOUR, UTC, 7200).send) == 2
    assert len(plan(entry("all"), NOON, NOON + 3.5 * HOUR, UTC, 7200).send) == 3


def test_ids_depend_on_name_and_due_time_alone() -> None:
    berlin = NOON.astimezone(crontab(tz="Europe/Berlin").tz)

    assert run_id("b", "e", NOON) == run_id("b", "e", berlin)
    assert (
        len(
            {
                run_id("b", "e", NOON),
                run_id("b", "f", NOON),
                run_id("c", "e", NOON),
                run_id("b", "e", NOON + HOUR),
            }
        )
        == 4
    )
    assert run_id("b", "e", NOON) == "9d311f5f-99d1-5ba3-96af-82f25c019786", (
        "changed, hand-overs between versions double"
    )


def test_an_entry_says_what_is_wrong_with_it() -> None:
    for given, words in [
        ({"schedule": 1}, "needs 'task'"),
        ({"task": "t"}, "'schedule'"),
        ({"task": "t", "schedule": 1, "arg": ()}, "there is no arg"),
        ({"task": "t", "schedule": 1, "catch_up": "some"}, "one of all, latest, none"),
        ({"task": "t", "schedule": "soon"}, "no schedule"),
    ]:
        with pytest.raises(ImproperlyConfigured, match=r"beat_schedule\['e'\]") as caught:
            read("e", given)
        assert words in str(caught.value)


# --- state ---


def test_a_state_survives_its_snapshot_to_the_microsecond() -> None:
    state = State()
    moment = datetime(2026, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
    state.adopt([entry()], moment)
    state.command("pause", "e", {})
    state.command("add", "f", {"task": "t"})
    again = State.load(state.dump(7))

    assert again.records["e"].last == moment
    assert again.number == 7
    assert (again.paused, again.added) == ({"e"}, {"f": {"task": "t"}})


def test_what_is_told_twice_or_late_changes_nothing() -> None:
    state = State()
    state.sent("e", NOON + HOUR)
    state.sent("e", NOON)
    assert state.records["e"].last == NOON + HOUR
    at = {"at": (NOON + 3 * HOUR).isoformat()}
    state.command("pause", "e", {})
    state.command("resume", "e", at)
    assert state.records["e"].last == NOON + 3 * HOUR, "what was due while it was paused is not sent"
    state.command("resume", "e", {"at": (NOON + 9 * HOUR).isoformat()})
    assert state.records["e"].last == NOON + 3 * HOUR, "it was not paused"
    assert not state.command("remove", "e", {})


def test_a_new_entry_begins_now_and_a_changed_one_anew() -> None:
    state = State()
    state.adopt([entry(every=60)], NOON)
    state.adopt([entry(every=60)], NOON + HOUR)
    assert state.records["e"].last == NOON
    state.adopt([entry(every=30)], NOON + HOUR)
    assert state.records["e"].last == NOON + HOUR


def test_a_run_known_by_its_copy_alone_is_where_its_entry_stands() -> None:
    state = State()
    state.sent("e", NOON)
    state.adopt([entry()], NOON + 5 * HOUR)

    assert state.records["e"].last == NOON


def test_an_entry_that_is_gone_is_remembered_for_a_while() -> None:
    state = State()
    state.adopt([entry()], NOON)
    state.adopt([], NOON + KEPT)
    assert "e" in state.records
    state.adopt([], NOON + KEPT + SECOND)
    assert "e" not in state.records


# --- agenda ---


def test_the_agenda_gives_each_run_once_and_those_that_failed_again() -> None:
    state = State()
    entries = {name: read(name, {"task": "t", "schedule": 60}) for name in ("a", "b", "c")}
    state.adopt(entries.values(), NOON)
    state.command("pause", "c", {})
    agenda = Agenda(entries, state, UTC, None, NOON)
    assert agenda.wait(NOON) == 60
    runs, dropped = agenda.due(NOON + 61 * SECOND, 10)
    assert ([run.entry.name for run in runs], dropped) == (["a", "b"], 0)
    assert agenda.due(NOON + 61 * SECOND, 10) == ([], 0), "they are being sent"
    state.sent("a", runs[0].due)
    agenda.sent(runs, {"b"}, NOON + 61 * SECOND)

    assert agenda.wait(NOON + 61 * SECOND) == 1, "another try"
    later, _ = agenda.due(NOON + 120 * SECOND, 10)
    assert {(run.entry.name, run.due) for run in later} == {
        ("a", NOON + 120 * SECOND),
        ("b", NOON + 60 * SECOND),
        ("b", NOON + 120 * SECOND),
    }
    assert agenda.table()[2]["paused"]


def test_people_are_told_of_runs_that_were_sent_alone() -> None:
    """An entry counts from when it was first seen, or resumed; nothing ran then, and nobody may read so."""
    state = State()
    entries = {name: entry("none", 3600) for name in ("new", "ran", "missed", "resumed")}
    state.adopt([read(name, {"task": "t", "schedule": 3600}) for name in entries], NOON)
    state.sent("ran", NOON + HOUR)
    state.records["missed"].last = NOON + HOUR  # let go
    state.command("pause", "resumed", {})
    state.command("resume", "resumed", {"at": (NOON + HOUR).isoformat()})
    kept = State.load(orjson.loads(orjson.dumps(state.dump(2))))

    for known in (state, kept):
        rows = {row["name"]: row for row in Agenda(entries, known, UTC, None, NOON).table()}
        assert {name: row["last"] for name, row in rows.items()} == {
            "new": None,
            "ran": (NOON + HOUR).isoformat(),
            "missed": None,
            "resumed": None,
        }
        assert rows["ran"]["next"] == rows["missed"]["next"] == (NOON + 2 * HOUR).isoformat()
        assert rows["new"]["next"] == (NOON + HOUR).isoformat()


def test_another_schedule_begins_anew_and_remembers_its_last_run() -> None:
    state = State()
    state.adopt([entry(every=3600)], NOON)
    state.sent("e", NOON + HOUR)
    state.adopt([entry(every=60)], NOON + 2 * HOUR)

    assert state.records["e"].last == NOON + 2 * HOUR
    assert state.records["e"].sent == NOON + HOUR


def test_hundreds_of_thousands_of_missed_runs_are_let_go_in_turns(caplog: pytest.LogCaptureFixture) -> None:
    """In one turn they would hold the loop up until the lease is lost, and the next beat's, again and again."""
    state, now = State(), NOON + 20_000 * SECOND
    entries = {name: read(name, {"task": "t", "schedule": 1, "catch_up": "none"}) for name in "abcdefgh"}
    state.adopt(entries.values(), NOON)
    agenda = Agenda(entries, state, UTC, None, now)
    gone, turns = 0, 0
    while agenda.overdue(now):
        runs, dropped = agenda.due(now, 1000)
        assert dropped <= AT_A_TIME + AT_ONCE
        gone, turns = gone + dropped, turns + 1
        for run in runs:
            state.sent(run.entry.name, run.due)
        agenda.sent(runs, (), now)

    assert gone == 8 * (20_000 - 61)
    assert turns > 3
    assert caplog.text.count("missed 19939 runs") == 8, "each entry says it once"


def test_what_fails_for_long_is_tried_again_more_and_more_rarely() -> None:
    state = State()
    entries = {"e": entry("all", 3600)}
    state.adopt(entries.values(), NOON)
    now = NOON + HOUR
    agenda = Agenda(entries, state, UTC, None, now)
    pauses = []
    for _ in range(8):
        runs, _ = agenda.due(now, 10)
        agenda.sent(runs, {"e"}, now)
        pauses.append(agenda.wait(now))
        now += pauses[-1] * SECOND

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_app_tells_its_entries_by_settings_and_by_code() -> None:
    app = App("proj", broker="memory://", set_as_current=False, beat_catch_up="none")
    app.conf.beat_schedule = {"a": {"task": "x", "schedule": schedule(5), "options": {"queue": "q"}}}

    @app.task(name="hello")
    def hello(name: str) -> None: ...

    @app.on_after_configure.connect
    def setup(sender: App, **_: object) -> None:
        sender.add_periodic_task(10.0, hello.s("a"), name="b", expires=5, catch_up="all")
        assert sender.add_periodic_task(crontab(), hello.s("world")) == "hello('world')"

    app.finalize()
    found = open_scheduler(app).entries()

    assert set(found) == {"a", "b", "hello('world')"}
    assert found["a"].options == {"queue": "q"}
    assert (found["b"].task, found["b"].args, found["b"].options) == ("hello", ("a",), {"expires": 5})
    assert [found[name].catch_up for name in ("a", "b")] == ["none", "all"]


class FromTable(Scheduler):
    """A scheduler of the user's own."""

    def entries(self) -> dict[str, Entry]:
        return {"row": read("row", {"task": "t", "schedule": 1})}


def test_a_setting_names_another_scheduler() -> None:
    app = App("proj", broker="memory://", set_as_current=False, beat_scheduler=f"{__name__}:FromTable")
    assert set(open_scheduler(app).entries()) == {"row"}
    app.conf.beat_scheduler = "amqptasks.app:App"
    with pytest.raises(ImproperlyConfigured, match="beat_scheduler"):
        open_scheduler(app)
