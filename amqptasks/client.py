"""What an app can do without knowing task objects: send by name, one by one or in batches. Thread-safe.

Composing is `composing`'s business, declaring `declarations`'; here the two meet the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from amqptasks import batch
from amqptasks.amqp import Entity, Envelope, Parcel
from amqptasks.awaited import Awaited
from amqptasks.composing import NOTHING, Call, compose
from amqptasks.config import Config
from amqptasks.declarations import Declarations, over
from amqptasks.errors import BrokerUnavailable, ConnectionLost, NotFound, TooLarge, Unroutable
from amqptasks.ids import new_id
from amqptasks.options import SendOptions, check_names, check_values
from amqptasks.resources import Resources, retry_policy
from amqptasks.result import AsyncResult
from amqptasks.routing import Route
from amqptasks.signals import after_task_publish, before_task_publish
from amqptasks.transport import codec, plain
from amqptasks.transport.keeping import PERMANENT, RetryPolicy
from amqptasks.waiting import flush

T = TypeVar("T")


class Client(Awaited):
    """The part of an app that sends."""

    strict_typing = True
    """Arguments are checked where a task is called, unless the task says otherwise."""

    def __init__(self, conf: Config, main: str | None) -> None:
        super().__init__(conf, main)
        self._declarations = Declarations(lambda: over.get() or self.connection)

    def close(self, timeout: float | None = None) -> None:
        super().close(timeout)
        self._declarations.forget()

    close.__doc__ = Resources.close.__doc__

    def renew_locks(self) -> None:
        super().renew_locks()
        self._declarations.renew_lock()

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Call a task by its name, registered here or not. Options are those of `Task.apply_async`."""
        if not isinstance(name, str):
            raise TypeError(f"a task's name is a string, not {name!r}")
        check_names(options, name)
        known = self.tasks.get(name)
        return self.send(name, args or (), kwargs or {}, options, NOTHING if known is None else known.preset)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """As `send_task`, awaited."""
        return await self.asend(lambda: self.send_task(name, args, kwargs, **options), options)

    async def asend(
        self, call: Callable[[], T], options: Mapping[str, Any] = NOTHING, *, composes_long: bool = False
    ) -> T:
        """Await what `call`, which calls tasks here and now, sends; return what it returns. See `gathered`.

        Of `options` the call's own `timeout` and `retry_policy` count.
        """
        policy = None
        if options.get("retry_policy") and options.get("retry", True):
            policy = retry_policy({**self.conf.task_publish_retry_policy, **options["retry_policy"]})
        # In place a task may run for long.
        long = composes_long or self.conf.task_always_eager
        return await self.gathered(call, timeout=options.get("timeout"), policy=policy, composes_long=long)

    def send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        preset: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """Compose and publish one call; return its result. Blocks until the broker has the message in a
        queue.

        `preset` holds the task's own defaults. Raises what `BlockingConnection.publish` raises.
        """
        if options and options.get("retry_policy") and options.get("retry", True):
            # Under one id, so that an attempt whose answer was lost does not become a second task.
            named = {**options, "task_id": options.get("task_id") or new_id()}
            policy = retry_policy({**self.conf.task_publish_retry_policy, **options["retry_policy"]})
            return _patiently(lambda: self._send(name, args, kwargs, named, preset), policy)
        return self._send(name, args, kwargs, options, preset)

    def _send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        preset: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        try:
            call = compose(self, name, args, kwargs, options, preset)
            try:
                self._dispatch(call)
            except Exception:
                self.backend.forget(call.result.id)
                raise
        except (AttributeError, ArithmeticError, TypeError, ValueError):
            check_values({**preset, **options}, name)
            raise
        return call.result

    def compose(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Call, Envelope]:
        """Compose a call for who publishes it on a connection of his own, and declare what it needs. Blocks.

        Raises what composing and declaring raise.
        """
        known = self.tasks.get(name)
        call = compose(self, name, args, kwargs, options, NOTHING if known is None else known.preset)
        return call, self._made(call)[0]

    def _made(self, call: Call) -> tuple[Envelope, Sequence[Entity]]:
        envelope, ladder = call.encode()
        self._check_size(call, envelope)
        self._prepare(call, ladder)
        return (_announced(envelope) if before_task_publish.receivers else envelope), ladder

    def _dispatch(self, call: Call) -> None:
        opened = batch.current.get()
        if opened is not None and opened.owner is not self:
            opened = None
        told = self.conf.task_send_sent_event or after_task_publish.receivers or before_task_publish.receivers
        if not told and (opened is None or opened.packs):
            parcel = plain.pack(call.message, call.address)
            if parcel is not None:
                self._check_size(call, parcel)
                self._prepare(call, ())
                self._leave(call, parcel, (), opened)
                return
        envelope, ladder = self._made(call)
        self._leave(call, envelope, ladder, opened)
        if self.conf.task_send_sent_event:
            self.events.sent(envelope, call.queue)
        if after_task_publish.receivers:
            after_task_publish.send(sender=call.message.task, **_named(envelope))

    def _leave(
        self,
        call: Call,
        message: Envelope | Parcel,
        ladder: Sequence[Entity],
        opened: batch.Batch | None,
    ) -> None:
        if opened is not None:
            opened.add(message)
        else:
            self._publish(call, message, ladder)

    def _check_size(self, call: Call, envelope: Envelope | Parcel) -> None:
        limit = self.conf.broker_max_message_size
        if len(envelope.body) > limit:
            raise TooLarge(
                f"the message of {call.message.task} has {len(envelope.body)} bytes, over the limit of "
                f"{limit} "
                "(broker_max_message_size); store what is large elsewhere and send where it is",
                [codec.opened(envelope) if isinstance(envelope, Parcel) else envelope],
            )

    def _prepare(self, call: Call, ladder: Sequence[Entity]) -> None:
        if call.queue is None and not self.router.passive:
            # An exchange of the caller's own: what the settings bind to it must be there, the rest is his
            # business.
            self._declarations.entities(self.router.entities(Route(None, call.address)))
        if ladder and call.queue is None:
            # Without a delay the publish itself would say so.
            self._declarations.exchange(call.address.exchange)
        self.prepare(call.queue, ladder)

    def prepare(self, queue: str | None, ladder: Sequence[Entity] = ()) -> None:
        """Declare what a message needs, once a process: its queue with dead letters, and its way on the
        ladder.

        With task_create_missing_queues off nothing is declared: raises Unroutable for a queue that is
        missing.
        """
        if queue is not None:
            router = self.router
            self._declarations.queue(queue, router.topology, passive=router.passive, near=router.near)
        if ladder:
            self._declarations.entities(ladder)

    def prepare_entities(self, entities: Sequence[Entity]) -> None:
        """Declare what this process has not declared yet, whatever it is for."""
        if not self.router.passive:
            self._declarations.entities(entities)

    def _publish(self, call: Call, envelope: Envelope | Parcel, ladder: Sequence[Entity]) -> None:
        try:
            self.connection.publish([envelope], call.timeout)
        except (Unroutable, NotFound):
            # Somebody deleted what this process had declared; if it is not that, the second answer stands.
            self._declarations.forget()
            self._prepare(call, ladder)
            self.connection.publish([envelope], call.timeout)

    def _publish_again(self, envelopes: Sequence[Envelope | Parcel]) -> None:
        self.redeclare()
        self.connection.publish(envelopes)

    def redeclare(self) -> None:
        self._declarations.forget_queues()
        for queue in list(self.router.queues):
            self.prepare(queue)
        self._declarations.restore()

    redeclare.__doc__ = Awaited.redeclare.__doc__

    def declare(self, *entities: Entity) -> None:
        """Declare now, whatever was declared before. Raises as `BlockingConnection.declare`."""
        (over.get() or self.connection).declare(*entities)

    @contextmanager
    def batch(self, timeout: float | None = None) -> Iterator[batch.Batch]:
        """Publish what this thread calls inside the block without waiting; wait once, at its end.

        Raises PublishError naming the messages that failed, or the transport's error. What was called before
        an exception left the block is published all the same. A batch inside a batch belongs to the outer
        one.
        """
        outer = batch.current.get()
        if outer is not None and outer.owner is self:
            yield outer
            return
        opened = batch.Batch(self.connection.submit, self._publish_again, self)
        token, flushing = batch.current.set(opened), flush.set(opened.flush)
        try:
            yield opened
        finally:
            batch.current.reset(token)
            flush.reset(flushing)
            opened.finish(timeout)


def _patiently(send: Callable[[], AsyncResult[Any]], policy: RetryPolicy) -> AsyncResult[Any]:
    """Send, and again as the call's own policy says, on top of what the connection tries by itself."""
    for attempt, pause in enumerate(policy.delays()):
        try:
            return send()
        except (BrokerUnavailable, ConnectionLost) as error:
            last = policy.max_retries is not None and attempt >= policy.max_retries
            if last or isinstance(error, PERMANENT):
                raise
        time.sleep(pause)  # the pause between two tries that the caller's policy asks for
    raise AssertionError("delays() does not end")


def _named(envelope: Envelope) -> dict[str, Any]:
    return {
        "body": envelope.body,
        "headers": dict(envelope.properties.headers or {}),
        "exchange": envelope.address.exchange,
        "routing_key": envelope.address.routing_key,
    }


def _announced(envelope: Envelope) -> Envelope:
    """Tell the receivers of `before_task_publish`, who may change the headers that they are given."""
    named = _named(envelope)
    before_task_publish.send(
        sender=named["headers"].get("task"),
        properties=envelope.properties,
        declare=[],
        retry_policy=None,
        **named,
    )
    return replace(envelope, properties=replace(envelope.properties, headers=named["headers"]))
