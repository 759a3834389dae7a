"""What waits for too long behind a long task goes to a worker that has time."""

from __future__ import annotations

import threading

from amqptasks import App
from amqptasks.testing import running_worker


def test_a_message_behind_a_long_task_is_given_back_before_the_broker_loses_patience():
    app = App("proj", broker="memory://overdue", broker_consumer_timeout=1.0, worker_prefetch_multiplier=10)
    release, ran = threading.Event(), threading.Event()

    @app.task(name="long")
    def long() -> None:
        release.wait(200)

    @app.task(name="short")
    def short() -> str:
        ran.set()
        return "done"

    with running_worker(app, hostname="busy@localhost") as busy:
        long.delay()
        short_result = short.delay()
        with running_worker(app, hostname="idle@localhost"):
            assert ran.wait(100), "it stayed behind the long task"
            release.set()
            assert short_result.get(timeout=60) == "done"
        busy.wait_until_idle()

        assert busy.counters.returned >= 1
    app.close()
