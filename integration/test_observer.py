"""The observer beside real workers: what it tells of calls, workers and queues, what it does, and an absent broker."""

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode, free_ports

from amqptasks import chord, group
from amqptasks.amqp import Queue
from amqptasks.event_wire import encoded, envelope, exchange, settings_of
from amqptasks.monitor import actions
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import QueueRow
from amqptasks.monitor.watch import BATCHES, HELD
from integration.apps.interop_theirs import make
from integration.apps.observed_tasks import add, app, fail, held, refuse, total
from integration.support import CeleryWorker, Process, Proxy, WorkerProcess, wait_until

APP = "integration.apps.observed_tasks"
INTERVAL = 0.2
FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
"""Rates are those of ten seconds of the plugin's, which are waited for then."""
Start = Callable[..., WorkerProcess]


@pytest.fixture(autouse=True)
def _app(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Who is asked here answers: how soon says how busy the machine is.
    monkeypatch.setattr(actions, "REPLY", 30.0)
    monkeypatch.setattr(actions, "BEAT", 30.0)
    app.conf.update(broker_url=broker_url)
    yield
    app.close()


@pytest.fixture
def observer() -> Iterator[Observer]:
    with Observer(app, interval=INTERVAL, management_url="") as made:
        wait_until(lambda: made.overview().connected, 20, lambda: made.overview().message)
        yield made


@pytest.fixture
def observed(worker: Start, broker_url: str, observer: Observer) -> WorkerProcess:
    """A worker that tells of its calls, and that the observer knows of."""
    started = worker(APP, "-E", "-c", "2", "-n", "w1@here", "-Q", "observed", broker_url=broker_url)
    wait_until(lambda: [row for row in observer.workers() if row.alive and row.pool], 30)
    return started


def test_calls_workers_and_queues(observed: WorkerProcess, observer: Observer, tmp_path: Path) -> None:
    """One worker for all of it: calls that end in each way, a workflow, one that is revoked while it runs."""
    failed = fail.delay("no luck")
    workflow = chord(group(add.s(n, n) for n in range(3)), total.s()).apply_async()
    running = held.delay(str(tmp_path / "go"))
    assert workflow.get(timeout=20) == 6

    # What its sender told comes by another connection than what the worker tells.
    wait_until(lambda: steps(observer, failed.id)[:1] == ["PENDING"], 20)
    row = wait_until(lambda: observer.tasks(state="FAILURE"), 20)[0]
    assert (row.id, row.name, row.queue, row.worker, row.retries) == (
        failed.id,
        "observed.fail",
        "observed",
        "w1@here",
        1,
    )
    detail = observer.task(failed.id)
    assert detail is not None
    assert "ValueError: no luck" in detail.traceback
    states = [state for state, _ in detail.timeline]
    assert states[0] == "PENDING" and "RETRY" in states and states[-1] == "FAILURE"
    assert sorted(at for _, at in detail.timeline) == [at for _, at in detail.timeline]

    body = wait_until(lambda: observer.tasks(name="observed.total", state="SUCCESS"), 20)[0]
    assert (body.result, body.runtime is not None, body.wait is not None) == ("6", True, True)
    graph = observer.graph(body.id)
    assert graph is not None
    assert len([node for node in graph.nodes if node.name == "observed.add"]) == 3

    (known,) = wait_until(lambda: [row for row in observer.workers() if row.active == 1 and row.queues], 20)
    assert (known.node, known.pool, known.concurrency, known.queues) == (
        "w1@here",
        "prefork",
        2,
        ("observed",),
    )
    assert known.memory is not None and known.memory > 2**20
    answer = observer.worker("w1@here", timeout=30.0)
    assert answer is not None
    assert [(call.id, call.name, call.pid is not None) for call in answer.active] == [
        (running.id, "observed.held", True)
    ]
    assert "observed.add" in answer.registered

    rows = wait_until(lambda: counted(observer), 20)
    assert (rows["observed"].consumers, rows["observed"].type, rows["observed"].workers) == (
        1,
        "quorum",
        ("w1@here",),
    )
    assert not rows["forgotten"].exists
    assert all(row.unacked is None and row.publish_rate is None for row in rows.values())
    wait_until(lambda: any(row.name == "observed.dead" for row in observer.queues(internal=True)), 20)

    assert observer.rate_limit("observed.add", "100/s")[0].ok
    assert [answer.ok for answer in observer.revoke(running.id, terminate=True)] == [True]
    wait_until(lambda: observer.tasks(state="REVOKED"), 20)
    (grown,) = observer.pool_grow("w1@here", 1)
    assert grown.ok, grown
    wait_until(lambda: observer.workers()[0].concurrency == 3, 20)

    overview = wait_until(lambda: (told := observer.overview()).processed >= 6 and told, 20)
    assert overview
    assert (overview.workers_online, overview.sampled, overview.task_events) == (1, 1, True)
    assert observer.series("throughput").values["succeeded"]
    observer.shutdown("w1@here")
    assert observed.wait(20) == 0
    wait_until(lambda: not observer.workers()[0].alive, 20)
    wait_until(lambda: observer.overview().unconsumed == ("observed",), 20)


def steps(observer: Observer, task_id: str) -> list[str]:
    """The states that the call has gone through, as far as the observer knows."""
    detail = observer.task(task_id)
    return [] if detail is None else [state for state, _ in detail.timeline]


def counted(observer: Observer) -> dict[str, QueueRow]:
    """The queues, once the broker has said who consumes them."""
    rows = {row.name: row for row in observer.queues()}
    return rows if rows["observed"].consumers and rows["observed"].workers else {}


def test_dead_letters_are_shown_replayed_and_dropped(observed: WorkerProcess, observer: Observer) -> None:
    calls = [refuse.delay(number) for number in range(3)]
    wait_until(lambda: observer.overview().dead == 3, 20)

    def lie(number: int) -> None:
        """Who has looked at them gives them back, which takes the broker a moment."""
        wait_until(lambda: app.connection.inspect("observed.dead").messages == number, 20)

    page = observer.dead_letters("observed", limit=2)
    assert (len(page.rows), page.total, page.offset) == (2, 3, 0)
    lie(3)
    rest = observer.dead_letters(limit=2, offset=2)
    assert {row.id for row in (*page.rows, *rest.rows)} == {call.id for call in calls}
    row = page.rows[0]
    assert (row.task, row.queue, row.lies_in, row.reason, row.deaths) == (
        "observed.refuse", "observed", "observed.dead", "rejected", 1,
    )  # fmt: skip
    assert row.at is not None and abs(time.time() - row.at) < 600
    lie(3)
    assert "observed.refuse" in observer.dead_letter_body("observed", calls[0].id)

    lie(3)
    replayed = observer.replay_dead("observed", ids=[calls[0].id])
    assert (replayed.ok, replayed.text) == (True, "1 replayed")
    again = wait_until(
        lambda: [row for row in observer.dead_letters("observed").rows if row.deaths == 2], 20, interval=0.1
    )
    assert [row.id for row in again] == [calls[0].id]
    lie(3)
    assert observer.drop_dead("observed", ids=[calls[1].id, calls[2].id]).text == "2 dropped"
    lie(1)
    assert observer.drop_dead().text == "1 dropped"
    wait_until(lambda: observer.overview().dead == 0, 20)
    assert observer.dead_letters("no-such-queue").rows == ()


def test_the_schedule_is_paused_run_and_resumed(broker_url: str, observer: Observer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amqptasks", "-A", APP, "-b", broker_url, "beat", "-l", "INFO"]
    with Process(command, ready="leads", log=tmp_path / "beat.log") as beat:
        (row,) = observer.schedules().rows
        assert (row.name, row.task, row.paused, row.runs) == ("often", "observed.add", False, 0)
        assert row.next_due is not None and 3500 < row.next_due - time.time() < 3700

        assert observer.schedule_run("often").ok
        assert observer.schedule_pause("often").ok
        page = observer.schedules()

        assert (page.rows[0].paused, page.rows[0].runs) == (True, 1)
        assert page.leader.endswith(f":{beat.pid}")
        assert observer.schedule_resume("often").ok
        assert not observer.schedule_remove("often").ok
        assert not observer.schedule_run("unheard-of").ok


def test_without_the_broker_it_tells_what_was_and_comes_back(
    worker: Start, broker_url: str, vhost: str, proxy: Proxy
) -> None:
    worker(APP, "-E", "-n", "w2@here", "-Q", "observed", broker_url=broker_url)
    app.conf.update(broker_url=proxy.url(vhost))
    with Observer(app, interval=INTERVAL, management_url="") as observer:
        wait_until(lambda: [row for row in observer.workers() if row.alive and row.node == "w2@here"], 20)
        proxy.refuse()
        proxy.rst()
        wait_until(lambda: not observer.overview().connected, 20)

        overview = observer.overview()
        assert overview.message
        assert [row.alive for row in observer.workers() if row.node == "w2@here"] == [True]
        time.sleep(1.0)  # long enough for attempts to fail
        begun = time.monotonic()
        assert observer.queues()
        assert time.monotonic() - begun < 20, "it does not wait for the broker"

        proxy.accept()
        wait_until(lambda: observer.overview().connected, 20)
        app.conf.update(broker_url=broker_url)
        call = add.delay(1, 1)
        wait_until(lambda: observer.tasks(search=call.id), 20)
        proxy.refuse()
        proxy.rst()
        begun = time.monotonic()
    assert time.monotonic() - begun < 20, "nor does its end"
    wait_until(lambda: "amqptasks-observer" not in [thread.name for thread in threading.enumerate()])


def test_under_an_alarm_it_goes_on_looking(node: PrivateNode) -> None:
    app.connection.declare(Queue("forgotten"))
    with Observer(app, interval=INTERVAL, management_url="") as observer:
        wait_until(lambda: "forgotten" in observer.overview().unconsumed, 20)
        node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")
        try:
            wait_until(lambda: observer.overview().alarm, 20)  # it asks workers every five seconds
            app.connection.delete_queue("forgotten")

            wait_until(lambda: "forgotten" not in observer.overview().unconsumed, 20)
            overview = observer.overview()
            assert overview.connected and overview.alarm, overview
        finally:
            node.eval("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 2000000000})")
        wait_until(lambda: not observer.overview().alarm, 20)


def test_a_worker_of_celery_is_watched_as_well(
    celery_worker: Callable[..., CeleryWorker], broker_url: str, observer: Observer
) -> None:
    theirs = "integration.apps.interop_theirs"
    celery_worker(theirs, "-E", "-P", "threads", "-c", "3", "-n", "c@here", broker_url=broker_url)
    client = make(broker_url)
    client.send_task("interop.add", (1, 2), queue="theirs")

    (row,) = wait_until(
        lambda: [
            row
            for row in observer.workers()
            if row.node == "c@here" and row.alive and row.pool and row.queues
        ],
        20,
    )
    assert (row.pool, row.concurrency, row.queues) == ("thread", 3, ("theirs",))
    assert row.software.startswith("py-celery")
    (call,) = wait_until(lambda: observer.tasks(worker="c@here", state="SUCCESS"), 20)
    assert (call.name, call.result) == ("interop.add", "3")
    wait_until(lambda: [row.consumers for row in observer.queues() if row.name == "theirs"] == [1], 20)
    assert observer.rate_limit("interop.add", "10/s", "c@here")[0].ok
    (refused,) = observer.pool_grow("c@here", 1)  # its thread pool cannot
    assert not refused.ok and "grow" in refused.text
    detail = observer.worker("c@here", timeout=30.0)
    assert detail is not None and "interop.add [rate_limit=10/s]" in detail.registered
    client.close()


def test_a_flood_of_events_is_sampled_and_the_broker_drops_the_rest(observer: Observer) -> None:
    """Far more messages than are taken: what is shown is a part and said to be so, heartbeats included."""
    settings, connection = settings_of(app.conf), app.connection
    connection.declare(exchange(settings))
    stop = time.monotonic() + 30
    while time.monotonic() < stop:
        now, flood = time.time(), []
        for _ in range(BATCHES * HELD * 2):
            calls = [str(uuid.uuid4()) for _ in range(5)]
            told = [
                {
                    "type": f"task-{kind}",
                    "uuid": call,
                    "hostname": "flood@here",
                    "timestamp": now,
                    "root_id": call,
                }
                for call in calls
                for kind in ("received", "started", "succeeded")
            ]
            flood.append(envelope("task.multi", encoded(told), "flood@here", settings))
        connection.publish(flood)
        overview = observer.overview()
        if overview.sampled > 1 and overview.dropped:
            break
    beat = {"type": "worker-heartbeat", "hostname": "flood@here", "timestamp": time.time(), "freq": 30}
    connection.publish([envelope("worker.heartbeat", encoded(beat), "flood@here", settings)])

    assert overview.sampled > 1
    assert overview.dropped
    wait_until(lambda: [row for row in observer.workers() if row.node == "flood@here"], 10)
    kept = [row for row in observer.tasks(limit=1000) if row.state != "SUCCESS"]
    assert len(kept) <= 5, json.dumps([row.state for row in kept])
    wait_until(lambda: observer.overview().sampled == 1, 30)


def test_the_management_plugin_makes_it_richer(worker: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = {
        "management.tcp.port": port,
        "management.tcp.ip": "127.0.0.1",
        "collect_statistics_interval": 1000,
    }
    with PrivateNode(plugins=["rabbitmq_management"], config=config) as node:
        node.add_vhost("rich")
        url = node.url("rich")
        app.conf.update(broker_url=url)
        running = worker(APP, "-c", "1", "-n", "w3@here", "-Q", "observed", broker_url=url)
        with (
            Observer(app, interval=INTERVAL, management_url=f"http://127.0.0.1:{port}") as observer,
            Observer(
                app, interval=INTERVAL, management_url=f"http://looker:wrong@127.0.0.1:{port}"
            ) as stranger,
        ):
            observer._management._every = 0.2
            held.delay(str(tmp_path / "go"))
            wait_until(
                lambda: observer.overview().management, 20, lambda: observer.overview().management_message
            )

            def measured() -> bool:
                add.delay(1, 1)  # a rate is that of several seconds
                rows = {row.name: row for row in observer.queues()}
                return bool(rows["observed"].unacked and (rows["observed"].publish_rate or not FULL))

            wait_until(measured, 40, lambda: str(observer.queues()), interval=0.1)
            assert observer.overview().unacked
            assert "looker" in wait_until(
                lambda: "tag" in (told := stranger.overview().management_message) and told, 20
            )
            assert stranger.queues()[0].unacked is None
        (tmp_path / "go").touch()
        running.stop()
        app.close()
