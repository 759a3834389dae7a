"""Commands of one's own: how they are declared, what they are given, and that a worker answers for them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from amqptasks import App
from amqptasks.commands import BUILT_IN, SHARED, CommandState, control_command
from amqptasks.errors import ImproperlyConfigured
from amqptasks.testing import running_worker
from amqptasks.worker import manifest
from amqptasks.worker.commands import COMMANDS
from amqptasks.worker.inspecting import ALIASES

NODE = "test@localhost"


@pytest.fixture
def app() -> App:
    return App("own", broker=f"memory://{uuid.uuid4()}", set_as_current=False)


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares for every app is gone after it."""
    before = dict(SHARED)
    monkeypatch.setattr("amqptasks.commands.SHARED", SHARED)
    yield
    SHARED.clear()
    SHARED.update(before)


def test_the_names_of_the_workers_own_commands_are_known() -> None:
    assert set(COMMANDS) | set(ALIASES) == BUILT_IN


def test_a_declaration_without_options_takes_name_and_help_of_the_function(app: App) -> None:
    @app.control_command
    def purge_cache(state: Any) -> None:
        """Forget all.

        And more.
        """

    command = app.commands["purge_cache"]
    assert (command.kind, command.help, command.signature) == ("control", "Forget all.", "")
    assert purge_cache is command.function


def test_words_without_a_default_must_be_there(app: App) -> None:
    @app.inspect_command(args=[("a", int), ("b", int), ("c", int)], variadic="rest")
    def three(state: Any, a: int, b: int, c: int = 3, rest: Any = ()) -> None: ...

    assert app.commands["three"].required == 2
    assert app.commands["three"].signature == "A B [C] [REST...]"


@pytest.mark.parametrize(
    ("name", "said"),
    [("ping", "workers have a command 'ping'"), ("dump_active", "already"), ("taken", "needs another name")],
)
def test_a_name_that_is_taken_is_an_error(app: App, name: str, said: str) -> None:
    @app.control_command(name="first", alias="taken")
    def first(state: Any) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=said):
        app.control_command(name=name)(lambda state: None)


def test_the_same_function_may_be_declared_again(app: App) -> None:
    for _ in range(2):
        app.control_command(_reloaded)

    assert list(app.commands) == ["_reloaded"]


def _reloaded(state: Any) -> None: ...


@pytest.mark.parametrize("options", [{"time_limit": 0}, {"default_timeout": -1.0}])
def test_times_are_above_0(app: App, options: dict[str, float]) -> None:
    with pytest.raises(ImproperlyConfigured, match="seconds above 0"):
        app.control_command(**options)(_reloaded)


def test_text_becomes_what_the_declaration_says_and_other_values_stay(app: App) -> None:
    app.control_command(name="echo", args=[("n", int), ("on", bool)])(lambda state, **given: given)
    state = CommandState(app, NODE)

    assert app.commands["echo"].call(state, {"n": "5", "on": "false"}) == {"n": 5, "on": False}
    assert app.commands["echo"].call(state, {"n": None, "x": "5"}) == {"n": None, "x": "5"}


def test_what_the_state_has_not_is_said_with_a_way_out(app: App) -> None:
    with pytest.raises(AttributeError, match=r"no state.consumer.*state.app.control"):
        _ = CommandState(app, NODE).consumer


def test_the_manifest_names_them_with_their_limits_and_nothing_without(app: App) -> None:
    assert manifest.build(app, queues=(), exclude=()).commands == {}

    app.control_command(name="slow", alias="sluggish", time_limit=60.0)(_reloaded)

    assert manifest.build(app, queues=(), exclude=()).commands == {"slow": 60.0, "sluggish": 60.0}


def test_a_worker_answers_for_them_whatever_they_do(app: App) -> None:
    @control_command(args=[("n", int)])
    def double(state: CommandState, n: int = 1) -> Any:
        return {"ok": [n * 2, state.hostname, state.app.main]}

    @app.control_command
    def leave(state: CommandState) -> None:
        raise SystemExit(1)

    @app.inspect_command
    async def later(state: CommandState) -> Any:
        return {1: {"a set"}}

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    def one(command: str, **arguments: Any) -> Any:
        [reply] = app.control.broadcast(command, arguments, reply=True, destination=[NODE], timeout=60.0)
        return reply[NODE]

    with app, running_worker(app):
        assert one("double", n="4") == {"ok": [8, NODE, "own"]}
        assert "ended the thread" in one("leave")["error"]
        assert one("later") == {"1": "{'a set'}"}
        assert "TypeError" in one("double", m=1)["error"]
        assert one("dou") == {"error": "KeyError('dou')"}
        assert add.delay(1, 2).get(timeout=60) == 3
