"""The database backend, on SQLite; `integration/test_stores.py` has the servers."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from amqptasks import App, states
from amqptasks.backends import database
from amqptasks.backends.awaiting import awatch
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.database import RESULTS, DatabaseBackend
from amqptasks.backends.stored import StoreOptions
from amqptasks.errors import ImproperlyConfigured, StoreUnavailable, TimeoutError
from tests.backends.contract import OPTIONS, StoreContract


class TestDatabaseBackend(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"db+sqlite:///{tmp_path}/results.db"

    def open(self, url: str, options: StoreOptions = OPTIONS) -> Backend:
        return DatabaseBackend(url, options)


def test_a_database_that_cannot_be_reached_is_tried_for_a_while_and_then_named(tmp_path: Path) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/absent/results.db", replace(OPTIONS, patience=0.3))

    with pytest.raises(StoreUnavailable, match=r"db\+sqlite:///.*unable to open.*result_store_timeout"):
        backend.store(Meta(task_id="t1", status=states.SUCCESS), print)
    with pytest.raises(TimeoutError, match="does not answer"):
        list(backend.watch(["t1"], 0.1))


def test_it_recovers_when_the_database_does(tmp_path: Path) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/later/results.db", replace(OPTIONS, patience=0.1))
    with pytest.raises(StoreUnavailable):
        backend.fetch("t1")

    (tmp_path / "later").mkdir()

    assert backend.fetch("t1") is None
    backend.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("db+sqlite://", "each process has for itself"),
        ("db+nonsense://x/y", "no URL of SQLAlchemy"),
        ("db+no url", "no URL of SQLAlchemy"),
        ("db+postgresql+absent://user:secret@x/y", r"user:\*\*@x"),
        ("db+postgresql+pg8000://user:secret@x/y", r"user:\*\*@x.* needs a driver that is not installed"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        DatabaseBackend(url, OPTIONS)

    assert "secret" not in str(caught.value)


def test_a_forked_child_has_an_engine_of_its_own(tmp_path: Path) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/results.db", OPTIONS)
    ours = backend.engine
    pid = os.fork()
    if not pid:
        os._exit(backend.engine is ours)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert backend.engine is ours
    backend.close()


def test_a_cleanup_leaves_what_is_not_expired(tmp_path: Path) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/results.db", OPTIONS)
    backend.store(Meta(task_id="t1", status=states.SUCCESS), print)

    backend.cleanup()

    assert backend.fetch("t1") is not None
    backend.close()


def test_the_built_in_task_deletes_what_is_expired(tmp_path: Path) -> None:
    settings = {"result_backend": f"db+sqlite:///{tmp_path}/results.db", "result_expires": 0.05}
    with App("proj", broker=f"memory://{uuid.uuid4()}", **settings) as app:
        assert isinstance(app.backend, DatabaseBackend)
        app.backend.store(Meta(task_id="t1", status=states.SUCCESS), print)
        time.sleep(0.1)
        app.tasks["amqptasks.backend_cleanup"].apply(throw=True)

        with app.backend.engine.connect() as connection:
            assert connection.execute(RESULTS.select()).all() == []


class Clock:
    """Stands for `time` in the backend's module: it passes while somebody waits, and not otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def pause(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.mark.parametrize("awaited", [False, True])
def test_who_waits_looks_ever_less_often_up_to_the_interval(
    tmp_path: Path, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/results.db", replace(OPTIONS, interval=0.5))
    clock, looks = Clock(), list[float]()
    look = backend._records
    monkeypatch.setattr(database, "time", clock)
    loops = SimpleNamespace(get_running_loop=asyncio.get_running_loop, sleep=clock.pause)
    monkeypatch.setattr(database, "asyncio", loops)
    monkeypatch.setattr(backend, "_records", lambda ids: looks.append(clock.now) or look(ids))

    async def wait() -> None:
        async for _ in awatch(backend, ["t1"], 1.9):
            raise AssertionError("there is nothing to be seen")

    with pytest.raises(TimeoutError, match=r"no result of t1 within 1\.9 s; its last known state is PENDING"):
        asyncio.run(wait()) if awaited else list(backend.watch(["t1"], 1.9))
    backend.close()

    assert looks == pytest.approx([0, 0.01, 0.03, 0.07, 0.15, 0.31, 0.63, 1.13, 1.63, 1.9])


def test_a_cancelled_wait_holds_no_thread_and_asks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = DatabaseBackend(f"db+sqlite:///{tmp_path}/results.db", replace(OPTIONS, interval=0.5))
    looks: list[int] = []
    look = backend._records

    async def scenario() -> None:
        looked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def noted(ids: Sequence[str]) -> list[tuple[str, bytes]]:
            looks.append(len(ids))
            loop.call_soon_threadsafe(looked.set)
            return look(ids)

        monkeypatch.setattr(backend, "_records", noted)
        waiting = asyncio.ensure_future(anext(awatch(backend, ["t1"], None)))
        await looked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        seen = len(looks)
        await asyncio.sleep(1.2)
        assert len(looks) <= seen + 1, "one may have been on its way"

    asyncio.run(scenario())
    backend.close()
