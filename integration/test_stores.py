"""The stores on real servers of their own: the suite that every store passes, and what a server's crash does."""

import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.database import DatabaseBackend
from amqptasks.backends.redis import RedisBackend
from amqptasks.backends.stored import StoredBackend, StoreOptions
from amqptasks.errors import StoreUnavailable, TimeoutError
from integration.support import wait_until
from integration.support.stores import KINDS, Redis, RedisTLS, Store, store_of
from tests.backends.contract import OPTIONS, StoreContract


def opened(url: str, options: StoreOptions = OPTIONS) -> StoredBackend:
    return RedisBackend(url, options) if url.startswith("redis") else DatabaseBackend(url, options)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from store_of(request.param)


@pytest.fixture
def store(server: Store) -> Store:
    server.start()  # a test before may have left it dead
    return server


class TestStores(StoreContract):
    @pytest.fixture
    def url(self, store: Store) -> str:
        return store.url

    def open(self, url: str, options: StoreOptions = OPTIONS) -> Backend:
        return opened(url, options)


def _nothing(envelope: Any) -> None:
    raise AssertionError("a store publishes nothing")


def test_who_waits_while_the_server_crashes_gets_the_result(store: Store) -> None:
    reader, writer = (
        opened(store.url, replace(OPTIONS, patience=100)),
        opened(store.url, replace(OPTIONS, patience=100)),
    )
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    writer.store(Meta(task_id=first, status=states.SUCCESS, result=1), _nothing)
    arriving = reader.watch([first, second], 100)

    assert next(arriving).result == 1
    found: list[Meta] = []
    waiting = threading.Thread(target=lambda: found.extend(arriving))
    waiting.start()
    writer.store(Meta(task_id=second, status=states.STARTED), _nothing)
    wait_until(lambda: found)  # so it waits by now
    store.kill()
    late = threading.Thread(
        target=lambda: writer.store(Meta(task_id=second, status=states.SUCCESS, result=2), _nothing)
    )
    late.start()
    store.start()
    late.join(100)
    waiting.join(100)

    assert [(meta.status, meta.result) for meta in found] == [(states.STARTED, None), (states.SUCCESS, 2)]
    kept = reader.fetch(first)
    assert kept is not None
    assert kept.result == 1
    reader.close()
    writer.close()


def test_a_server_that_stays_away_is_named_after_bounded_retries(store: Store) -> None:
    backend = opened(store.url, replace(OPTIONS, patience=0.5))
    backend.fetch("t1")
    store.kill()

    with pytest.raises(StoreUnavailable, match=r"does not answer: .*result_store_timeout"):
        backend.store(Meta(task_id="t1", status=states.SUCCESS), _nothing)
    with pytest.raises(TimeoutError, match="does not answer"):
        list(backend.watch(["t1"], 0.1))
    backend.close()


def test_row_135_a_database_is_read_as_others_commit(store: Store) -> None:
    """REPEATABLE READ, MySQL's default, would hide what others wrote: READ COMMITTED is set by us."""
    if isinstance(store, Redis):
        pytest.skip("Redis has no transactions that hide what others wrote")
    backend = DatabaseBackend(store.url, OPTIONS)

    with backend.engine.connect() as connection:
        level = connection.get_isolation_level()
    backend.close()

    assert level == "READ COMMITTED"


def test_results_in_redis_are_shared_with_celery(store: Store) -> None:
    if not isinstance(store, Redis):
        pytest.skip("a database holds our own table")
    theirs = Celery("theirs", broker="memory://", backend=store.url)
    ours = opened(store.url)
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    ours.store(Meta(task_id=first, status=states.SUCCESS, result=[1, "ü"]), _nothing)
    ours.store(Meta(task_id=second, status=states.FAILURE, result=KeyError("k"), traceback="where"), _nothing)
    theirs.backend.store_result(third, {"x": 1}, states.SUCCESS)

    assert theirs.AsyncResult(first).get(timeout=60) == [1, "ü"]
    with pytest.raises(KeyError, match="k"):
        theirs.AsyncResult(second).get(timeout=60)
    found = ours.fetch(third)
    assert found is not None
    assert found.result == {"x": 1}
    theirs.backend.result_consumer.stop()
    theirs.close()
    ours.close()


def test_redis_over_tls() -> None:
    for server in store_of(RedisTLS):
        backend = opened(server.url)
        backend.store(Meta(task_id="t1", status=states.SUCCESS, result=4), _nothing)
        stranger = opened(server.url.partition("&ssl_ca_certs")[0], replace(OPTIONS, patience=0.1))

        assert [meta.result for meta in backend.watch(["t1"], 60)] == [4]
        # Who does not know who signed the server's certificate does not talk to it.
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate.verify.failed"):
            stranger.fetch("t1")
        backend.close()
        stranger.close()
