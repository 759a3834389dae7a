"""What the project set out to be, statement by statement: results, states and where they are kept.

Each test is named after its rows, its docstring is what they say. What was shown before is in `test_seeds.py`; what needs
a broker's restart or a server is in `integration/test_seeds_results.py`.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, ResultSet, Task
from amqptasks.backends.base import Backend
from amqptasks.contrib.abortable import ABORTED, AbortableTask
from amqptasks.errors import ResultElsewhere, ResultIgnored
from tests.test_seeds import _no_app_of_another_test, broker, working

__all__ = ["_no_app_of_another_test", "broker", "working"]

Working = Callable[[App], None]


@pytest.fixture
def stored(broker: str, tmp_path: Path) -> App:
    """An app whose results go to a database."""
    return App("web", broker=broker, backend=f"db+sqlite:///{tmp_path}/results.db")


def test_row_118_a_result_backend_knows_results_and_nothing_of_workers(broker: str, working: Working) -> None:
    """Tasks and workers are watched elsewhere: the backend has states by id, and a worker runs without any."""
    app = App("proj", broker=broker, backend=None)
    ran: list[int] = []
    add = app.task(name="proj.add", typing=False)(ran.append)
    add.delay(1)
    working(app)
    deadline = time.monotonic() + 60
    while not ran and time.monotonic() < deadline:
        time.sleep(0.01)

    assert ran == [1]
    assert not [name for name in dir(Backend) if "worker" in name or "task" in name]


def test_rows_119_125_get_with_a_timeout_and_a_state_with_its_result(broker: str, working: Working) -> None:
    """`res.get(timeout=1)`; a state holds the result, or the exception and the traceback."""
    app = App("proj", broker=broker)
    divide = app.task(name="proj.divide")(lambda x, y: x / y)
    working(app)
    well, badly = divide.delay(4, 2), divide.delay(1, 0)

    assert well.get(timeout=60) == 2
    assert (well.state, well.result, well.traceback) == ("SUCCESS", 2, None)
    assert isinstance(badly.get(timeout=60, propagate=False), ZeroDivisionError)
    assert isinstance(badly.result, ZeroDivisionError)
    assert "x / y" in str(badly.traceback)


def test_row_126_results_release_what_they_hold(stored: App, working: Working) -> None:
    """A backend keeps every result until `forget()`; over `rpc://` nobody need call it: see tests/backends."""
    add = stored.task(name="web.add")(lambda x, y: x + y)
    working(stored)
    result = add.delay(2, 2)
    result.get(timeout=60)

    assert stored.AsyncResult(result.id).exists()
    result.forget()
    assert not stored.AsyncResult(result.id).exists()


def test_rows_127_to_129_rpc_sends_to_the_caller_alone(broker: str, working: Working) -> None:
    """States are messages; nothing is stored. Here the caller may read one twice; nobody else ever can."""
    app, other = App("proj", broker=broker), App("proj", broker=broker)
    add = app.task(name="proj.add")(lambda x, y: x + y)
    working(app)
    result = add.delay(2, 2)

    assert (result.get(timeout=60), result.get(timeout=60)) == (4, 4)
    with pytest.raises(ResultElsewhere):
        other.AsyncResult(result.id).get(timeout=60)
    other.close()


def test_rows_130_134_nothing_is_polled(broker: str, working: Working) -> None:
    """A waiting client is woken by the message: `interval` is not waited for."""
    app = App("proj", broker=broker)
    add = app.task(name="proj.add")(lambda x, y: x + y)
    result = add.delay(2, 2)
    working(app)

    assert result.get(timeout=60, interval=3600) == 4


def test_row_133_a_database_is_for_who_asks_later_from_elsewhere(
    stored: App, broker: str, working: Working
) -> None:
    """A web application that has a database keeps the results there."""
    add = stored.task(name="web.add")(lambda x, y: x + y)
    working(stored)
    task_id = add.delay(2, 2).id
    other = App("web", broker=broker, backend=stored.conf.result_backend)

    assert other.AsyncResult(task_id).get(timeout=60) == 4
    other.close()


def test_row_134_looking_at_a_database_costs_and_its_interval_can_be_raised(
    stored: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result_polling_interval` is the longest pause between two looks."""
    stored.conf.result_polling_interval = 0.4
    backend: Any = stored.backend
    backend.fetch("t1")
    looks: list[float] = []
    look = backend._records
    monkeypatch.setattr(backend, "_records", lambda ids: looks.append(time.monotonic()) or look(ids))

    with pytest.raises(TimeoutError):
        stored.AsyncResult("t1").get(timeout=1.5)

    # 10, 20 ... 320 ms, then 400 at most: never more often, however busy the machine.
    assert len(looks) <= 10
    stored.close()


def test_row_137_the_six_states(broker: str, working: Working) -> None:
    """PENDING, STARTED, SUCCESS, FAILURE, RETRY, REVOKED; each is seen."""
    app = App("proj", broker=broker, task_track_started=True)
    came = {name: threading.Event() for name in ("STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED")}

    @app.task(name="proj.once_more", bind=True)
    def once_more(self: Task[..., bool]) -> bool:
        # It goes on when the state was seen: only the newest is kept for who is not waiting yet.
        if not self.request.retries:
            raise self.retry(countdown=0, exc=RuntimeError(came["STARTED"].wait(60)))
        return came["RETRY"].wait(60)

    fails = app.task(name="proj.fails")(lambda: 1 / 0)
    results = [once_more.delay(), fails.delay(), fails.apply_async(expires=0.001)]
    time.sleep(0.002)
    pending = results[0].state
    working(app)
    ResultSet(results).get(timeout=60, propagate=False, on_message=lambda state: came[state["status"]].set())

    assert pending == "PENDING"
    assert [name for name, event in came.items() if not event.is_set()] == []


def test_row_138_states_of_one_s_own(broker: str, working: Working) -> None:
    """Any name that is not taken is a state: a task reports it, its caller sees it."""
    app = App("proj", broker=broker)
    seen: list[tuple[str, Any]] = []
    came = threading.Event()

    @app.task(name="proj.load", bind=True)
    def load(self: Task[..., int]) -> int:
        self.update_state(state="PROGRESS", meta={"done": 1})
        came.wait(60)  # only the newest is kept for who is not waiting yet
        return 2

    def on_message(state: dict[str, Any]) -> None:
        seen.append((state["status"], state["result"]))
        came.set()

    result = load.delay()
    working(app)
    result.get(timeout=60, on_message=on_message)

    assert seen == [("PROGRESS", {"done": 1}), ("SUCCESS", 2)]


def test_row_139_abortable_tasks(broker: str, working: Working) -> None:
    """A task that asks now and then whether it is aborted: the state is ABORTED until it has ended."""
    app = App("proj", broker=broker)

    @app.task(name="proj.long", bind=True, base=AbortableTask)
    def long(self: Any) -> str:
        return "stopped" if self.is_aborted() else "went on"

    result: Any = long.delay()
    result.abort()

    assert result.state == ABORTED
    working(app)
    assert result.get(timeout=60) == "stopped"


class Keeps(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Forgets(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_row_140_exceptions_keep_their_arguments(broker: str, working: Working, serializer: str) -> None:
    """One that passes its arguments on to `Exception.__init__` comes back whole. Here one that does not is its class still."""
    app = App("proj", broker=broker, result_serializer=serializer, accept_content=["json", "pickle"])

    @app.task(name="proj.fails")
    def fails(kind: str) -> None:
        raise Keeps(7, "x") if kind == "keeps" else Forgets(7, "x")

    working(app)
    kept = fails.delay("keeps").get(timeout=60, propagate=False)
    forgot = fails.delay("forgets").get(timeout=60, propagate=False)

    assert (type(kept), kept.args, kept.code) == (Keeps, (7, "x"), 7)
    assert (type(forgot), forgot.args) == (Forgets, ("x",))
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(Forgets(7, "x")))


def test_rows_141_142_144_results_that_nobody_wants_are_not_sent(broker: str, working: Working) -> None:
    """`ignore_result=True` on a task, `task_ignore_result` for all; results are wanted unless said otherwise."""
    app, silent = App("proj", broker=broker), App("proj", broker=broker, task_ignore_result=True)
    wanted = app.task(name="proj.wanted")(lambda: 1)
    unwanted = app.task(name="proj.unwanted", ignore_result=True)(lambda: 1)
    none = silent.task(name="proj.none")(lambda: 1)

    assert (app.conf.task_ignore_result, wanted.delay().ignored) == (False, False)
    assert (unwanted.delay().ignored, none.delay().ignored) == (True, True)
    with pytest.raises(ResultIgnored):
        unwanted.delay().get(timeout=1)
    app.close()
    silent.close()


def test_rows_143_145_the_call_wins_over_the_task_and_the_task_over_the_setting(broker: str) -> None:
    """`apply_async(ignore_result=)` decides; `delay(ignore_result=)` is an argument of the task, and says so."""
    app = App("proj", broker=broker, task_ignore_result=True)
    add = app.task(name="proj.add", ignore_result=False)(lambda x: x)

    assert add.delay(1).ignored is False
    assert add.apply_async((1,), ignore_result=True).ignored is True
    with pytest.raises(TypeError, match="apply_async"):
        add.delay(1, ignore_result=True)
    app.close()
