"""Signals: who is told, who is not, and what a receiver's failure changes."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from amqptasks import signals
from amqptasks.signals import Signal


@pytest.fixture
def rang() -> Signal:
    return Signal("rang", ("volume",))


def test_a_receiver_gets_sender_signal_and_arguments(rang: Signal) -> None:
    seen: list[dict[str, Any]] = []

    @rang.connect
    def receiver(**named: Any) -> str:
        seen.append(named)
        return "heard"

    answers = rang.send(sender="door", volume=3)

    assert seen == [{"signal": rang, "sender": "door", "volume": 3}]
    assert answers == [(receiver, "heard")]


def test_receivers_are_called_in_the_order_of_connecting(rang: Signal) -> None:
    heard: list[int] = []
    receivers = [lambda number=number, **_: heard.append(number) for number in range(3)]
    for receiver in receivers:
        rang.connect(receiver)

    rang.send(sender=None)

    assert heard == [0, 1, 2]


@pytest.mark.parametrize(("sender", "expected"), [("door", 1), ("window", 0), (None, 0)])
def test_a_sender_filter_keeps_other_senders_away(rang: Signal, sender: object, expected: int) -> None:
    heard: list[object] = []

    @rang.connect(sender="door")
    def receiver(sender: object, **_: Any) -> None:
        heard.append(sender)

    rang.send(sender=sender)

    assert len(heard) == expected


def test_a_receiver_that_nobody_else_holds_is_dropped(rang: Signal) -> None:
    def connect() -> None:
        @rang.connect
        def receiver(**_: Any) -> None: ...

    connect()
    gc.collect()

    assert rang.receivers == ()


def test_weak_false_keeps_the_receiver(rang: Signal) -> None:
    heard: list[int] = []
    rang.connect(lambda **_: heard.append(1), weak=False)
    gc.collect()

    rang.send(sender=None)

    assert heard == [1]


def test_a_bound_method_lives_as_long_as_its_object(rang: Signal) -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard = 0

        def hear(self, **_: Any) -> None:
            self.heard += 1

    listener = Listener()
    rang.connect(listener.hear)
    rang.send(sender=None)
    heard = listener.heard
    del listener
    gc.collect()

    assert heard == 1
    assert rang.receivers == ()


def test_the_same_uid_or_receiver_connects_once(rang: Signal) -> None:
    heard: list[int] = []
    first, second = (lambda **_: heard.append(1)), (lambda **_: heard.append(2))
    for receiver in (first, second):
        rang.connect(receiver, dispatch_uid="one")
    rang.connect(first, dispatch_uid="one")

    rang.send(sender=None)

    assert heard == [1]


def test_disconnect_says_whether_there_was_something(rang: Signal) -> None:
    def receiver(**_: Any) -> None: ...

    rang.connect(receiver, sender="door")

    assert not rang.disconnect(receiver)
    assert rang.disconnect(receiver, sender="door")
    assert rang.receivers == ()


def test_a_failing_receiver_is_logged_and_the_others_still_hear(
    rang: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def fails(**_: Any) -> None:
        raise ValueError("no")

    def hears(**_: Any) -> None:
        heard.append(1)

    rang.connect(fails)
    rang.connect(hears)

    with caplog.at_level(logging.ERROR):
        answers = rang.send(sender=None)

    assert heard == [1]
    assert isinstance(answers[0][1], ValueError)
    assert "rang" in caplog.text


def test_celery_s_names_are_there() -> None:
    wanted = [
        "before_task_publish",
        "after_task_publish",
        "task_received",
        "task_prerun",
        "task_postrun",
        "task_success",
        "task_retry",
        "task_failure",
        "task_internal_error",
        "task_revoked",
        "task_rejected",
        "task_unknown",
        "worker_init",
        "worker_ready",
        "worker_process_init",
        "worker_process_shutdown",
        "worker_shutdown",
        "worker_shutting_down",
        "heartbeat_sent",
        "setup_logging",
        "after_setup_logger",
        "after_setup_task_logger",
        "beat_init",
        "import_modules",
    ]

    assert [name for name in wanted if not isinstance(getattr(signals, name, None), Signal)] == []
