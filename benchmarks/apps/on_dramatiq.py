"""The measured tasks on Dramatiq: what a worker loads."""

import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import CurrentMessage
from mode import Mode
from slots import mark, record

mode = Mode.from_environment()
broker = RabbitmqBroker(url=mode.broker, confirm_delivery=mode.confirmed)
broker.add_middleware(CurrentMessage())
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


@dramatiq.actor(actor_name="bench.late", queue_name=mode.queue)
def late(due: float) -> None:
    """`due` is a time of the monotonic clock."""
    record(time.monotonic() - due)
    mark()


@dramatiq.actor(actor_name="bench.fails_twice", queue_name=mode.queue, max_retries=2)
def fails_twice() -> None:
    mark()
    message = CurrentMessage.get_current_message()
    if message is not None and message.options.get("retries", 0) < 2:
        raise dramatiq.Retry("again", delay=1000)


@dramatiq.actor(actor_name="bench.waits", queue_name=mode.queue)
def waits(seconds: float) -> None:
    mark()
    time.sleep(seconds)
    mark()
