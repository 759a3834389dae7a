"""`amqptasks queues`: what the app's queues hold, and what Celery must be told to share them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import click

from amqptasks.amqp import Exchange, QueueInfo
from amqptasks.cli.apps import load_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import show_json, table
from amqptasks.entities import LOST
from amqptasks.errors import NotFound
from amqptasks.routing import Queue, celery_task_queues
from amqptasks.topology import DEAD_SUFFIX
from amqptasks.transport.blocking import BlockingConnection


@dataclass(frozen=True, slots=True)
class Row:
    """A queue as it is shown; None where the broker does not have it."""

    name: str
    type: str
    exchange: str
    exchange_type: str
    routing_key: str
    messages: int | None = None
    consumers: int | None = None
    dead: int | None = None
    """Messages in its dead-letter queue."""


@click.command("queues")
@click.option("--celery", is_flag=True, help="Print task_queues for a Celery app that shares these queues.")
@listing_options
def command(celery: bool) -> None:
    """List the app's queues: ready messages, consumers, dead letters, type, exchange and key.

    They are those of task_queues and those that task_routes and tasks name.
    A `-` means that the broker does not have the queue yet: a worker declares it. amqptasks.lost is listed when it
    holds messages: delayed ones whose queue was deleted meanwhile, and dead letters without a dead-letter queue.
    """
    common = Common.current()
    with load_app(common) as app:
        if celery:
            print(celery_task_queues(app.router.select()))
            return
        found = [counted(described(queue), app.connection) for queue in app.known_queues()]
        found += lost(app.connection)
    if common.json:
        show_json([asdict(row) for row in found])
        return
    head = ("queue", "messages", "consumers", "dead", "type", "exchange", "key")
    print(table(head, [_cells(row) for row in found]))


def _cells(row: Row) -> tuple[object, ...]:
    exchange = f"{row.exchange or '(default)'}({row.exchange_type})"
    return row.name, row.messages, row.consumers, row.dead, row.type, exchange, row.routing_key


def described(queue: Queue) -> Row:
    """Return a resolved queue's row, as the app wants it. Asks no broker."""
    exchange = queue.exchange or Exchange("")
    return Row(
        name=queue.name,
        type=str(queue.entity().arguments.get("x-queue-type", "classic")),
        exchange=exchange.name,
        exchange_type=exchange.type,
        routing_key=", ".join(key for _, key, _ in queue.bindings) or queue.routing_key or "",
    )


def counted(row: Row, connection: BlockingConnection) -> Row:
    """Return the row with the broker's counts."""
    own, dead = count(row.name, connection), count(row.name + DEAD_SUFFIX, connection)
    return replace(
        row,
        messages=own.messages if own else None,
        consumers=own.consumers if own else None,
        dead=dead.messages if dead else None,
    )


def lost(connection: BlockingConnection) -> list[Row]:
    """Return the row of what found no queue, if there is any."""
    held = count(LOST, connection)
    if held is None or not held.messages:
        return []
    return [Row(LOST, "quorum", LOST, "fanout", "", held.messages, held.consumers)]


def count(queue: str, connection: BlockingConnection) -> QueueInfo | None:
    """Return a queue's ready messages and consumers; None when the broker does not have it."""
    try:
        return connection.inspect(queue)
    except NotFound:
        return None
