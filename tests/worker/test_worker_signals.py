"""What a worker tells the functions that are connected to Celery's signals of its life, in which order, with what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqptasks import App, signals
from amqptasks.signals import Signal
from amqptasks.testing import running_worker

Told = list[tuple[str, dict[str, Any]]]


@contextmanager
def listening(*wanted: Signal) -> Iterator[Told]:
    told: Told = []

    def receiver(signal: Signal, **named: Any) -> None:
        told.append((signal.name, named))

    for signal in wanted:
        signal.connect(receiver)
    try:
        yield told
    finally:
        for signal in wanted:
            signal.disconnect(receiver)


def test_a_worker_s_life_in_order(app: App) -> None:
    wanted = (
        signals.celeryd_init,
        signals.celeryd_after_setup,
        signals.worker_init,
        signals.worker_ready,
        signals.worker_shutting_down,
        signals.worker_shutdown,
    )

    with listening(*wanted) as told, running_worker(app, hostname="w1@test"):
        pass

    assert [name for name, _ in told] == [
        "celeryd_init",
        "worker_init",
        "celeryd_after_setup",
        "worker_ready",
        "worker_shutting_down",
        "worker_shutdown",
    ]
    named = dict(told)
    assert named["celeryd_init"]["sender"] == named["celeryd_after_setup"]["sender"] == "w1@test"
    assert named["celeryd_init"]["conf"] is named["celeryd_after_setup"]["conf"] is app.conf
    assert named["celeryd_init"]["instance"] is app
    assert named["worker_shutting_down"] == {
        "sender": "w1@test",
        "sig": None,
        "how": "Warm",
        "exitcode": 0,
    }


def test_what_celeryd_init_sets_counts_for_the_worker_it_names(app: App) -> None:
    @app.task
    def nothing() -> None: ...

    def configure(conf: Any, **_: Any) -> None:
        conf.task_default_rate_limit = "7/s"

    seen: dict[str, Any] = {}
    for node in ("other@test", "w1@test"):
        signals.celeryd_init.connect(configure, sender="w1@test")
        try:
            with running_worker(app, hostname=node) as worker:
                seen[node] = worker._worker.dispatch.tasks[nothing.name].rate_limit
        finally:
            signals.celeryd_init.disconnect(configure, sender="w1@test")

    assert seen == {"other@test": 0.0, "w1@test": 7.0}


def test_queues_that_are_set_after_the_setup_are_consumed(app: App) -> None:
    def direct(sender: str, conf: Any, **_: Any) -> None:
        conf.task_queues = ["amqptasks", f"{sender}.dq"]

    @app.task
    def where() -> str:
        return str(app.current_task.request.delivery_info["queue"])

    signals.celeryd_after_setup.connect(direct)
    try:
        with running_worker(app, hostname="w1@test"):
            assert where.apply_async(queue="w1@test.dq").get(timeout=60) == "w1@test.dq"
    finally:
        signals.celeryd_after_setup.disconnect(direct)


def test_an_unknown_task_is_told_when_it_is_given_up(app: App) -> None:
    app.conf.task_unknown_retries = 0

    with listening(signals.task_unknown) as told, running_worker(app, hostname="w1@test") as worker:
        app.send_task("proj.gone", task_id="1")
        worker.wait_until_idle()

    [(_, named)] = told
    assert (named["sender"], named["name"], named["id"]) == ("w1@test", "proj.gone", "1")
    assert "proj.gone" in str(named["exc"])


def test_a_process_that_ends_says_which_it_was(app: App) -> None:
    with listening(signals.worker_process_shutdown) as told, running_worker(app):
        pass

    assert [named["pid"] for _, named in told] == [os.getpid()]
