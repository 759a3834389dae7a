"""Promises 1 and 3: what cannot be sent is an error in time, and what cannot be run is a dead letter with its reason."""

import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import App
from amqptasks.amqp import Parcel, Properties
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    PublishTimeout,
    TransportError,
    Unroutable,
    VhostNotFound,
)
from amqptasks.transport.codec import encode_header
from integration.support import WorkerProcess, wait_until
from integration.support.calls import REPLIES, answers, call, count, headers, send, take
from integration.support.faults import APP, Bench

ALARM = "{resource_limit, memory, node()}"


@pytest.fixture
def bench(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Bench:
    return Bench(node, fresh_vhost, tmp_path, worker)


@pytest.fixture
def client(bench: Bench) -> Iterator[App]:
    with App("client", broker=bench.url, set_as_current=False) as app:
        yield app


class Suicide:
    """Kills whoever unpickles it."""

    def __reduce__(self) -> tuple:
        return signal.raise_signal, (signal.SIGKILL,)


def raw(body: bytes, **properties: object) -> Parcel:
    plain = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "reply_to": REPLIES,
        "correlation_id": "c",
        "headers": {"task": f"{APP}.early", "id": "c"},
    }
    return Parcel("", "amqptasks", encode_header(Properties(**plain | properties)), body, "m")


REFUSED = {
    "truncated": (raw(b"[[1, 2"), "undecodable", "DecodeError"),
    "not a call": (raw(b'"text"'), "undecodable", "InvalidMessage"),
    "bytes": (raw(bytes(range(256))), "undecodable", "DecodeError"),
    "forbidden": (
        raw(pickle.dumps(1), content_type="application/x-python-serialize"),
        "forbidden",
        "ContentDisallowed",
    ),
    "unknown task": (call("nobody.knows", 1), "unknown", "NotRegistered"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_message_that_cannot_run_is_a_dead_letter_with_its_reason_and_its_caller_is_told(
    bench: Bench, name: str
) -> None:
    parcel, reason, error = REFUSED[name]
    worker = bench.worker("--", "task_unknown_retries=0")

    send(bench.url, [parcel])
    bench.send(("early", 1))
    bench.finished(1)

    (dead,) = take(bench.url, "amqptasks.dead", 1)
    assert headers(dead)["x-amqptasks-reason"] == reason
    assert headers(dead)["x-amqptasks-queue"] == "amqptasks"
    assert dead.body == parcel.body
    told = {answer["status"]: answer["result"] for answer in answers(bench.url, 2)}
    assert type(told["FAILURE"]).__name__ == error
    assert worker.stop() == 0
    assert count(bench.url, "amqptasks") == 0


def test_malformed_headers_never_stop_the_worker(bench: Bench) -> None:
    worker = bench.worker("--prefetch-multiplier", "1")
    odd = [
        {},
        {"task": ["x"], "id": {"a": 1}},
        {"task": 5, "id": "c"},
        {"task": f"{APP}.early", "id": "c", "eta": "soon"},
        {"task": f"{APP}.early", "id": "c", "timelimit": "x", "retries": []},
        {"task": "", "id": ""},
    ]

    send(bench.url, [raw(b"\xff", headers=each) for each in odd])
    bench.send(("early", 1))

    bench.finished(1)
    wait_until(lambda: count(bench.url, "amqptasks.dead") == len(odd), 10, lambda: worker.log()[-3000:])
    assert worker.stop() == 0
    assert count(bench.url, "amqptasks") == 0


def test_a_body_that_kills_whoever_reads_it_ends_as_a_dead_letter(bench: Bench) -> None:
    worker = bench.worker("--", "accept_content=json,pickle")
    bench.hold("waits_for", 1)
    body = pickle.dumps(([Suicide()], {}, {}))

    send(bench.url, [raw(body, content_type="application/x-python-serialize", content_encoding="binary")])

    (dead,) = take(bench.url, "amqptasks.dead", 1) if _dead_letter(bench) else ()
    assert headers(dead)["x-amqptasks-reason"] == "crashed"
    bench.release()
    bench.finished(1)
    assert bench.starts() == {1: 1}, "the other child's task was not touched"
    assert worker.stop() == 0
    assert count(bench.url, "amqptasks") == 0


def _dead_letter(bench: Bench) -> int:
    return wait_until(lambda: count(bench.url, "amqptasks.dead"), 20, "a dead letter")


def test_a_memory_alarm_is_an_error_in_time_for_clients_and_a_pause_for_the_worker(
    bench: Bench, client: App
) -> None:
    worker = bench.worker()
    client.send_task(f"{APP}.early", (0,))
    bench.hold("waits_late_for", 1)
    patience, client.connection.timeout = client.connection.timeout, 3.0

    def blocked() -> bool:
        with pytest.raises((BrokerBlocked, PublishTimeout)) as refused:
            client.send_task(f"{APP}.early", (2,))
        return refused.type is BrokerBlocked  # or it was slow to say why

    # It is told by a message: who asks for the alarms gets an answer when all connections have been told.
    bench.node.eval(f"rabbit_alarm:set_alarm({{{ALARM}, []}}), rabbit_alarm:get_alarms()")
    try:
        began = time.monotonic()
        wait_until(blocked, 10, "the reason")
        assert time.monotonic() - began < 60
        bench.release()
        bench.finished(1)
    finally:
        bench.node.eval(f"rabbit_alarm:clear_alarm({ALARM})")
    client.connection.timeout = patience

    client.send_task(f"{APP}.early", (3,))
    bench.finished(3)
    (answer,) = answers(bench.url, 1)
    assert (answer["status"], answer["result"]) == ("SUCCESS", 1), "it was held back, not lost"
    assert worker.stop() == 0
    assert count(bench.url, "amqptasks") == 0


def test_a_call_that_no_queue_takes_is_unroutable(bench: Bench, client: App) -> None:
    bench.worker()

    with pytest.raises(Unroutable):
        client.send_task(f"{APP}.early", (1,), exchange="amqptasks", routing_key="nobody-consumes-this")


@pytest.mark.parametrize(
    ("wrong", "error", "code"),
    [
        (lambda url: url.replace("test-", "missing-"), VhostNotFound, 78),
        (lambda url: url.replace(":guest@", ":mistaken@"), AccessRefused, 77),
    ],
)
def test_a_wrong_vhost_or_password_is_one_sentence_for_client_and_worker(
    bench: Bench, wrong: Callable[[str], str], error: type[TransportError], code: int
) -> None:
    url = wrong(bench.url)

    with App("client", broker=url, set_as_current=False) as app, pytest.raises(error):
        app.send_task(f"{APP}.early", (1,))

    worker = bench.worker(broker_url=url, ready=None)
    assert worker.wait() == code
    assert "Traceback" not in worker.log()
    assert "mistaken" not in worker.log(), "no password in a log"
