"""A consumer's channel on the in-process broker: tags, acks, and what goes back when it closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from amqptasks.amqp import Arguments, Delivery
from amqptasks.errors import AccessRefused, ChannelClosed, ConnectionLost, NotFound, TransportError
from amqptasks.transport import memory_declare
from amqptasks.transport.base import OnCancel, OnDelivery
from amqptasks.transport.codec import decode_header, encode_header
from amqptasks.transport.memory_broker import BrokerLink, MemoryBroker
from amqptasks.transport.memory_queue import Stored, Subscription


class ConsumerLink(BrokerLink, Protocol):
    """What a consumer needs of its link."""

    broker: MemoryBroker

    def emit(self, call: Callable[..., object], *arguments: Any) -> None: ...

    def forget(self, channel: MemoryConsumer) -> None: ...


class MemoryConsumer:
    """A `Consumer`: one channel, its unacknowledged messages by tag, and the subscription in force."""

    def __init__(
        self,
        link: ConsumerLink,
        queue: str,
        on_delivery: OnDelivery,
        on_cancel: OnCancel,
        *,
        no_ack: bool,
        exclusive: bool,
        arguments: Arguments,
    ) -> None:
        self.queue = queue
        self.generation = next(link.broker.generations)
        self.prefetch = 0
        self._link = link
        self._broker = link.broker
        self._on_delivery = on_delivery
        self._on_cancel = on_cancel
        self._no_ack = no_ack
        self._exclusive = exclusive
        self._priority = int(arguments.get("x-priority", 0))
        self._subscription: Subscription | None = None
        self._unacked: dict[int, tuple[Subscription, Stored]] = {}
        self._last_tag = 0
        self._closed = False

    def subscribe(self, prefetch: int) -> None:
        queue = memory_declare.find(self._broker, self._link, self.queue)
        taken = [each for each in queue.subscriptions if each.exclusive or self._exclusive]
        if taken and not queue.quorum:
            raise AccessRefused(
                f"queue {self.queue!r} has an exclusive consumer; wait until it is gone (403)"
            )
        self.prefetch = prefetch
        self._subscription = Subscription(
            queue, self, prefetch, self._no_ack, self._exclusive, self._priority, self._cancelled_by_broker
        )
        queue.subscriptions.append(self._subscription)
        self._broker.settle(queue)

    # --- what the queue calls, under the broker's lock ------------------------------------------------

    def deliver(self, subscription: Subscription, message: Stored) -> None:
        self._last_tag += 1
        tag = self._last_tag
        if not self._no_ack:
            self._unacked[tag] = (subscription, message)
        made = delivery(subscription.queue.quorum, self.queue, message, tag=tag, generation=self.generation)
        self._link.emit(self._hand_over, made)

    def _hand_over(self, made: Delivery) -> None:
        if not self._closed:
            self._on_delivery(made)

    def _cancelled_by_broker(self) -> None:
        self._subscription = None
        error = NotFound(
            f"the consumer of {self.queue!r} was cancelled by the broker: the queue is gone", 404
        )
        self._link.emit(self._tell_cancelled, error)

    def _tell_cancelled(self, error: TransportError) -> None:
        if not self._closed:
            self._on_cancel(error)

    # --- Consumer ------------------------------------------------------------------------------------

    def ack(self, tag: int, multiple: bool = False) -> None:
        with self._broker.lock:
            for subscription, _ in self._settle(tag, multiple):
                self._broker.settle(subscription.queue)

    def reject(self, tag: int, requeue: bool) -> None:
        with self._broker.lock:
            for subscription, message in self._settle(tag, multiple=False):
                if requeue:
                    self._give_back(subscription, message)
                else:
                    self._broker.discard(subscription.queue, message, "rejected")
                self._broker.settle(subscription.queue)

    def nack(self, tag: int) -> None:
        self.reject(tag, requeue=True)

    async def renew(self, prefetch: int) -> None:
        with self._broker.lock:
            self._check_open()
            previous, self._subscription = self._subscription, None
            # Taken out by hand: an auto-delete queue must not see a moment without consumers.
            if previous is not None and previous in previous.queue.subscriptions:
                previous.queue.subscriptions.remove(previous)
            self.subscribe(prefetch)

    async def fence(self) -> None:
        said = asyncio.Event()
        self._link.emit(said.set)
        await said.wait()

    async def cancel(self) -> None:
        with self._broker.lock:
            self._unsubscribe()
        await self.fence()

    async def close(self) -> None:
        with self._broker.lock:
            self.shut()

    def shut(self) -> None:
        """Close the channel: what is unacknowledged goes back to its place."""
        if self._closed:
            return
        self._closed = True
        self._link.forget(self)
        self._unsubscribe()
        unacked, self._unacked = list(self._unacked.values()), {}
        for subscription, message in unacked:
            self._give_back(subscription, message)
        for queue in {id(each.queue): each.queue for each, _ in unacked}.values():
            self._broker.settle(queue)

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._broker.unsubscribe(subscription)

    def _give_back(self, subscription: Subscription, message: Stored) -> None:
        if self._broker.queues.get(self.queue) is subscription.queue:
            subscription.queue.give_back(message)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionLost(f"the channel that consumed {self.queue!r} is closed; consume again")

    def _settle(self, tag: int, multiple: bool) -> list[tuple[Subscription, Stored]]:
        """Take what `tag` stands for out of the unacknowledged; an unknown tag costs the channel."""
        if self._closed:
            return []
        tags = [each for each in self._unacked if each <= tag or not tag] if multiple else [tag]
        if not tags or any(each not in self._unacked for each in tags):
            error = ChannelClosed(
                f"unknown delivery tag {tag}: settled twice, or of another channel (406)", 406
            )
            self._link.emit(self._on_cancel, error)
            self.shut()
            return []
        settled = [self._unacked.pop(each) for each in tags]
        for subscription, _ in settled:
            subscription.held -= 1
        return settled


def delivery(quorum: bool, queue: str, message: Stored, *, tag: int, generation: int) -> Delivery:
    """A message as it goes out; a quorum queue tells how often it came back."""
    header = message.header
    if quorum and message.returned:
        properties = decode_header(header)
        counted = {**(properties.headers or {}), "x-delivery-count": message.returned}
        header = encode_header(replace(properties, headers=counted))
    return Delivery(
        queue,
        tag,
        generation,
        message.redelivered,
        message.exchange,
        message.routing_key,
        header,
        message.body,
    )
