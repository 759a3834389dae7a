"""The blocking client on the in-process broker: many threads, outages, forks, bounds."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from amqptasks.amqp import Address, Delivery, Envelope, Properties, Queue
from amqptasks.errors import (
    AccessRefused,
    AmqptasksError,
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    NotFound,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from amqptasks.transport import memory
from amqptasks.transport.blocking import BlockingConnection
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.transport.opening import opener
from amqptasks.transport.url import parse

QUICK = RetryPolicy(max_retries=2, interval_step=0.01, interval_max=0.01)


@pytest.fixture
def broker() -> MemoryBroker:
    return memory.broker(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def open_connection(broker: MemoryBroker) -> Iterator[Callable[..., BlockingConnection]]:
    opened: list[BlockingConnection] = []

    def make(**options: object) -> BlockingConnection:
        options = {"timeout": 60.0, "policy": QUICK, **options}
        connection = BlockingConnection(opener(parse(f"memory://{broker.name}")), **options)  # type: ignore[arg-type]
        opened.append(connection)
        return connection

    yield make
    broker.release_confirms()
    broker.unblock()
    for connection in opened:
        connection.close(60)


@pytest.fixture
def connection(open_connection: Callable[..., BlockingConnection]) -> BlockingConnection:
    made = open_connection()
    made.declare(Queue("q"))
    return made


def envelope(queue: str = "q", body: bytes = b"x", **properties: object) -> Envelope:
    return Envelope(Address("", queue), body, Properties(**properties))  # type: ignore[arg-type]


def until(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what or condition}"
        threading.Event().wait(0.002)


def in_child(work: Callable[[], bool]) -> int:
    """Run `work` in a forked child; return its exit code: 0 when it returned True."""
    pid = os.fork()
    if not pid:
        code = 3
        try:
            signal.alarm(100)
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- publishing ----------------------------------------------------------------------------------------------


def test_a_published_message_is_in_its_queue(connection: BlockingConnection) -> None:
    connection.publish([envelope(body=b"a"), envelope(body=b"b")])

    assert connection.inspect("q").messages == 2
    assert connection.pending == 0


def test_nothing_is_opened_before_it_is_used(open_connection: Callable[..., BlockingConnection]) -> None:
    connection = open_connection()

    assert "not open" in repr(connection)
    assert connection.flush(0) is True


def test_a_failed_batch_names_its_messages_and_the_others_arrive(connection: BlockingConnection) -> None:
    batch = [envelope(), envelope("nowhere"), envelope(), envelope("nowhere else")]

    with pytest.raises(Unroutable, match=r"nowhere.*1 more of 4") as caught:
        connection.publish(batch)

    assert caught.value.envelopes == (batch[1], batch[3])
    assert connection.inspect("q").messages == 2


def test_a_message_that_cannot_be_encoded_fails_alone(connection: BlockingConnection) -> None:
    wrong = envelope(correlation_id="c" * 300)

    ticket = connection.submit([envelope(), wrong, envelope()])
    with pytest.raises(AmqptasksError, match="correlation_id"):
        ticket.wait()

    assert [message for message, _ in ticket.failures] == [wrong]
    assert connection.inspect("q").messages == 2


def test_no_message_at_all_is_confirmed_at_once(connection: BlockingConnection) -> None:
    assert connection.submit([]).done

    connection.publish([])


def test_a_ticket_may_be_waited_for_again(connection: BlockingConnection, broker: MemoryBroker) -> None:
    broker.withhold_confirms()
    ticket = connection.submit([envelope()])

    with pytest.raises(PublishTimeout):
        ticket.wait(0.01)
    broker.release_confirms()
    ticket.wait(60)

    assert ticket.done
    ticket.wait()


def test_sixteen_threads_publish_at_once(connection: BlockingConnection) -> None:
    confirmed: list[str] = []

    def publish(number: int) -> None:
        for count in range(100):
            connection.publish([envelope(message_id=f"{number}.{count}")])
            confirmed.append(f"{number}.{count}")

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(set(confirmed)) == 1600
    assert connection.inspect("q").messages == 1600
    assert connection.pending == 0


# --- a broker that is away -----------------------------------------------------------------------------------


def test_a_broker_that_is_down_fails_a_publish_with_the_reason_after_the_policys_attempts(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.refuse_connections(BrokerUnavailable("connection refused by the test"))
    broker.drop_connections()
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="refused by the test"):
        connection.publish([envelope()])

    assert time.monotonic() - began < 50, "not only at its timeout"


def test_a_refusal_for_good_fails_at_once(connection: BlockingConnection, broker: MemoryBroker) -> None:
    broker.refuse_connections(AccessRefused("wrong password"))
    broker.drop_connections()

    for call in (lambda: connection.publish([envelope()]), lambda: connection.inspect("q")):
        with pytest.raises(AccessRefused, match="wrong password"):
            call()


def test_a_timeout_ends_a_patient_policy(
    open_connection: Callable[..., BlockingConnection], broker: MemoryBroker
) -> None:
    connection = open_connection(policy=RetryPolicy(max_retries=None), timeout=0.5)
    broker.refuse_connections(BrokerUnavailable("down"))

    with pytest.raises(BrokerUnavailable, match="down"):
        connection.publish([envelope()])
    with pytest.raises(BrokerUnavailable, match="down"):
        connection.inspect("q")


def test_after_an_outage_it_publishes_again_by_itself(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    for _ in range(3):
        broker.drop_connections()
        connection.publish([envelope()])

    assert connection.inspect("q").messages == 3


def test_a_publish_in_doubt_returns_once_the_broker_has_it(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    connection.publish([envelope()])
    broker.withhold_confirms()
    ticket = connection.submit([envelope(message_id="doubt")])
    until(lambda: broker.queues["q"].head() is not None and len(broker.queues["q"]) == 2)

    broker.drop_connections()
    broker.release_confirms()
    ticket.wait(60)

    assert connection.inspect("q").messages == 3  # doubled under one id, not lost


def test_a_blocked_broker_raises_after_the_timeout(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.block("low on memory")

    with pytest.raises(BrokerBlocked, match="low on memory"):
        connection.publish([envelope()], timeout=0.05)
    broker.unblock()
    connection.publish([envelope()])

    assert connection.pending == 0


def test_a_silent_broker_raises_after_the_timeout(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.withhold_confirms()

    with pytest.raises(PublishTimeout, match="may still arrive"):
        connection.publish([envelope()], timeout=0.05)

    assert connection.pending == 0


# --- bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"limit_messages": 5}, {"limit_bytes": 5000}], ids=["messages", "bytes"])
def test_who_publishes_more_than_there_is_room_for_waits(
    open_connection: Callable[..., BlockingConnection], broker: MemoryBroker, limits: dict[str, int]
) -> None:
    connection = open_connection(**limits)
    connection.declare(Queue("q"))
    broker.withhold_confirms()
    tickets = [connection.submit([envelope(body=b"x" * 900)]) for _ in range(5)]

    with pytest.raises(PublishTimeout, match="no room"):
        connection.submit([envelope(body=b"x" * 900)], timeout=0.02)
    waiting = threading.Thread(target=lambda: tickets.append(connection.submit([envelope(body=b"x" * 900)])))
    waiting.start()
    broker.release_confirms()
    waiting.join(60)
    for ticket in tickets:
        ticket.wait(60)

    assert len(tickets) == 6
    assert connection.inspect("q").messages == 6


def test_a_batch_larger_than_the_room_passes_through_it(
    open_connection: Callable[..., BlockingConnection],
) -> None:
    connection = open_connection(limit_messages=150, limit_bytes=10_000)
    connection.declare(Queue("q"))

    connection.publish([envelope(body=b"x" * 100) for _ in range(1000)])
    connection.publish([envelope(body=b"x" * 50_000)])

    assert connection.inspect("q").messages == 1001


def test_no_room_because_of_a_blocked_broker_says_so(
    open_connection: Callable[..., BlockingConnection], broker: MemoryBroker
) -> None:
    connection = open_connection(limit_messages=1)
    connection.declare(Queue("q"))
    broker.block("low on disk")
    ticket = connection.submit([envelope()])
    until(lambda: connection._open().blocked())

    with pytest.raises(BrokerBlocked, match="low on disk"):
        connection.submit([envelope()], timeout=0.02)

    broker.unblock()
    ticket.wait(60)


def test_flush_waits_for_every_confirm(connection: BlockingConnection, broker: MemoryBroker) -> None:
    broker.withhold_confirms()
    connection.submit([envelope()])

    too_early = connection.flush(0.01)
    broker.release_confirms()

    assert (too_early, connection.flush(60)) == (False, True)
    assert connection.pending == 0


# --- calls ---------------------------------------------------------------------------------------------------


def test_queues_are_looked_at_purged_and_deleted(connection: BlockingConnection) -> None:
    connection.publish([envelope(body=b"a"), envelope(body=b"b"), envelope(body=b"c")])

    first = connection.get("q")
    purged = connection.purge("q")
    deleted = connection.delete_queue("q")

    assert first is not None
    assert (first.body, purged, deleted, connection.delete_queue("q")) == (b"a", 2, 0, 0)
    assert connection.server.product == "memory"
    with pytest.raises(NotFound):
        connection.inspect("q")


def test_a_call_survives_the_loss_of_its_connection(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    for _ in range(20):
        broker.drop_connections()

        assert connection.inspect("q").name == "q"


# --- consumers -----------------------------------------------------------------------------------------------


def test_a_subscription_receives_and_ends(connection: BlockingConnection, broker: MemoryBroker) -> None:
    received: list[bytes] = []

    subscription = connection.consume(Queue("replies"), lambda delivery: received.append(delivery.body))
    connection.publish([envelope("replies", b"one")])
    until(lambda: received == [b"one"])
    subscription.close()
    connection.publish([envelope("replies", b"two")])

    assert received == [b"one"]
    assert connection.inspect("replies").consumers == 0
    subscription.close()


def test_a_subscription_is_restored_after_an_outage_with_what_came_meanwhile(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    received: list[bytes] = []
    story: list[object] = []
    connection.consume(
        Queue("replies"),
        lambda delivery: received.append(delivery.body),
        on_lost=lambda error: story.append(type(error)),
        on_restored=story.append,
    )

    for number in range(3):
        broker.drop_connections()
        connection.publish([envelope("replies", b"%d" % number)])
        # Else the next outage may come between its delivery and the callback, and without an ack it is lost then.
        until(lambda number=number: len(received) == number + 1)
    until(lambda: len(story) >= 2)

    assert received == [b"0", b"1", b"2"]
    assert story[:2] == [ConnectionLost, True]


def test_a_subscription_whose_queue_is_deleted_gets_a_new_one_and_is_told(
    connection: BlockingConnection,
) -> None:
    received: list[bytes] = []
    story: list[object] = []
    connection.consume(
        Queue("replies"),
        lambda delivery: received.append(delivery.body),
        on_lost=lambda error: story.append(type(error)),
        on_restored=story.append,
    )

    connection.delete_queue("replies")
    until(lambda: len(story) == 2)
    connection.publish([envelope("replies", b"again")])
    until(lambda: received)

    assert story == [NotFound, False]
    assert received == [b"again"]


def test_consuming_without_a_queue_or_a_broker_raises(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    with pytest.raises(NotFound):
        connection.consume("missing", print)

    broker.refuse_connections(BrokerUnavailable("down"))
    broker.drop_connections()
    with pytest.raises(BrokerUnavailable, match="down"):
        connection.consume(Queue("q"), print)


def test_acknowledging_from_the_callback(open_connection: Callable[..., BlockingConnection]) -> None:
    connection = open_connection()
    received: list[bytes] = []

    def accept(delivery: Delivery) -> None:
        received.append(delivery.body)
        subscription.ack(delivery)

    subscription = connection.consume(Queue("q"), accept, no_ack=False, prefetch=1)
    connection.publish([envelope(body=b"%d" % number) for number in range(10)])
    until(lambda: len(received) == 10)
    subscription.close()

    assert connection.inspect("q").messages == 0


def test_a_tag_of_before_an_outage_acknowledges_nothing_after_it(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    received: list[Delivery] = []

    def accept(delivery: Delivery) -> None:
        received.append(delivery)
        if len(received) > 1:
            subscription.ack(received[0])

    subscription = connection.consume(Queue("q"), accept, no_ack=False, prefetch=1)
    connection.publish([envelope()])
    until(lambda: received)
    broker.drop_connections()
    until(lambda: len(received) == 2, "its redelivery")
    assert received[0].tag == received[1].tag, "only the generation tells them apart"
    subscription.close()

    assert connection.inspect("q").messages == 1, "the redelivery was never acknowledged"


def test_a_callback_that_fails_or_waits_does_not_stop_the_others(
    connection: BlockingConnection, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[bytes] = []
    errors: list[BaseException] = []

    def accept(delivery: Delivery) -> None:
        received.append(delivery.body)
        try:
            connection.publish([envelope()])
        except RuntimeError as exc:
            errors.append(exc)
            raise

    connection.consume(Queue("replies"), accept)
    connection.publish([envelope("replies", b"1")])
    connection.publish([envelope("replies", b"2")])
    until(lambda: len(errors) == 2)

    assert all("callback" in str(error) for error in errors)
    assert received == [b"1", b"2"]


# --- close, garbage, interrupts ------------------------------------------------------------------------------


def test_close_waits_for_confirms_and_a_later_use_opens_again(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.withhold_confirms()
    ticket = connection.submit([envelope()])
    threading.Timer(0.05, broker.release_confirms).start()

    connection.close(60)
    ticket.wait(0)
    connection.publish([envelope()])

    assert connection.inspect("q").messages == 2


AT_EXIT = """
    import atexit, threading
    atexit.register(lambda: print(ticket.done, ticket.failures))  # the first one registered is the last to run
    from amqptasks.amqp import Address, Envelope, Properties, Queue
    from amqptasks.transport import memory
    from amqptasks.transport.blocking import BlockingConnection
    from amqptasks.transport.opening import opener
    from amqptasks.transport.url import parse
    connection = BlockingConnection(opener(parse("memory://exit")), timeout=60)
    connection.declare(Queue("q"))
    memory.broker("exit").block()
    ticket = connection.submit([Envelope(Address("", "q"), b"x", Properties())])
    freed = threading.Timer(0.5, memory.broker("exit").unblock)
    freed.daemon = True
    freed.start()
"""


def test_a_program_that_ends_waits_for_what_is_unconfirmed() -> None:
    program = [sys.executable, "-c", textwrap.dedent(AT_EXIT)]

    run = subprocess.run(program, capture_output=True, text=True, timeout=120)

    assert (run.stdout, run.stderr) == ("True []\n", "")


def test_close_fails_what_the_broker_does_not_answer(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.withhold_confirms()
    ticket = connection.submit([envelope()])

    connection.close(0.05)

    with pytest.raises(ConnectionLost, match="may have arrived"):
        ticket.wait(60)


def test_every_publish_is_answered_while_others_close(connection: BlockingConnection) -> None:
    stop = threading.Event()
    answers: list[str] = []

    def publish() -> None:
        while not stop.is_set():
            try:
                connection.publish([envelope(), envelope()])
                answers.append("confirmed")
            except TransportError as exc:
                answers.append(type(exc).__name__)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        before = len(answers)
        connection.close(1)
        until(lambda before=before: len(answers) > before + 4)
    stop.set()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    assert set(answers) <= {"confirmed", "ConnectionLost"}


def test_a_connection_that_nobody_holds_ends_its_thread(
    broker: MemoryBroker,
) -> None:
    connection = BlockingConnection(opener(parse(f"memory://{broker.name}")), name="dropped")
    connection.declare(Queue("q"))

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "dropped-io"]

    running = threads()
    del connection
    gc.collect()
    until(lambda: not threads(), "the thread ended")

    assert running == ["dropped-io"]


def test_an_interrupt_ends_the_wait_and_nothing_else(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    broker.withhold_confirms()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupt() -> None:
        until(lambda: len(broker.queues["q"]) == 1, "the broker has it, so its publisher waits")
        os.kill(os.getpid(), signal.SIGALRM)

    interrupting = threading.Thread(target=interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupting.start()
            connection.publish([envelope()])
    finally:
        interrupting.join()
        signal.signal(signal.SIGALRM, previous)
    broker.release_confirms()
    connection.publish([envelope()])

    assert connection.flush(60)
    assert connection.inspect("q").messages == 2


# --- fork ----------------------------------------------------------------------------------------------------


def test_a_forked_child_connects_anew_and_its_parent_goes_on(
    connection: BlockingConnection, broker: MemoryBroker
) -> None:
    connection.publish([envelope()])
    broker.withhold_confirms()
    ticket = connection.submit([envelope()])

    def child() -> bool:
        if "not open" not in repr(connection) or connection.pending:
            return False
        try:
            ticket.wait()
        except ConnectionLost as exc:
            refused = "parent" in str(exc)
        connection.declare(Queue("q"))  # a broker of its own: memory does not cross a fork
        connection.publish([envelope()])
        alone = connection.inspect("q").messages == 1
        connection.close(60)
        return refused and alone

    code = in_child(child)
    broker.release_confirms()
    ticket.wait(60)

    assert code == 0
    assert connection.inspect("q").messages == 2


def test_a_fork_in_the_midst_of_other_threads_leaves_no_lock_held(connection: BlockingConnection) -> None:
    io = connection._open()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with connection._lock, io.room.lock:
            held.set()
            release.wait(100)

    def child() -> bool:
        connection.declare(Queue("q"))
        connection.publish([envelope()])
        return True

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    code = in_child(child)
    release.set()
    holder.join(60)

    assert code == 0
    connection.publish([envelope()])


def test_a_subscription_of_the_parent_is_not_the_childs_to_close(
    connection: BlockingConnection,
) -> None:
    received: list[bytes] = []
    subscription = connection.consume(Queue("replies"), lambda delivery: received.append(delivery.body))

    def child() -> bool:
        subscription.close()
        return True

    code = in_child(child)
    connection.publish([envelope("replies", b"still here")])
    until(lambda: received)

    assert code == 0
