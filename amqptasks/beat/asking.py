"""Asking the leading beat: a message into the lease's queue, and its answer. Blocks; knows no entry by itself."""

from __future__ import annotations

import queue
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from amqptasks.amqp import Delivery, Queue
from amqptasks.beat.lease import note, queue_of
from amqptasks.beat.service import lease_name
from amqptasks.errors import BrokerUnavailable, NotFound, Unroutable
from amqptasks.ids import new_id

if TYPE_CHECKING:
    from amqptasks.app import App

ANSWER = 5.0
"""Seconds in which a leading beat answers."""


class NoBeat(BrokerUnavailable):
    """No beat leads under this name."""


def ask(
    app: App,
    command: str,
    entry: str = "",
    given: dict[str, Any] | None = None,
    timeout: float = ANSWER,
) -> dict[str, Any]:
    """Tell the leading beat something and return its answer. Raises NoBeat after `timeout` seconds without one."""
    name = lease_name(app)
    inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    reply = Queue(f"amqptasks.beat.reply.{new_id()}", durable=False, exclusive=True)
    listening = app.connection.consume(reply, inbox.put)
    said = {"entry": entry, "given": given, "at": datetime.now(UTC).isoformat()}
    try:
        app.connection.publish([note(queue_of(name).name, command, said, reply_to=reply.name)])
        return dict(orjson.loads(inbox.get(timeout=timeout).body))
    except (Unroutable, NotFound):
        raise NoBeat(f"no beat has run for {name!r} on this broker; start one: amqptasks beat") from None
    except queue.Empty:
        late = "" if command == "list" else "; the next one to lead will do as you said"
        raise NoBeat(
            f"no beat answered for {name!r} in {timeout:g} seconds; start one: amqptasks beat{late}"
        ) from None
    finally:
        listening.close()
