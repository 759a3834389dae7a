"""`amqptasks top`: what a frame shows, what keys do, and that the terminal is as it was afterwards."""

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amqptasks.cli import columns, drawing, terminal
from amqptasks.cli.screen import TABS, Gathered, View, frame, room_of
from amqptasks.cli.top import Asked, gathered
from amqptasks.errors import BrokerUnavailable
from amqptasks.monitor.snapshot import Overview, QueueRow, TaskRow
from tests.support.observing import FakeObserver, overview
from tests.support.terminals import Terminal

ROOT = Path(__file__).resolve().parents[2]


def told(observer: FakeObserver | None = None) -> Gathered:
    made = observer or FakeObserver()
    asked = [
        Asked("dead letters", lambda: (made.letters, "")),
        Asked("schedule", lambda: (made.schedules().rows, "")),
    ]
    for each in asked:
        each._asking.acquire()
        each._take()
    return gathered(made, *asked)  # type: ignore[arg-type]


def drawn(
    given: Gathered | None = None, view: View | None = None, cells: int = 120, height: int | None = 40
) -> list[str]:
    return frame(given or told(), view or View(), cells, height, coloured=False)


def text(lines: list[str]) -> str:
    return "\n".join(lines)


# --- frames ----------------------------------------------------------------------------------------------


def test_the_first_page_shows_a_little_of_everything() -> None:
    shown = text(drawn(cells=180))

    for part in ("RabbitMQ 3.13.7", "workers 2/3 online", "active 4", "ready 1293", "dead 7", "started 40.2",
                 "NOBODY CONSUMES: reports", "w1@shop", "prefork 4 2-8", "GONE", "shop.charge", "crashed", "nightly",
                 "█", "p99"):  # fmt: skip
        assert part in shown, part


def test_a_queue_that_nobody_consumes_stands_out() -> None:
    lines = frame(told(), View(tab=1), 120, 30, coloured=True)

    (row,) = [line for line in lines if line.startswith("\x1b[1;37;41mreports")]
    assert "NOBODY CONSUMES" in row
    assert not any(line.startswith("\x1b[1;37;41mmail") for line in lines)


@pytest.mark.parametrize("cells", [1, 2, 10, 20, 40, 79, 120, 300])
@pytest.mark.parametrize("height", [1, 2, 5, 12, 24, 60])
def test_no_frame_is_larger_than_its_window(cells: int, height: int) -> None:
    for tab in range(len(TABS)):
        lines = drawn(view=View(tab=tab), cells=cells, height=height)

        assert len(lines) == height
        assert max(map(drawing.width, lines)) <= cells


def test_a_table_without_room_for_a_row_is_left_out_rather_than_called_empty() -> None:
    lines = drawn(cells=80, height=16)

    assert "no dead letters" not in text(lines)
    assert "no tasks" not in text(lines)


def test_foreign_text_cannot_move_the_cursor() -> None:
    observer = FakeObserver()
    odd = "\x1b[2J\x9b31mred\n\u202eevil"
    observer.task_rows = (TaskRow(id="a", name=odd, args=odd, exception=odd, state="FAILURE", worker=odd),)
    observer.queue_rows = (QueueRow(name=odd, ready=1, consumers=0, nobody_consumes=True),)
    observer.told = overview(unconsumed=(odd,), message=odd, connected=False)

    for tab in range(len(TABS)):
        shown = text(drawn(told(observer), View(tab=tab, word=odd)))

        assert not set(shown) & {"\x1b", "\x9b", "\u202e", "\r"}


def test_a_broker_that_is_away_is_said_first() -> None:
    observer = FakeObserver()
    observer.told = overview(connected=False, message="the connection was closed by the broker")

    lines = drawn(told(observer))

    assert lines[1] == "NO BROKER: the connection was closed by the broker; shown is what was known before"
    assert "mail" in text(lines)


def test_an_alarm_of_the_broker_is_said() -> None:
    observer = FakeObserver()
    observer.told = overview(alarm="low on memory")

    assert drawn(told(observer))[1] == "THE BROKER TAKES NO MESSAGES: low on memory"


def test_sampling_and_missing_events_are_said() -> None:
    observer = FakeObserver()
    observer.told = overview(events=5000.0, sampled=16, dropped=True)
    busy = text(drawn(told(observer)))
    observer.told = overview(task_events=False, rates={})
    silent = text(drawn(told(observer)))

    assert "5000 events/s: 1 of 16 workflows is listed; more events than are taken" in busy
    assert "amqptasks control enable_events" in silent


def test_nothing_at_all_is_a_frame_too() -> None:
    lines = frame(Gathered(Overview(), {}), View(), 80, 24, coloured=True)

    assert len(lines) == 24


def test_everything_is_printed_where_there_is_no_screen() -> None:
    lines = drawn(cells=200, height=None)

    shown = text(lines)
    assert "quit" not in shown
    assert all(row.id in shown for row in FakeObserver().task_rows)
    assert all(row.name in shown for row in FakeObserver().queue_rows)


# --- keys ------------------------------------------------------------------------------------------------


def press(view: View, *keys: str) -> bool:
    return all(view.press(key, 10) for key in keys)


def test_sections_are_reached_by_tab_and_number() -> None:
    view = View()

    press(view, "tab", "tab")
    assert TABS[view.tab] == "workers"
    press(view, "backtab", "backtab", "backtab")
    assert TABS[view.tab] == "schedule"
    press(view, "4")
    assert TABS[view.tab] == "tasks"
    press(view, "9")
    assert TABS[view.tab] == "tasks"


def test_arrows_choose_the_column_and_r_turns_the_order() -> None:
    view = View(tab=1)
    names = [line.split()[0] for line in drawn(view=view)[7:11]]
    press(view, "right")
    by_ready = [line.split()[0] for line in drawn(view=view)[7:11]]
    press(view, "r")
    by_most = [line.split()[0] for line in drawn(view=view)[7:11]]

    assert names == ["mail", "orders", "reports", "soon"]
    assert by_ready == ["soon", "orders", "mail", "reports"]
    assert by_most == by_ready[::-1]
    press(view, "left", "left")
    assert view.sort(columns.QUEUES)[0] == len(columns.QUEUES.columns) - 1


def test_a_filter_is_typed_and_dropped() -> None:
    view = View(tab=3)

    press(view, "/", *"DECLX", "backspace")
    typing = drawn(view=view)
    press(view, "enter")
    kept = drawn(view=view)

    assert typing[-1].startswith("filter: DECL_")
    assert [line for line in kept if "shop." in line and "FAILURE" not in line] == []
    assert "FAILURE" in text(kept)
    press(view, "escape")
    assert view.word == ""
    press(view, "/", *"quit", "enter")  # q is a letter here
    assert view.word == "quit"
    assert "no tasks with 'quit'" in text(drawn(view=view))


def test_scrolling_ends_at_the_last_page() -> None:
    observer = FakeObserver()
    observer.queue_rows = tuple(QueueRow(name=f"q{number:03}") for number in range(100))
    view, given = View(tab=1), told(observer)
    page = room_of(given, 120, 20)

    press(view, "end")
    last = drawn(given, view, height=20)
    press(view, "up")
    before = drawn(given, view, height=20)
    press(view, "home")
    first = drawn(given, view, height=20)

    assert last[-2].startswith("q099")
    assert before[-2].startswith("q098")
    assert first[-2].startswith(f"q{page - 1:03}")


def test_q_ends_and_p_pauses() -> None:
    view = View()

    assert press(view, "p") and view.paused
    assert "PAUSED" in drawn(view=view)[-1]
    assert not press(view, "q")


def test_internal_queues_are_shown_when_wanted() -> None:
    view, observer = View(tab=1), FakeObserver()

    press(view, "i")

    assert "amqptasks.delay.1.5" in text(drawn(gathered(observer, internal=view.internal), view))  # type: ignore[arg-type]
    press(view, "i")
    assert "amqptasks.delay.1.5" not in text(drawn(gathered(observer, internal=view.internal), view))  # type: ignore[arg-type]


def test_keys_are_named() -> None:
    named = list(terminal._named("a\x1b[A\x1bOB\x1b[Z\t\r\x7f\x1b[5~\x1b[99;5u\x1bé"))

    assert named == ["a", "up", "down", "backtab", "tab", "enter", "backspace", "pageup", "escape", "é"]


def test_rows_that_are_asked_for_tell_why_there_are_none() -> None:
    def refuse() -> tuple[tuple[()], str]:
        raise BrokerUnavailable("no beat answers")

    asked = Asked("schedule", refuse)
    asked.look()
    deadline = time.monotonic() + 60
    while asked.why != "no beat answers":
        assert time.monotonic() < deadline
        time.sleep(0.005)

    shown = frame(gathered(FakeObserver(), asked), View(tab=5), 80, 20, coloured=False)  # type: ignore[arg-type]

    assert "no beat answers" in text(shown)


# --- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cells", "fitted"),
    [("abc", 5, "abc  "), ("abcdef", 4, "abc…"), ("日本語", 5, "日本…"), ("日本語", 4, "日… "), ("e\u0301e", 2, "e\u0301e"), ("ab", 0, ""),
     ("a\nb\x00", 4, "a b·")],
)  # fmt: skip
def test_text_is_fitted_by_cells(given: str, cells: int, fitted: str) -> None:
    assert drawing.fitted(given, cells) == fitted
    assert drawing.width(fitted) == cells


def test_numbers_are_short() -> None:
    assert [drawing.count(n) for n in (None, 0, 9999, 10_000, 81_234, 999_999, 1_234_567)] == [
        "-", "0", "9999", "10k", "81.2k", "1M", "1.23M",
    ]  # fmt: skip
    assert [drawing.span(s) for s in (None, 0.0, 0.012, 1.5, 12.0, 125.0, 7200.0, 200_000.0)] == [
        "-", "0ms", "12ms", "1.5s", "12s", "2.1m", "2.0h", "2.3d",
    ]  # fmt: skip
    assert [drawing.size(n) for n in (None, 512, 61_865_984)] == ["-", "512B", "59.0M"]
    assert [drawing.rate(n) for n in (None, 0.25, 99.95, 5000.0)] == ["-", "0.2", "100.0", "5000"]


def test_sparklines_scale_to_the_highest_and_show_gaps() -> None:
    assert drawing.sparkline([0.0, 1.0, None, 2.0], 10) == "▁▅ █"
    assert drawing.sparkline([5.0, 0.0, 0.0], 2) == "▁▁"
    assert drawing.sparkline([], 5) == ""


# --- the terminal ----------------------------------------------------------------------------------------

PROGRAM = """
import sys
from tests.support.observing import FakeObserver
from amqptasks.cli import top
observer = FakeObserver()
if "break" in sys.argv:
    turns = iter(range(3))
    whole = observer.overview
    def overview():
        if next(turns, None) is None:
            raise RuntimeError("odd")
        return whole()
    observer.overview = overview
if "noise" in sys.argv:
    sys.stderr.write("a log line")
    whole_queues = observer.queues
    def queues(**given):
        sys.stderr.write("NOISE")
        return whole_queues(**given)
    observer.queues = queues
top._watch(observer, 0.05, 3 if "three" in sys.argv else None, coloured=True)
print("AFTERWARDS")
"""


@pytest.fixture
def screen(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    words = getattr(request, "param", "")
    with Terminal(
        [sys.executable, "-c", PROGRAM, words], env={"PYTHONPATH": str(ROOT)}, cwd=str(ROOT)
    ) as started:
        yield started


def test_keys_change_the_screen_and_q_leaves_it_as_it_was(screen: Terminal) -> None:
    screen.wait("4 tasks")
    screen.press("\x1b[Z")
    screen.wait("<crontab")
    screen.press("4/card")
    screen.wait("filter: card_")
    screen.press("\r")
    screen.wait(
        lambda lines: (
            any("FAILURE" in line for line in lines) and not any("SUCCESS" in line for line in lines)
        )
    )
    screen.press("q")

    assert screen.wait_end() == 0
    screen.assert_restored()
    assert "AFTERWARDS" in screen.read


@pytest.mark.parametrize(
    ("end", "code"), [("\x03", 1), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1), (signal.SIGINT, 1)]
)
def test_it_is_restored_however_it_ends(screen: Terminal, end: str | signal.Signals, code: int) -> None:
    screen.wait("w1@shop")
    if isinstance(end, str):
        screen.press(end)
    else:
        screen.signal(end)

    ended = screen.wait_end()

    assert ended in (code, -signal.SIGINT)
    screen.assert_restored()


@pytest.mark.parametrize("screen", ["break"], indirect=True)
def test_it_is_restored_after_an_error(screen: Terminal) -> None:
    assert screen.wait_end() == 1
    screen.assert_restored()
    assert "RuntimeError: odd" in screen.read[screen.read.rfind("\x1b[?1049l") :]


@pytest.mark.parametrize("screen", ["noise"], indirect=True)
def test_what_is_logged_meanwhile_is_shown_afterwards(screen: Terminal) -> None:
    screen.wait("w1@shop")
    screen.press("q")

    assert screen.wait_end() == 0
    shown, _, afterwards = screen.read.partition("\x1b[?1049l")
    assert "NOISE" not in shown[shown.index("\x1b[?1049h") :]
    assert "NOISE" in afterwards


@pytest.mark.parametrize("screen", ["three"], indirect=True)
def test_it_ends_after_so_many_frames(screen: Terminal) -> None:
    assert screen.wait_end() == 0
    screen.assert_restored()


def test_it_follows_the_size_of_the_window(screen: Terminal) -> None:
    screen.wait(lambda lines: len(lines) == 30)
    screen.resize(60, 12)

    lines = screen.wait(lambda lines: len(lines) == 12)

    assert max(map(drawing.width, lines)) <= 60


def test_it_can_be_suspended_and_goes_on(screen: Terminal) -> None:
    screen.wait("w1@shop")
    screen.signal(signal.SIGTSTP)
    deadline = time.monotonic() + 60
    while _state(screen) != "T":
        assert time.monotonic() < deadline
        screen.drain(0.01)
    screen.assert_restored()
    screen.signal(signal.SIGCONT)
    screen.read = ""

    screen.wait("w1@shop")

    assert screen.read.startswith("\x1b[?1049h")
    screen.press("q")
    assert screen.wait_end() == 0
    screen.assert_restored()


def _state(screen: Terminal) -> str:
    return Path(f"/proc/{screen.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_overview_of_an_absent_broker_is_drawn() -> None:
    observer = FakeObserver()
    observer.told = replace(Overview(), broker="amqp://shop:**@rabbit//", message="not connected yet")
    observer.queue_rows = observer.worker_rows = observer.task_rows = ()

    shown = text(drawn(told(observer)))

    assert "NO BROKER: not connected yet" in shown
    assert "no queues" in shown
