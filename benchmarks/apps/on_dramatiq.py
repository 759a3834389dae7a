"""The measured tasks on Dramatiq: what a worker loads."""

import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from mode import Mode
from slots import mark, record

mode = Mode.from_environment()
broker = RabbitmqBroker(url=mode.broker, confirm_delivery=mode.confirmed)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="bench.noop", queue_name=mode.queue)
def noop() -> None:
    mark()


@dramatiq.actor(actor_name="bench.short", queue_name=mode.queue)
def short(sent: float) -> None:
    record(time.monotonic() - sent)
    mark()


@dramatiq.actor(actor_name="bench.long", queue_name=mode.queue)
def long(seconds: float) -> None:
    time.sleep(seconds)
    mark()
