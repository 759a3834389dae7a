"""Where a task's message goes: its name and the call's options in, an address out. Publishes nothing.

The call's own options win, then the first of `task_routes` that answers, then the default queue. A queue that
nobody declared is made up on the spot (`task_create_missing_queues`), so routing never loses a message: what
cannot be routed raises.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amqptasks.amqp import Address, Entity, Exchange
from amqptasks.entities import celery_task_queues, declaration, export, identity, policies, resolve
from amqptasks.errors import ImproperlyConfigured, Unroutable
from amqptasks.settings import Settings
from amqptasks.task_routes import Answer, Ask, ByName, Options, read
from amqptasks.topology import Queue

__all__ = [
    "Exchange",
    "Queue",
    "Route",
    "Router",
    "celery_task_queues",
    "declaration",
    "export",
    "identity",
    "policies",
    "resolve",
]

_ADDRESSING = ("queue", "exchange", "exchange_type", "routing_key")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a message goes. `options` are the call's and its route's other ones.

    `queue` is None when the exchange was named and it is not known which queues get the message.
    """

    queue: Queue | None
    address: Address
    options: Options = field(default_factory=dict)


class Router:
    """The queues of one app, and the way to them. Thread-safe; made from the settings of that moment."""

    def __init__(self, conf: Settings) -> None:
        """Raises ImproperlyConfigured when `task_queues` or `task_routes` cannot be read."""
        self.conf = conf
        self._exchanges: dict[str, Exchange] = {}
        declared = list(_listed(conf.task_queues))
        for queue in declared:
            self._learn(queue)
        self._queues = {queue.name: resolve(queue, conf, self._exchanges) for queue in declared}
        self._configured = tuple(self._queues) or (conf.task_default_queue,)
        self._routes: tuple[Ask, ...] = tuple(read(conf.task_routes))
        self._named = [route for route in self._routes if isinstance(route, ByName)]
        self.default = self._queues.get(conf.task_default_queue) or self._made_default()

    # --- queues ------------------------------------------------------------------------------------------

    @property
    def queues(self) -> Mapping[str, Queue]:
        """Every queue known so far, resolved: configured ones first, then those made up on the way."""
        return self._queues

    def queue(self, name: str) -> Queue:
        """Return the queue of this name, making it up if that is allowed; else raise Unroutable."""
        known = self._queues.get(name)
        if known is not None:
            return known
        if not self.conf.task_create_missing_queues:
            raise Unroutable(f"{self._missing(name)}; add it, or set task_create_missing_queues=True")
        conf = self.conf
        kind = conf.task_create_missing_queue_exchange_type
        made = Queue(name, Exchange(name, kind) if kind else None, type=self._missing_type())
        # setdefault: two threads that meet here get the same queue.
        return self._queues.setdefault(name, resolve(made, conf, self._exchanges))

    def near(self, name: str) -> str | None:
        """Return the known queue whose name is most like this one, or None."""
        return next(iter(difflib.get_close_matches(name, self._queues, n=1)), None)

    def select(self, queues: Iterable[str] | None = None, exclude: Iterable[str] = ()) -> tuple[Queue, ...]:
        """Return the queues that a worker consumes: those of `-Q`, else the configured ones, without `-X`.

        Raises ImproperlyConfigured for a name that is not there, and when nothing is left.
        """
        unwanted = set(exclude)
        for name in unwanted - set(self._queues):
            raise ImproperlyConfigured(f"cannot exclude a queue that is not there: {self._missing(name)}")
        names = list(dict.fromkeys(queues or self._configured))
        try:
            chosen = tuple(self.queue(name) for name in names if name not in unwanted)
        except Unroutable as error:
            raise ImproperlyConfigured(str(error)) from None
        if not chosen:
            raise ImproperlyConfigured(f"no queue is left to consume: all of {', '.join(names)} are excluded")
        return chosen

    def mentioned(self, *others: Any) -> tuple[Queue, ...]:
        """Return the configured queues, those that `task_routes` names, and `others`: where the app's calls may lie.

        What only a function can tell is not among them.
        """
        named = (queue for route in self._named for queue in route.queues)
        found = {queue.name: queue for queue in self.select()}
        for given in (*named, *others):
            with contextlib.suppress(Unroutable):  # it would raise for the call as well
                queue = self._target(given)
                found.setdefault(queue.name, queue)
        return tuple(found.values())

    @property
    def answers(self) -> Iterable[tuple[str, Options]]:
        """What the routes by name say, each with where it stands in the settings."""
        return [each for route in self._named for each in route.answers.items()]

    def topology(self, name: str) -> tuple[Entity, ...]:
        """Return everything to declare for a queue, in order, its dead letters first. Raises Unroutable."""
        return declaration(self.queue(name), self.conf)

    def entities(self, route: Route) -> tuple[Entity, ...]:
        """Return what must exist before a message takes this route: of a bare exchange, its known queues."""
        if route.queue is not None:
            return declaration(route.queue, self.conf)
        fed = [
            queue for queue in list(self._queues.values()) if route.address.exchange in _exchanges_of(queue)
        ]
        return tuple(entity for queue in fed for entity in declaration(queue, self.conf))

    @property
    def passive(self) -> bool:
        """Whether queues may only be looked for, not created."""
        return not self.conf.task_create_missing_queues

    # --- routes ------------------------------------------------------------------------------------------

    def route(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Options | None = None,
        task: Any = None,
    ) -> Route:
        """Return where this call goes. Options that are None count as not given.

        Raises Unroutable for a queue that is not there and must not be made up, and whatever a user's router
        raises.
        """
        given = {key: value for key, value in (options or {}).items() if value is not None}
        answer = self._ask(name, args, kwargs or {}, given, task) if self._routes else None
        if answer is None:
            return self._addressed(given)
        own_target = "queue" in given or "exchange" in given
        # The call's target and the route's routing key are of different minds: they never mix.
        usable = {key: value for key, value in answer.items() if not (own_target and key in _ADDRESSING)}
        return self._addressed({**usable, **given})

    def _ask(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options, task: Any
    ) -> Answer:
        for ask in self._routes:
            answer = ask(name, args, kwargs, options, task)
            if answer is not None:
                return answer
        return None

    def _addressed(self, merged: dict[str, Any]) -> Route:
        options = {key: value for key, value in merged.items() if key not in _ADDRESSING}
        exchange, key = merged.get("exchange"), merged.get("routing_key")
        exchange_name = exchange if exchange is None or isinstance(exchange, str) else exchange.name
        if "queue" not in merged and exchange_name is not None:
            return Route(None, Address(exchange_name, key or ""), options)
        queue = self._target(merged.get("queue"))
        assert queue.exchange is not None
        own = Address(queue.exchange.name, queue.routing_key or "")
        address = Address(
            own.exchange if exchange_name is None else exchange_name, own.routing_key if key is None else key
        )
        if queue.exchange.type == "headers":
            matching = {k: v for k, v in queue.binding_arguments.items() if not k.startswith("x-")}
            options["headers"] = {**matching, **options.get("headers", {})}
        return Route(queue if address == own else self._reached(address), address, options)

    def _target(self, given: Any) -> Queue:
        if given is None:
            return self.default
        if isinstance(given, str):
            return self.queue(given)
        queue = Queue.of(given)
        self._learn(queue)
        return self._queues.setdefault(queue.name, resolve(queue, self.conf, self._exchanges))

    def _reached(self, address: Address) -> Queue | None:
        """Return the one queue that a direct exchange gives this key to, if it is known."""
        for queue in list(self._queues.values()):
            exchange = queue.exchange
            if (
                exchange
                and exchange.type == "direct"
                and Address(exchange.name, queue.routing_key or "") == address
            ):
                return queue
        return None

    # --- making up ---------------------------------------------------------------------------------------

    def _learn(self, queue: Queue) -> None:
        """Remember the exchanges that a queue declares, so that others may name them. Two must not differ."""
        for exchange in (queue.exchange, *(bound for bound, _, _ in queue.bindings)):
            if exchange is None or not exchange.type:
                continue
            known = self._exchanges.setdefault(exchange.name, exchange)
            if known != exchange:
                raise ImproperlyConfigured(
                    f"exchange {exchange.name!r} is declared twice, as {known.type} and {exchange.type}, or "
                    "with other arguments; queues share one declaration"
                )

    def _made_default(self) -> Queue:
        conf = self.conf
        queue = resolve(
            Queue(conf.task_default_queue, None, conf.task_default_routing_key), conf, self._exchanges
        )
        if not conf.task_queues or conf.task_create_missing_queues:
            return self._queues.setdefault(queue.name, queue)
        return queue

    def _missing_type(self) -> Any:
        chosen = self.conf.task_create_missing_queue_type
        return None if self.conf.task_queue_max_priority else chosen

    def _missing(self, name: str) -> str:
        near = self.near(name)
        return f"no queue {name!r} in task_queues" + (f" (did you mean {near!r}?)" if near else "")


def _exchanges_of(queue: Queue) -> set[str]:
    own = {queue.exchange.name} if queue.exchange else set()
    return own | {exchange.name for exchange, _, _ in queue.bindings}


def _listed(given: Any) -> Iterable[Queue]:
    if given is None:
        return
    pairs = given.items() if isinstance(given, Mapping) else ((None, one) for one in given)
    for name, one in pairs:
        if name is None:
            yield Queue.of(one)
        elif one is None or isinstance(one, Mapping):
            yield Queue.of(name, one)
        else:
            yield Queue.of(one)
