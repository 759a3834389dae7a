"""The app as a client of a real RabbitMQ: topology, results over outages, forks and exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from broker import PrivateNode, free_ports

from amqptasks import App, Queue, chain, group
from amqptasks.backends import rpc
from amqptasks.backends.base import Meta
from amqptasks.backends.wire import ResultFormat, result_envelope
from amqptasks.errors import (
    BrokerUnavailable,
    NotFound,
    ResultElsewhere,
    ResultLost,
    TimeoutError,
    Unroutable,
)
from integration.support import Proxy, wait_until
from tests.working import Work


@pytest.fixture
def make_app() -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def make(url: str, **settings: Any) -> App:
        app = App("proj", broker=url, set_as_current=False, **settings)

        @app.task(name="proj.add")
        def add(x: Any, y: Any) -> Any:
            return x + y

        made.append(app)
        return app

    yield make
    for app in made:
        app.close(5)


@pytest.fixture
def broker_url(node: PrivateNode, fresh_vhost: str) -> str:
    """A vhost for each test: they all use the default queue."""
    return node.url(fresh_vhost)


@pytest.fixture
def app(make_app: Callable[..., App], broker_url: str) -> App:
    return make_app(broker_url)


def answer(app: App, id: str, reply_to: str, result: Any = None) -> None:
    meta = Meta(task_id=id, status="SUCCESS", result=result, correlation_id=id)
    app.connection.publish([result_envelope(meta, reply_to, ResultFormat())])


# --- calls and results ---------------------------------------------------------------------------------------


def test_calls_chains_and_groups_come_back(app: App) -> None:
    add, work = app.tasks["proj.add"], Work(app)
    one = add.delay(2, 2)
    failed = add.delay(2, "2")
    chained = chain(add.s(1, 1), add.s(10)).apply_async()
    many = group(add.s(number, number) for number in range(100)).apply_async()
    work(104)

    assert one.get(timeout=30) == 4
    with pytest.raises(TypeError, match="unsupported operand"):
        failed.get(timeout=30)
    assert chained is not None
    assert chained.get(timeout=30) == 12
    assert many.get(timeout=30) == [2 * number for number in range(100)]


def test_missing_queues_come_with_dead_letters_and_the_ladder_reaches_them(app: App) -> None:
    add = app.tasks["proj.add"]
    add.apply_async((2, 2), queue="made-now")
    called = time.monotonic()
    delayed = add.apply_async((3, 3), queue="made-later", countdown=3.5)
    wait_until(lambda: app.connection.inspect("made-later").messages, 10, "the delayed call")
    took = time.monotonic() - called
    Work(app)(1, queue="made-later")

    assert app.connection.inspect("made-now").messages == 1
    assert app.connection.inspect("made-now.dead").messages == 0
    assert took > 2.5
    assert delayed.get(timeout=60) == 6


def test_a_deleted_queue_is_declared_again_also_in_a_batch(app: App) -> None:
    add = app.tasks["proj.add"]
    add.delay(1, 1)
    app.connection.delete_queue("amqptasks")
    add.delay(1, 1)
    app.connection.delete_queue("amqptasks")
    with app.batch():
        for number in range(10):
            add.delay(number, 1)

    assert app.connection.inspect("amqptasks").messages == 10


def test_without_creating_queues_a_missing_one_is_unroutable(
    make_app: Callable[..., App], broker_url: str
) -> None:
    app = make_app(
        broker_url,
        task_create_missing_queues=False,
        task_queues=[Queue("absent")],
        task_default_queue="absent",
    )

    with pytest.raises(Unroutable, match="absent"):
        app.send_task("proj.add", (1, 1))


def test_a_queue_with_other_arguments_is_used_as_it_is_and_said_once(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    from amqptasks import amqp

    app.connection.declare(amqp.Queue("foreign"))
    with caplog.at_level("WARNING"):
        app.send_task("proj.add", (1, 1), queue="foreign")
        app.send_task("proj.add", (1, 1), queue="foreign")

    assert app.connection.inspect("foreign").messages == 2
    assert caplog.text.count("used as it is") == 1


def test_a_hundred_thousand_uncollected_results_leave_the_reply_queue_empty(app: App) -> None:
    reply_to = app.backend.reply_to()
    assert reply_to is not None
    for start in range(0, 100_000, 1000):
        ids = [f"t{number}" for number in range(start, start + 1000)]
        for id in ids:
            app.backend.expect(id)
        metas = [Meta(task_id=id, status="SUCCESS", result=1, correlation_id=id) for id in ids]
        app.connection.publish([result_envelope(meta, reply_to, ResultFormat()) for meta in metas])
    claim = app.backend.expect("last")
    answer(app, "last", reply_to)
    list(app.backend.watch(["last"], 120))

    wait_until(lambda: app.connection.inspect(reply_to).messages == 0)
    with pytest.raises(ResultLost):
        app.AsyncResult("t0").get()
    assert app.AsyncResult("t99999").get(timeout=1) == 1
    assert claim is not None


# --- outages -------------------------------------------------------------------------------------------------


def test_a_result_that_arrives_while_the_client_is_cut_off_is_found(
    make_app: Callable[..., App], app: App, proxy: Proxy, fresh_vhost: str
) -> None:
    cut_off = make_app(proxy.url(fresh_vhost))
    result = cut_off.send_task("proj.add", (2, 2))
    proxy.refuse()
    proxy.rst()
    Work(app)(1)
    proxy.accept()

    assert result.get(timeout=60) == 4


def test_get_without_timeout_wakes_when_the_broker_was_restarted(
    make_app: Callable[..., App], node: PrivateNode, fresh_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "GRACE", 0.5)
    app = make_app(node.url(fresh_vhost))
    result = app.send_task("proj.add", (2, 2))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            result.get()
        except BaseException as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    node.kill()
    node.start()
    waiting.join(60)

    assert not waiting.is_alive()
    assert isinstance(raised[0], ResultLost)
    answer(app, result.id, app.backend.reply_to() or "", 4)
    assert result.get(timeout=60) == 4


def test_with_no_broker_a_call_fails_in_time(make_app: Callable[..., App]) -> None:
    app = make_app(f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}//")
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        app.send_task("proj.add", (1, 1))

    assert time.monotonic() - began < 40


# --- forks and exits -----------------------------------------------------------------------------------------


def test_a_forked_child_has_a_reply_queue_of_its_own(app: App) -> None:
    add = app.tasks["proj.add"]
    mine = add.delay(1, 1)
    name = app.backend.reply_to()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            elsewhere = False
            try:
                mine.get(timeout=1)
            except ResultElsewhere:
                elsewhere = True
            own = app.backend.reply_to()
            called = add.delay(2, 3)
            Work(app)(2)
            os.write(writing, f"{own} {called.get(timeout=30)} {elsewhere}".encode())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    own, value, elsewhere_said = os.read(reading, 1000).decode().split()

    assert status == 0
    assert own != name
    assert (value, elsewhere_said) == ("5", "True")
    assert mine.get(timeout=30) == 2


PROGRAM = """
    import os, sys
    from amqptasks import App
    app = App("proj", broker=sys.argv[1])
    app.task(name="proj.add")(lambda x, y: x + y)
    print(app.backend.reply_to(), flush=True)
    {}
"""


@pytest.mark.parametrize(
    ("statement", "left"),
    [("pass", False), ("app.send_task('proj.add', (1, 1))", True), ("os.kill(os.getpid(), 9)", True)],
)
def test_a_clean_exit_with_nothing_pending_leaves_no_reply_queue(
    app: App, broker_url: str, statement: str, left: bool
) -> None:
    program = textwrap.dedent(PROGRAM).format(statement)

    run = subprocess.run(
        [sys.executable, "-c", program, broker_url], capture_output=True, text=True, timeout=60
    )
    name = run.stdout.strip()

    assert run.returncode in {0, -signal.SIGKILL}
    assert name.startswith("amqptasks.reply."), run.stderr
    if left:
        wait_until(lambda: app.connection.inspect(name).consumers == 0)
    else:
        with pytest.raises(NotFound):
            app.connection.inspect(name)


def test_what_is_unconfirmed_at_exit_is_flushed(app: App, broker_url: str) -> None:
    program = textwrap.dedent(PROGRAM).format(
        "app.connection.submit([__import__('amqptasks.composing').composing.compose("
        "app, 'proj.add', (n, n), {}, {'queue': 'flushed'}, {}).encode()[0] for n in range(300)])"
    )
    app.send_task("proj.add", (1, 1), queue="flushed")

    subprocess.run([sys.executable, "-c", program, broker_url], check=True, capture_output=True, timeout=60)

    assert app.connection.inspect("flushed").messages == 301


def test_a_timeout_leaves_the_result_to_a_later_get(app: App) -> None:
    result = app.tasks["proj.add"].delay(2, 2)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.1)
    Work(app)(1)

    assert result.get(timeout=30) == 4
