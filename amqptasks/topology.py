"""Task queues as values, as users write them: ours, Celery's dicts, kombu's. Pure.

A `Queue` may leave open what the settings decide; `entities.resolve` fills that in.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from amqptasks import amqp
from amqptasks.amqp import Arguments, Exchange
from amqptasks.errors import ImproperlyConfigured

QueueType = Literal["quorum", "classic"]

DEAD_SUFFIX = ".dead"


@dataclass(frozen=True, slots=True, init=False)
class Queue:
    """A task queue: bound to `exchange` by `routing_key`, and to whatever else `bindings` names.

    What is None comes from the settings: the exchange `task_default_exchange`, the queue's name as routing
    key, the type `task_default_queue_type`. A priority (1 to 255: `x-max-priority`) makes the queue classic.
    `arguments` go over the wire as they are and win over what this package adds; None removes one.
    """

    name: str
    exchange: Exchange | None = field(default=None, hash=False)
    routing_key: str | None = None
    type: QueueType | None = None
    priority: int | None = None
    arguments: Arguments = field(default_factory=dict, hash=False)
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    bindings: tuple[tuple[Exchange, str, Arguments], ...] = field(default=(), hash=False)
    binding_arguments: Arguments = field(default_factory=dict, hash=False)
    consumer_arguments: Arguments = field(default_factory=dict, hash=False)
    no_declare: bool = False

    def __init__(
        self,
        name: str,
        exchange: Exchange | str | None = None,
        routing_key: str | None = None,
        *,
        type: QueueType | None = None,
        priority: int | None = None,
        max_priority: int | None = None,
        arguments: Arguments | None = None,
        queue_arguments: Arguments | None = None,
        exchange_type: str | None = None,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        bindings: Sequence[Any] = (),
        binding_arguments: Arguments | None = None,
        consumer_arguments: Arguments | None = None,
        expires: float | None = None,
        message_ttl: float | None = None,
        max_length: int | None = None,
        max_length_bytes: int | None = None,
        no_declare: bool = False,
    ) -> None:
        """Take kombu's names too: `queue_arguments`, `max_priority`, `expires` and `message_ttl` in seconds.

        `bindings` holds (exchange, routing key) or (exchange, routing key, arguments).
        Raises ImproperlyConfigured for what no broker would accept.
        """
        wire = {**(arguments or {}), **(queue_arguments or {})}
        for key, value in (
            ("x-expires", None if expires is None else int(expires * 1000)),
            ("x-message-ttl", None if message_ttl is None else int(message_ttl * 1000)),
            ("x-max-length", max_length),
            ("x-max-length-bytes", max_length_bytes),
        ):
            if value is not None:
                wire.setdefault(key, value)
        highest = wire.pop("x-max-priority", None) if priority is None else priority
        values: dict[str, Any] = {
            "name": name,
            "exchange": _exchange(exchange, exchange_type),
            "routing_key": routing_key,
            "type": _type(name, type, wire.pop("x-queue-type", None)),
            "priority": max_priority if highest is None else highest,
            "arguments": wire,
            "durable": durable,
            "exclusive": exclusive,
            "auto_delete": auto_delete,
            "bindings": tuple(_bound(name, one) for one in bindings),
            "binding_arguments": dict(binding_arguments or {}),
            "consumer_arguments": dict(consumer_arguments or {}),
            "no_declare": no_declare,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        _check(self)

    def entity(self) -> amqp.Queue:
        """Return what goes over the wire; a resolved queue has everything in it."""
        arguments = {key: value for key, value in self.arguments.items() if value is not None}
        if self.type is not None:
            arguments = {"x-queue-type": self.type, **arguments}
        if self.priority is not None:
            arguments["x-max-priority"] = self.priority
        return amqp.Queue(self.name, self.durable, self.exclusive, self.auto_delete, arguments)

    @classmethod
    def of(cls, given: Any, options: Mapping[str, Any] | None = None) -> Queue:
        """Return a queue for a `Queue`, a name (with options, as in Celery's dict form), or a kombu.Queue."""
        if isinstance(given, Queue):
            return given
        if isinstance(given, str):
            return _from_options(given, dict(options or {}))
        if hasattr(given, "queue_arguments") and hasattr(given, "routing_key"):
            return _from_kombu(given)
        raise ImproperlyConfigured(f"{given!r} is no queue; write amqptasks.Queue('name') or a name")


def _check(queue: Queue) -> None:
    name = queue.name
    if not name:
        raise ImproperlyConfigured("a queue needs a name")
    if len(f"{name}{DEAD_SUFFIX}".encode()) > 255:
        raise ImproperlyConfigured(
            f"the queue name {name[:40]!r}... is too long: with {DEAD_SUFFIX!r} it has to fit 255 bytes"
        )
    if name.startswith("amq."):
        raise ImproperlyConfigured(
            f"the queue name {name!r} is the broker's: names must not begin with 'amq.'"
        )
    if queue.priority is not None and not 1 <= queue.priority <= 255:
        raise ImproperlyConfigured(f"queue {name!r}: priority is 1 to 255, not {queue.priority!r}")
    if queue.type == "quorum" and queue.priority is not None:
        raise ImproperlyConfigured(
            f"queue {name!r} is quorum and has priority={queue.priority}: RabbitMQ gives priorities to "
            "classic queues only; leave out type='quorum', or use one queue for each priority"
        )
    if queue.type == "quorum" and (not queue.durable or queue.exclusive or queue.auto_delete):
        raise ImproperlyConfigured(
            f"queue {name!r} is quorum, so it is durable, shared and kept; another kind needs type='classic'"
        )


def _exchange(given: Any, type: str | None) -> Exchange | None:
    """Read an exchange, a name or a kombu.Exchange. A bare name has an empty type until it is resolved."""
    if given is None or given == "":
        return None
    if isinstance(given, Exchange):
        return given
    if isinstance(given, str):
        return Exchange(given, type or "")
    if getattr(given, "name", None):
        return Exchange(
            given.name, given.type, given.durable, given.auto_delete, arguments=dict(given.arguments or {})
        )
    return None


def _type(name: str, given: QueueType | None, argument: Any) -> QueueType | None:
    if given is not None and argument not in (None, given):
        raise ImproperlyConfigured(f"queue {name!r}: type={given!r} contradicts x-queue-type={argument!r}")
    chosen: Any = argument if given is None else given
    if chosen in (None, "quorum", "classic"):
        return chosen  # type: ignore[no-any-return]
    raise ImproperlyConfigured(f"queue {name!r}: type is 'quorum' or 'classic', not {chosen!r}")


def _bound(name: str, given: Any) -> tuple[Exchange, str, Arguments]:
    if hasattr(given, "exchange") and hasattr(given, "routing_key"):  # kombu.binding
        given = (given.exchange, given.routing_key, getattr(given, "arguments", None))
    if isinstance(given, tuple) and 2 <= len(given) <= 3:
        exchange = _exchange(given[0], None)
        if exchange is not None:
            return exchange, given[1] or "", dict((given[2] if len(given) == 3 else None) or {})
    raise ImproperlyConfigured(f"queue {name!r}: a binding is (exchange, routing key), not {given!r}")


_OPTIONS = frozenset(inspect.signature(Queue.__init__).parameters) - {"self"}


def _from_options(name: str, options: dict[str, Any]) -> Queue:
    name = options.pop("name", name)
    key = options.pop("binding_key", None)
    if key is not None:
        options.setdefault("routing_key", key)
    for option in options:
        if option not in _OPTIONS:
            near = difflib.get_close_matches(option, _OPTIONS, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_OPTIONS))}"
            raise ImproperlyConfigured(f"queue {name!r} has an unknown option {option!r}; {cure}")
    return Queue(name, **options)


def _from_kombu(given: Any) -> Queue:
    return Queue(
        given.name,
        _exchange(given.exchange, None),
        given.routing_key or None,
        arguments=given.queue_arguments,
        max_priority=getattr(given, "max_priority", None),
        durable=given.durable,
        exclusive=given.exclusive,
        auto_delete=given.auto_delete,
        bindings=tuple(getattr(given, "bindings", None) or ()),
        binding_arguments=given.binding_arguments,
        consumer_arguments=given.consumer_arguments,
        expires=getattr(given, "expires", None),
        message_ttl=getattr(given, "message_ttl", None),
        max_length=getattr(given, "max_length", None),
        max_length_bytes=getattr(given, "max_length_bytes", None),
        no_declare=bool(getattr(given, "no_declare", False)),
    )
