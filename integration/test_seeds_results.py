"""What the project set out to be, as far as results need a broker's restart or a server: see `tests/test_seeds_results.py`."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from broker import PrivateNode

from amqptasks import App
from amqptasks.errors import ImproperlyConfigured, TimeoutError
from integration.support import Proxy, WorkerProcess, wait_until
from integration.support.calls import count
from integration.support.stores import Redis, Store, store_of

APP = "integration.apps.seed_src"


@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_rows_131_132_results_vanish_with_the_broker_unless_they_are_persistent(
    node: PrivateNode, fresh_vhost: str, proxy: Proxy, worker: Callable[..., WorkerProcess], persistent: bool
) -> None:
    """A result that lies in its queue when the broker is killed is gone, unless `result_persistent` is set."""
    url, task_id = node.url(fresh_vhost), str(uuid.uuid4())
    setting = {"AMQPTASKS_RESULT_PERSISTENT": str(persistent).lower()}
    running = worker(APP, "-c", "1", broker_url=url, env=setting)
    with App("client", broker=proxy.url(fresh_vhost), result_persistent=persistent) as app:
        queue = app.backend.reply_to()
        assert queue is not None
        claim = app.backend.expect(task_id)
        proxy.refuse()
        proxy.rst()  # nobody reads the queue now
        with App("caller", broker=url, backend=None) as caller:
            caller.send_task("integration.apps.seed_src.tasks.add", (2, 2), task_id=task_id, reply_to=queue)
        wait_until(lambda: count(url, queue) == 1, 20, "the result in its queue")
        running.wait_log(
            f"{task_id}.*succeeded"
        )  # the broker has confirmed it, so one that lasts is on the disk
        node.kill()
        node.start()
        proxy.accept()
        wait_until(lambda: app.connection.inspect(queue).consumers == 1, 30, "the client at its queue")

        if persistent:
            assert app.AsyncResult(task_id).get(timeout=60) == 4
        else:
            with pytest.raises(TimeoutError):
                app.AsyncResult(task_id).get(timeout=0.5)
        del claim


@pytest.fixture(scope="module")
def redis() -> Iterator[Store]:
    yield from store_of(Redis)


def test_row_136_results_in_redis(
    broker_url: str, redis: Store, worker: Callable[..., WorkerProcess]
) -> None:
    """`backend="redis://..."`: the caller is woken, anybody may ask. As a broker it is refused."""
    worker(APP, "-c", "1", broker_url=broker_url, env={"AMQPTASKS_RESULT_BACKEND": redis.url})
    with App("client", broker=broker_url, backend=redis.url) as app:
        result = app.send_task("integration.apps.seed_src.tasks.add", (2, 2))
        assert result.get(timeout=60) == 4
    with App("other", broker=broker_url, backend=redis.url) as other:
        assert other.AsyncResult(result.id).get(timeout=60) == 4
    with App("wrong", broker=redis.url) as wrong, pytest.raises(ImproperlyConfigured, match="redis"):
        _ = wrong.connection.server
