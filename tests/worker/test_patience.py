"""The broker's consumer_timeout against the tasks' time limits: what is asked for, per version, and what is said."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from amqptasks.amqp import Exchange, Queue
from amqptasks.errors import ChannelClosed
from amqptasks.transport.base import ServerInfo
from amqptasks.worker.consumer import Consumers, Retrying
from amqptasks.worker.outcome import Manifest, TaskOptions, WorkerQueue
from amqptasks.worker.patience import ARGUMENT, Patience
from amqptasks.worker.prefetch import Prefetch
from tests.worker.test_consumer import FakeDispatch, FakeLink

OLD, MIDDLE, NEW = (3, 10, 8), (4, 2, 0), (4, 3, 1)


def queue(kind: str = "quorum", **consumer_arguments: object) -> WorkerQueue:
    declared = (Exchange("amqptasks"), Queue("q.dead"), Queue("q", arguments={"x-queue-type": kind}))
    return WorkerQueue("q", declare=declared, consumer_arguments=consumer_arguments)


def patience(limit: float | None = 2400.0, timeout: float = 1800.0, *, late: bool = True) -> Patience:
    tasks = {"proj.long": TaskOptions("proj.long", acks_late=late, time_limit=limit)}
    return Patience.of(Manifest("proj", {"broker_consumer_timeout": timeout}, (), tasks))


def declared(asked: WorkerQueue) -> dict[str, Any]:
    return {entity.name: entity.arguments.get(ARGUMENT) for entity in asked.declare}


def test_a_new_broker_is_asked_by_the_consumer() -> None:
    asked = patience().asked(queue(), NEW)

    assert asked.consumer_arguments == {ARGUMENT: 3_300_000}, "half of the timeout to wait, then the run"
    assert asked.declare == queue().declare
    assert patience().warning(NEW) == ""


def test_what_the_app_asks_for_itself_stands() -> None:
    own = queue(**{ARGUMENT: 7, "x-priority": 1})

    assert patience().asked(own, NEW).consumer_arguments == {ARGUMENT: 7, "x-priority": 1}


def test_classic_queues_of_a_new_broker_have_no_timeout() -> None:
    assert patience().asked(queue("classic"), NEW) == queue("classic")


def test_before_that_the_queue_itself_has_it_and_a_policy_is_named_for_those_that_exist() -> None:
    asked = patience().asked(queue(), MIDDLE)

    assert declared(asked) == {"amqptasks": None, "q.dead": None, "q": 3_300_000}
    assert asked.consumer_arguments == {}
    assert """'{"consumer-timeout": 3300000}'""" in patience().warning(MIDDLE)


def test_an_old_broker_cannot_be_asked_so_its_configuration_is_named() -> None:
    assert patience().asked(queue(), OLD) == queue()

    warning = patience().warning(OLD)
    assert "proj.long may run longer than the 1800 s" in warning
    assert "consumer_timeout = 3300000 into rabbitmq.conf" in warning
    assert "broker_consumer_timeout = 3300" in warning


@pytest.mark.parametrize("quiet", [patience(600), patience(2400, timeout=0), patience(2400, late=False)])
def test_where_there_is_no_risk_nothing_is_asked_and_nothing_said(quiet: Patience) -> None:
    for version in (OLD, MIDDLE, NEW):
        assert quiet.asked(queue(), version) == queue()
        assert quiet.warning(version) == ""
    assert quiet.remark() == ""


def test_a_task_without_a_limit_is_remarked_on() -> None:
    assert "acknowledged late and without a time_limit: proj.long" in patience(None).remark()
    assert patience(None).warning(OLD) == ""


class Broker(FakeLink):
    """Version 4.3, whose queue turns out to be a classic one."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ServerInfo("RabbitMQ", "4.3.2")
        self.asked: list[object] = []

    async def consume(self, queue: str, on_delivery: Any, on_cancel: Any, **options: Any) -> Any:
        self.asked.append(options["arguments"])
        if options["arguments"]:
            raise ChannelClosed("invalid arg 'x-consumer-timeout'", 406)
        return await super().consume(queue, on_delivery, on_cancel, **options)


def consumers(link: FakeLink) -> Consumers:
    async def connect() -> FakeLink:
        return link

    return Consumers(
        connect, [queue()], FakeDispatch(), prefetch=lambda: Prefetch(1, 1), node="n@h",
        retrying=Retrying(startup=False), patience=patience(),
    )  # fmt: skip


def test_a_queue_that_takes_no_timeout_is_consumed_without() -> None:
    async def within() -> list[object]:
        link = Broker()
        await consumers(link).open()
        return link.asked

    assert asyncio.run(within()) == [{ARGUMENT: 3_300_000}, None]


def test_the_warning_is_logged_once_however_often_it_connects(caplog: pytest.LogCaptureFixture) -> None:
    async def within() -> None:
        link = FakeLink()
        link.server = ServerInfo("RabbitMQ", "3.10.8")
        tested = consumers(link)
        await tested.open()
        await tested.open()

    with caplog.at_level(logging.WARNING):
        asyncio.run(within())

    assert sum("rabbitmq.conf" in record.message for record in caplog.records) == 1
