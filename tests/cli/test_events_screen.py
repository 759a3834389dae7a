"""What `amqptasks events` prints of events that anybody may have sent."""

from amqptasks.cli import events as module
from amqptasks.event_state import State

EVENT = {
    "type": "task-received",
    "uuid": "id-1",
    "name": "evil\x1b[2J",
    "args": "('\x1b]0;title\x07',)",
    "hostname": "w1@here\r",
    "timestamp": 1.0,
    "clock": 1,
}


def test_foreign_text_commands_no_terminal(capsys) -> None:
    state = State()
    state.event(EVENT)

    module._draw(state)

    screen = capsys.readouterr().out.removeprefix(module.CLEAR)
    assert "evil" in screen
    assert "\x1b" not in screen + module._line(EVENT)
    assert module._line(EVENT).startswith(
        "w1@here  [1970-01-01 00:00:01.000+00:00] task-received uuid=id-1 name=evil"
    )


def test_the_screen_says_how_it_ends_and_why_it_shows_no_tasks(capsys) -> None:
    state = State()
    state.event({**EVENT, "type": "worker-heartbeat", "hostname": "w1@here"})
    module._draw(state)

    idle = capsys.readouterr().out
    assert "(Ctrl-C ends)" in idle.splitlines()[0]
    assert "control enable_events" in idle
    state.event(EVENT)
    module._draw(state)
    assert "control enable_events" not in capsys.readouterr().out
