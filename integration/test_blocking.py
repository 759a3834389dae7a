"""The blocking client against a real RabbitMQ: every publish accounted for, over forks, kills and silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode, free_ports

from amqptasks.amqp import Address, Envelope, Properties, Queue
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    NotFound,
    PublishTimeout,
    TransportError,
    Unroutable,
    VhostNotFound,
)
from amqptasks.transport.blocking import BlockingConnection
from amqptasks.transport.codec import decode_header
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.opening import opener
from amqptasks.transport.url import parse
from integration.support import Proxy, wait_until

QUEUE = Queue("q", arguments={"x-queue-type": "quorum"})
LAST = "the last one"
Open = Callable[..., BlockingConnection]


@pytest.fixture
def open_connection() -> Iterator[Open]:
    opened: list[BlockingConnection] = []

    def make(url: str | list[str], **options: object) -> BlockingConnection:
        connection = BlockingConnection(opener(parse(url)), **options)  # type: ignore[arg-type]
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close(5)


def envelope(message_id: str, queue: str = "q") -> Envelope:
    return Envelope(Address("", queue), b"body", Properties(delivery_mode=2, message_id=message_id))


def drained(connection: BlockingConnection, queue: str = "q") -> Counter[str]:
    """Every message id in the queue, and how often: up to one that is put behind them.

    A count of the broker's does not do: of a queue that does not answer in 250 ms it says that it is empty.
    """
    found: Counter[str] = Counter()

    def take(delivery: object) -> None:
        found[decode_header(delivery.header).message_id or ""] += 1  # type: ignore[attr-defined]

    connection.publish([envelope(LAST, queue)])
    subscription = connection.consume(queue, take)
    wait_until(lambda: LAST in found, 40, lambda: f"the last message, behind {found.total()}")
    subscription.close()
    del found[LAST]
    return found


def script(source: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """A Python program of its own with `connection`, `envelope` and `QUEUE` at hand; its URL is argument 1."""
    prelude = """
        import os, sys, signal, multiprocessing, time
        from amqptasks.amqp import Address, Envelope, Properties, Queue
        from amqptasks.transport import blocking
        from amqptasks.transport.blocking import BlockingConnection
        from amqptasks.transport.opening import opener
        from amqptasks.transport.url import parse

        QUEUE = Queue("q", arguments={"x-queue-type": "quorum"})
        blocking.FLUSH_AT_EXIT = 40.0  # a broker that is busy with others has not always answered in five seconds
        connection = BlockingConnection(opener(parse(sys.argv[1])))

        def envelope(message_id):
            return Envelope(Address("", "q"), b"body", Properties(delivery_mode=2, message_id=message_id))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(source), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        **options,  # type: ignore[call-overload]
    )


# --- accounts ------------------------------------------------------------------------------------------------


def test_sixteen_threads_account_for_every_confirm(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    connection = open_connection(node.url(fresh_vhost))
    connection.declare(QUEUE)
    confirmed: list[str] = []

    def publish(thread: int) -> None:
        for number in range(500):
            connection.publish([envelope(f"{thread}.{number}")])
            confirmed.append(f"{thread}.{number}")

    threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(confirmed) == 8000
    assert drained(connection) == Counter(confirmed)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["kill", "restart", "connections"])
def test_over_a_fault_every_publish_returns_or_raises_and_the_confirmed_are_there(
    open_connection: Open, node: PrivateNode, fresh_vhost: str, fault: str
) -> None:
    connection = open_connection(node.url(fresh_vhost), policy=RetryPolicy(max_retries=None), timeout=110)
    connection.declare(QUEUE)
    attempted: list[str] = []
    confirmed: list[str] = []
    failed: list[str] = []
    reasons: Counter[str] = Counter()
    stop = threading.Event()

    def publish(thread: int) -> None:
        number = 0
        while not stop.is_set():
            batch = [envelope(f"{thread}.{number}.{each}") for each in range(5)]
            ids = [each.properties.message_id or "" for each in batch]
            attempted.extend(ids)
            try:
                connection.publish(batch)
                confirmed.extend(ids)
            except TransportError as exc:
                failed.extend(ids)
                reasons[f"{type(exc).__name__}: {exc}"] += 1
            number += 1

    threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(1 if fault != "connections" else 5):
        before = len(confirmed)
        wait_until(lambda before=before: len(confirmed) > before + 300, 30, "in full swing")
        if fault == "kill":
            node.kill()
            node.start()
        elif fault == "restart":
            node.restart()
        else:
            node.eval('rabbit_networking:close_all_connections(<<"drill">>)')
    before = len(confirmed)
    wait_until(lambda: len(confirmed) > before + 300, 60, lambda: f"publishing goes on: {reasons}")
    stop.set()
    for thread in threads:
        thread.join(120)

    assert not any(thread.is_alive() for thread in threads)
    assert Counter(confirmed) + Counter(failed) == Counter(attempted)
    found = drained(connection)
    lost = set(confirmed) - set(found)
    assert not lost
    assert not failed  # the outage was shorter than the timeout
    assert set(found) <= set(attempted)


def test_a_confirm_that_never_arrives_doubles_the_message_under_its_id(
    open_connection: Open, node: PrivateNode, fresh_vhost: str, proxy: Proxy
) -> None:
    open_connection(node.url(fresh_vhost)).declare(QUEUE)
    connection = open_connection(proxy.url(fresh_vhost))
    connection.publish([envelope("before")])
    proxy.swallow_confirms()
    ticket = connection.submit([envelope("doubt")])
    wait_until(lambda: proxy.swallowed, 10, "the broker confirmed")

    proxy.restore()
    proxy.rst()
    ticket.wait()

    assert drained(connection) == Counter({"before": 1, "doubt": 2})


# --- what the broker, or its absence, answers ----------------------------------------------------------------


def test_nobody_there_is_said_within_the_policy(open_connection: Open) -> None:
    [port] = free_ports(1)
    connection = open_connection(f"amqp://guest:guest@127.0.0.1:{port}//")
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=str(port)):
        connection.publish([envelope("x")])

    assert time.monotonic() - began < 30


def test_wrong_password_and_missing_vhost_are_said_at_once(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    wrong = open_connection(node.url(fresh_vhost).replace("guest:guest", "guest:wrong"))
    missing = open_connection(node.url("no-such-vhost"))
    began = time.monotonic()

    with pytest.raises(AccessRefused, match="guest"):
        wrong.publish([envelope("x")])
    with pytest.raises(VhostNotFound, match="no-such-vhost"):
        missing.publish([envelope("x")])

    assert time.monotonic() - began < 40


def test_the_second_host_is_taken_when_the_first_is_away(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    [port] = free_ports(1)
    connection = open_connection([f"amqp://guest:guest@127.0.0.1:{port}//", node.url(fresh_vhost)])
    connection.declare(QUEUE)

    connection.publish([envelope("x")])

    assert drained(connection) == Counter("x")


def test_refusals_are_each_messages_own(open_connection: Open, node: PrivateNode, fresh_vhost: str) -> None:
    connection = open_connection(node.url(fresh_vhost))
    connection.declare(QUEUE)

    with pytest.raises(Unroutable, match="nowhere"):
        connection.publish([envelope("a"), envelope("b", "nowhere"), envelope("c")])
    with pytest.raises(NotFound):
        connection.inspect("nowhere")

    assert drained(connection) == Counter("ac")


def test_a_memory_alarm_is_said_after_the_timeout_and_over_once_it_ends(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    connection = open_connection(node.url(fresh_vhost))
    connection.declare(QUEUE)
    connection.publish([envelope("before")])

    answers: list[str] = []

    def told() -> bool:
        """Whether three in a row were: the broker says it a moment after it has its alarm."""
        try:
            connection.publish([envelope("during")], timeout=1)
            answers.append("confirmed")
        except PublishTimeout:
            answers.append("late")
        except BrokerBlocked as error:
            answers.append(str(error))
        return ["memory" in said for said in answers[-3:]] == [True] * 3

    node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")
    try:
        wait_until(told, 20, lambda: f"told of the alarm; {Counter(answers)}")
    finally:
        node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
    connection.publish([envelope("after")])

    found = drained(connection)
    assert (found["before"], found["after"]) == (1, 1)
    # Only what was written before the broker said that it is blocked.
    assert found["during"] <= answers.count("confirmed") + answers.count("late") + 1


def test_a_silent_network_never_hangs_a_publish(
    open_connection: Open, node: PrivateNode, fresh_vhost: str, proxy: Proxy
) -> None:
    connection = open_connection(proxy.url(fresh_vhost))
    connection.declare(QUEUE)
    proxy.blackhole()
    began = time.monotonic()

    with pytest.raises(PublishTimeout):
        connection.publish([envelope("x")], timeout=0.5)
    waited = time.monotonic() - began
    proxy.restore()
    connection.publish([envelope("y")])

    assert 0.4 < waited < 30
    assert drained(connection)["y"] == 1


# --- consumers -----------------------------------------------------------------------------------------------


def test_a_subscription_is_restored_after_a_restart_of_the_broker(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    connection = open_connection(node.url(fresh_vhost), policy=RetryPolicy(max_retries=None))
    received: list[bytes] = []
    story: list[object] = []
    connection.consume(
        Queue("replies", arguments={"x-queue-type": "classic"}),
        lambda delivery: received.append(delivery.body),
        on_lost=lambda error: story.append("lost"),
        on_restored=story.append,
    )

    node.restart()
    connection.publish([envelope("x", "replies")])
    wait_until(lambda: received and len(story) > 1, 30, "the reply arrived")

    assert story == ["lost", True]


# --- processes -----------------------------------------------------------------------------------------------


def test_what_was_submitted_is_flushed_at_exit(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    program = script(
        """
        connection.declare(QUEUE)
        connection.submit([envelope(str(number)) for number in range(2000)])
        """,
        node.url(fresh_vhost),
    )
    _, errors = program.communicate(timeout=120)

    assert (program.returncode, errors) == (0, "")
    assert drained(open_connection(node.url(fresh_vhost))) == Counter(str(number) for number in range(2000))


def test_children_forked_in_mid_publish_have_connections_of_their_own(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    program = script(
        """
        connection.declare(QUEUE)
        tickets = [connection.submit([envelope(f"parent.{number}")]) for number in range(200)]
        children = []
        for child in range(4):
            pid = os.fork()
            if not pid:
                for number in range(100):
                    connection.publish([envelope(f"{child}.{number}")])
                connection.close()
                os._exit(0)
            children.append(pid)
        for number in range(200, 400):
            connection.publish([envelope(f"parent.{number}")])
        for ticket in tickets:
            ticket.wait()
        print([os.waitpid(pid, 0)[1] for pid in children])
        """,
        node.url(fresh_vhost),
    )
    output, errors = program.communicate(timeout=120)

    assert (program.returncode, errors, output.strip()) == (0, "", "[0, 0, 0, 0]")
    expected = Counter(f"parent.{number}" for number in range(400))
    expected += Counter(f"{child}.{number}" for child in range(4) for number in range(100))
    assert drained(open_connection(node.url(fresh_vhost))) == expected


def test_multiprocessing_children_have_connections_of_their_own_and_are_flushed_at_their_exit(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    program = script(
        """
        def publish(child):
            connection.publish([envelope(f"pool.{child}.{number}") for number in range(100)])

        def submit(child):
            connection.submit([envelope(f"process.{child}.{number}") for number in range(100)])

        context = multiprocessing.get_context("fork")
        connection.declare(QUEUE)
        connection.publish([envelope("parent")])
        with context.Pool(2) as pool:
            pool.map(publish, range(4), chunksize=2)
        processes = [context.Process(target=submit, args=(child,)) for child in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        connection.publish([envelope("parent after")])
        """,
        node.url(fresh_vhost),
    )
    _, errors = program.communicate(timeout=120)

    assert (program.returncode, errors) == (0, "")
    expected = Counter(f"pool.{child}.{number}" for child in range(4) for number in range(100))
    expected += Counter(f"process.{child}.{number}" for child in range(3) for number in range(100))
    expected += Counter(["parent", "parent after"])
    assert drained(open_connection(node.url(fresh_vhost))) == expected


def test_a_living_child_does_not_keep_its_dead_parents_connection(
    open_connection: Open, node: PrivateNode, fresh_vhost: str
) -> None:
    program = script(
        """
        connection.consume(Queue("parents", durable=False, exclusive=True), print)
        pid = os.fork()
        if not pid:
            sys.stdin.read()
            os._exit(0)
        print(pid, flush=True)
        time.sleep(60)
        """,
        node.url(fresh_vhost),
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    connection = open_connection(node.url(fresh_vhost))

    program.kill()
    program.wait(60)

    def released() -> bool:
        try:
            connection.delete_queue("parents")
            connection.declare(Queue("parents", durable=False, exclusive=True))
            return True
        except TransportError:
            return False

    try:
        wait_until(released, 10, "the broker saw the end of the parent")
        os.kill(child, 0)  # it lives, and holds nothing
    finally:
        os.kill(child, signal.SIGKILL)
        program.communicate(timeout=60)


def test_an_interrupt_ends_a_program_that_waits(node: PrivateNode, fresh_vhost: str, proxy: Proxy) -> None:
    program = script(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
        connection.declare(QUEUE)
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            connection.submit([envelope("x")])
            print("submitted", flush=True)
            connection.publish([envelope("y")])
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(0)
        """,
        proxy.url(fresh_vhost),
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "ready\n"
    proxy.blackhole()
    program.stdin.write("go\n")
    program.stdin.flush()
    assert program.stdout.readline() == "submitted\n"

    program.send_signal(signal.SIGINT)
    output, _ = program.communicate(timeout=120)

    assert output.strip() == "interrupted"
