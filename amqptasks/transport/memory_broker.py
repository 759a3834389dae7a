"""The in-process broker behind `memory://`: exchanges, queues and dead letters as RabbitMQ has them, no
network.

One lock guards everything; links of any event loop or thread call in, and are called back through their own
`emit`. Knows nothing of asyncio: time passes by `tick`, which links call when `wake` told them to. Tests
provoke outages by `drop_connections`, `block`, `refuse_connections`, `withhold_confirms`, and let time pass
by `advance`.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from amqptasks.amqp import Address, Parcel
from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    ConnectionLost,
    Nacked,
    NotFound,
    TransportError,
    Unroutable,
)
from amqptasks.transport.codec import decode_header
from amqptasks.transport.memory_deaths import died, dies_in_circles
from amqptasks.transport.memory_queue import MemoryQueue, Reason, Stored, Subscription
from amqptasks.transport.memory_routing import PREDECLARED, MemoryExchange

_HAS_PRIORITY = 1 << 11
_HAS_EXPIRATION = 1 << 8


class BrokerLink(Protocol):
    """What the broker needs of a link; called under the broker's lock, from any thread."""

    @property
    def gone(self) -> bool:
        """Is nobody left who could be called back?"""

    def wake(self, delay: float) -> None:
        """Call `MemoryBroker.tick` after `delay` seconds."""

    def fail(self, error: TransportError) -> None: ...

    def set_blocked(self, reason: str | None) -> None: ...

    def release_confirms(self) -> None: ...


class MemoryBroker:
    """One broker of the process. Thread-safe; lives until the process ends or `reset`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.blocked: str | None = None
        self.withholding = False
        self.down: set[str] = set()
        """Queues whose node, in a cluster, would be down."""
        self.queues: dict[str, MemoryQueue] = {}
        self.exchanges: dict[str, MemoryExchange] = {}
        self.generations = itertools.count(1)
        self._links: dict[BrokerLink, None] = {}
        self._refusal: BrokerUnavailable | None = None
        self._advanced = 0.0
        self._due: list[tuple[float, str]] = []
        self._armed: tuple[BrokerLink, float] | None = None
        self.reset()

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name} | {len(self.queues)} queues, {len(self._links)} links>"

    def reset(self) -> None:
        """Forget every queue, exchange and fault; links are dropped."""
        with self.lock:
            self.drop_connections("the broker was reset")
            self.blocked = self._refusal = None
            self.withholding = False
            self.down.clear()
            self.queues.clear()
            self.exchanges = {each.name: MemoryExchange(each) for each in PREDECLARED}

    # --- links and faults ----------------------------------------------------------------------------

    def attach(self, link: BrokerLink) -> None:
        with self.lock:
            if self._refusal is not None:
                raise self._refusal
            self._links[link] = None
            self.tick()

    def detach(self, link: BrokerLink) -> None:
        """The link is gone: its exclusive queues go with it. Its channels give back by themselves."""
        with self.lock:
            self._links.pop(link, None)
            for queue in [each for each in self.queues.values() if each.owner is link]:
                self.remove(queue)
            if self._armed is not None and self._armed[0] is link:
                self._armed = None
                self._arm()

    def drop_connections(self, reason: str = "CONNECTION_FORCED - dropped by the test") -> None:
        """End every link as a broker's restart would; unacknowledged messages go back to their queues."""
        with self.lock:
            for link in list(self._links):
                link.fail(ConnectionLost(f"the connection to memory://{self.name} was lost: {reason}"))

    def refuse_connections(self, error: BrokerUnavailable | None = None) -> None:
        """Answer every new connection with `error` until `accept_connections`."""
        with self.lock:
            self._refusal = error or BrokerUnavailable(
                f"memory://{self.name} refuses connections (asked for by a test); call accept_connections()"
            )

    def accept_connections(self) -> None:
        with self.lock:
            self._refusal = None

    def block(self, reason: str = "low on memory") -> None:
        """Take no messages from now on, as under a memory alarm; what is posted waits."""
        self._set_blocked(reason)

    def unblock(self) -> None:
        self._set_blocked(None)

    def _set_blocked(self, reason: str | None) -> None:
        with self.lock:
            self.blocked = reason
            for link in list(self._links):
                link.set_blocked(reason)

    def withhold_confirms(self) -> None:
        """Accept messages and keep quiet: what is then dropped is ambiguous to its sender."""
        with self.lock:
            self.withholding = True

    def release_confirms(self) -> None:
        with self.lock:
            self.withholding = False
            for link in list(self._links):
                link.release_confirms()

    def take_down(self, queue: str) -> None:
        """Be a cluster whose node with this queue is down: the queue takes and gives nothing until `bring_up`."""
        with self.lock:
            self.down.add(queue)

    def bring_up(self, queue: str) -> None:
        with self.lock:
            self.down.discard(queue)

    # --- time ----------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic() + self._advanced

    def advance(self, seconds: float) -> None:
        """Let time pass at once: expirations and leases that end within `seconds` happen now."""
        with self.lock:
            self._advanced += seconds
            self._armed = None
            self.tick()

    def tick(self) -> None:
        """Do what time has brought: expire messages and unused queues."""
        with self.lock:
            if self._armed is not None and self._armed[1] <= self.now():
                self._armed = None
            while self._due and self._due[0][0] <= self.now():
                queue = self.queues.get(heapq.heappop(self._due)[1])
                if queue is not None:
                    queue.wake_at = None
                    self.settle(queue)
            self._arm()

    def _arm(self) -> None:
        for link in [link for link in self._links if link.gone]:
            if self._armed is not None and self._armed[0] is link:
                self._armed = None
            link.fail(ConnectionLost("the event loop of this link was closed"))
        if not self._due or not self._links:
            return
        due = self._due[0][0]
        if self._armed is None or due < self._armed[1]:
            link = next(iter(self._links))
            self._armed = (link, due)
            link.wake(max(0.0, due - self.now()))

    def settle(self, queue: MemoryQueue, now: float | None = None) -> None:
        """Bring a queue to rest after a change: deliver, expire, and ask for the next look at it."""
        now = self.now() if now is None else now
        queue.serve(now)
        queue.expire(now, inclusive=True)
        due = queue.next_due()
        if due is None:
            return
        lease = queue.arguments.get("x-expires")
        if lease is not None and not queue.subscriptions and queue.used_at + lease / 1000 <= now:
            self.remove(queue)
        elif queue.wake_at is None or due < queue.wake_at:
            queue.wake_at = due
            heapq.heappush(self._due, (due, queue.name))
            self._arm()

    # --- messages ------------------------------------------------------------------------------------

    def publish(self, parcel: Parcel) -> TransportError | None:
        """Put a message into every queue that it is routed to; return why it is in none, or None."""
        with self.lock:
            exchange = self.exchanges.get(parcel.exchange)
            if exchange is None and parcel.exchange:
                return NotFound(
                    f"no exchange {parcel.exchange!r} on memory://{self.name}; declare it before publishing",
                    404,
                )
            if exchange is not None and exchange.spec.internal:
                return AccessRefused(
                    f"exchange {parcel.exchange!r} is internal; only bindings may publish to it"
                )
            targets = self._route(parcel.exchange, parcel.routing_key, parcel.header)
            if not targets:
                address = Address(parcel.exchange, parcel.routing_key)
                return Unroutable(
                    f"no queue is bound for {address} (NO_ROUTE); declare or bind one", (parcel,)
                )
            full = [queue.name for queue in targets if queue.refuses(len(parcel.body))]
            if full:
                return Nacked(
                    f"queue {full[0]!r} is full and refuses messages; drain it or raise its limit", (parcel,)
                )
            for queue in targets:
                self._store(queue, parcel.exchange, parcel.routing_key, parcel.header, parcel.body)
            return None

    def _store(self, queue: MemoryQueue, exchange: str, routing_key: str, header: bytes, body: bytes) -> None:
        message, now = Stored(exchange, routing_key, header, body), self.now()
        flags = int.from_bytes(header[:2], "big")
        lives = queue.arguments.get("x-message-ttl")
        if flags & (_HAS_PRIORITY | _HAS_EXPIRATION):
            properties = decode_header(header)
            highest = queue.arguments.get("x-max-priority", 0)
            message.priority = min(properties.priority or 0, highest)
            if properties.expiration is not None:
                own = int(properties.expiration)
                lives = own if lives is None else min(own, lives)
        if lives is not None:
            message.expires_at = now + lives / 1000
        queue.push(message)
        queue.serve(now)
        queue.trim()
        self.settle(queue, now)

    def _route(self, exchange: str, routing_key: str, header: bytes) -> list[MemoryQueue]:
        """Every queue that a message reaches, each once, in the order of the bindings."""
        keys, headers = [routing_key], _headers(header, self.exchanges.get(exchange))
        copies = headers.get("CC")
        if isinstance(copies, list):
            keys += [str(each) for each in copies]
        found: dict[str, MemoryQueue] = {}
        for key in keys:
            for name in self._reach(exchange, key, header, set()):
                if name in self.queues and name not in self.down:
                    found[name] = self.queues[name]
        return list(found.values())

    def _reach(self, name: str, key: str, header: bytes, seen: set[str]) -> Iterator[str]:
        if not name:
            yield key
            return
        exchange = self.exchanges.get(name)
        if exchange is None or name in seen:
            return
        seen.add(name)
        matched = False
        for binding in exchange.matching(key, _headers(header, exchange)):
            matched = True
            if binding.kind == "queue":
                yield binding.destination
            else:
                yield from self._reach(binding.destination, key, header, seen)
        if not matched and "alternate-exchange" in exchange.spec.arguments:
            yield from self._reach(exchange.spec.arguments["alternate-exchange"], key, header, seen)

    def discard(self, queue: MemoryQueue, message: Stored, reason: Reason) -> None:
        """A message leaves its queue undelivered: to the dead-letter exchange, if there is one."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if exchange is None:
            return
        key = queue.arguments.get("x-dead-letter-routing-key", message.routing_key)
        header = died(message, queue.name, reason)
        targets = [
            target
            for target in self._route(exchange, key, header)
            if not dies_in_circles(header, target.name, reason)
        ]
        if not targets and queue.arguments.get("x-dead-letter-strategy") == "at-least-once":
            queue.stuck.append((message, reason))
            return
        for target in targets:
            self._store(target, exchange, key, header, message.body)

    def retry_dead_letters(self) -> None:
        """The topology changed: what `at-least-once` kept back may have a way now."""
        for queue in list(self.queues.values()):
            stuck, queue.stuck = queue.stuck, []
            for message, reason in stuck:
                self.discard(queue, message, reason)

    # --- queues --------------------------------------------------------------------------------------

    def remove(self, queue: MemoryQueue) -> int:
        """Delete a queue: its bindings go, its consumers are cancelled; return how many messages went."""
        self.queues.pop(queue.name, None)
        self.unbind("queue", queue.name)
        subscriptions, queue.subscriptions = queue.subscriptions, []
        for each in subscriptions:
            each.cancelled()
        return queue.purge()

    def unbind(self, kind: str, name: str) -> None:
        for exchange in list(self.exchanges.values()):
            if exchange.unbind(kind, name) and exchange.spec.auto_delete:
                self.exchanges.pop(exchange.spec.name, None)
                self.unbind("exchange", exchange.spec.name)

    def unsubscribe(self, subscription: Subscription) -> None:
        """A consumer ends; an auto-delete queue goes with its last one."""
        queue = subscription.queue
        if subscription not in queue.subscriptions:
            return
        queue.subscriptions.remove(subscription)
        queue.used_at = self.now()
        if queue.spec.auto_delete and not queue.subscriptions:
            self.remove(queue)
        else:
            self.settle(queue)


def _headers(header: bytes, exchange: MemoryExchange | None) -> Mapping[str, Any]:
    """A message's headers where routing asks for them: decoding costs more than all the rest of a publish."""
    if b"CC" in header or (exchange is not None and exchange.spec.type == "headers"):
        return decode_header(header).headers or {}
    return {}
