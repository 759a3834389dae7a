"""The database backend, on SQLite; `integration/test_stores.py` has the servers."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from amqptasks import App, states
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
