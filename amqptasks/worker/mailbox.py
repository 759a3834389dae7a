"""A worker's mailbox: takes the commands of remote control from its queue, has them carried out and answers.

Knows Celery's pidbox wire and one link at a time; knows no command. A mailbox that cannot be opened costs the worker
remote control and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from amqptasks import pidbox
from amqptasks.amqp import Delivery
from amqptasks.backoff import reconnecting
from amqptasks.errors import AccessRefused, AmqptasksError, InvalidMessage, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import Consumer, Link
from amqptasks.transport.publisher import Publisher

logger = logging.getLogger(__name__)

UNSENT = 100
"""Answers that may wait for the broker; what is asked beyond them is carried out, and not answered."""

Execute = Callable[[pidbox.Request], Any]
"""Carries out a command: the answer, or a coroutine of it. What it raises becomes the reply's error."""


class Mailbox:
    """Used in the loop only."""

    def __init__(
        self,
        node: str,
        settings: Mapping[str, Any],
        publisher: Publisher,
        clock: pidbox.Clock,
        execute: Execute,
    ) -> None:
        self._node = node
        self._settings = settings
        self._publisher = publisher
        self._clock = clock
        self._execute = execute
        self._entities = pidbox.mailbox(node, settings)
        self._consumer: Consumer | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._refused = False
        self._unsent = 0

    async def open(self, link: Link) -> None:
        """Take commands from this link until it is lost. Raises nothing: what fails is tried again, and logged."""
        try:
            await self._consume(link)
        except AccessRefused as error:
            self._say_refused(error)
        except TransportError as error:
            # After a reconnect the broker may not have noticed yet that the old connection is gone.
            logger.debug("the mailbox of %s is not open yet: %s", self._node, error)
            self._in_background(self._open_later(link))

    def close(self) -> None:
        """Stop whatever is still being answered."""
        for task in list(self._under_way):
            task.cancel()

    async def _consume(self, link: Link) -> None:
        await link.declare(*self._entities)
        queue = f"{self._node}.{pidbox.commands_exchange(self._settings).name}"

        def cancelled(reason: TransportError) -> None:
            logger.debug("the mailbox of %s was closed: %s", self._node, reason)
            if not link.lost.done():
                self._in_background(self._open_later(link))

        self._consumer = await link.consume(queue, self._take, cancelled, prefetch=0, no_ack=True)

    async def _open_later(self, link: Link) -> None:
        for delay in reconnecting(first=0.5, maximum=10.0):
            await asyncio.sleep(delay)
            if link.lost.done():
                return
            try:
                await self._consume(link)
                return
            except AccessRefused as error:
                self._say_refused(error)
                return
            except TransportError as error:
                logger.debug("the mailbox of %s is not open yet: %s", self._node, error)

    def _say_refused(self, error: AccessRefused) -> None:
        if not self._refused:
            self._refused = True
            logger.warning("%s; there is no remote control of this worker", error)

    # --- commands ----------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        try:
            request = pidbox.read_command(codec.unpack(delivery))
        except InvalidMessage as error:
            logger.error("%s; it is dropped", error)
            return
        self._clock.adjust(request.clock)
        if not request.is_for(self._node):
            return
        try:
            answer = self._execute(request)
        except Exception as error:
            answer = self._failed(request, error)
        if asyncio.iscoroutine(answer):
            self._in_background(self._await(request, answer))
        else:
            self._answer(request, answer)

    async def _await(self, request: pidbox.Request, answer: Coroutine[Any, Any, Any]) -> None:
        try:
            value = await answer
        except Exception as error:
            value = self._failed(request, error)
        self._answer(request, value)

    def _failed(self, request: pidbox.Request, error: Exception) -> dict[str, str]:
        expected = isinstance(error, AmqptasksError | ValueError | TypeError)
        logger.error("the command %s failed: %r", request.method, error, exc_info=None if expected else error)
        return {"error": repr(error)}

    def _answer(self, request: pidbox.Request, value: Any) -> None:
        # However much the worker has to publish: else `status` would not show the busiest ones.
        if request.reply_to is None or self._unsent >= UNSENT:
            return
        try:
            parcel = codec.pack(pidbox.reply(self._node, value, request, clock=self._clock.forward()))
        except (AmqptasksError, TypeError, ValueError) as error:
            logger.error("the answer to %s cannot be sent: %r", request.method, error)
            return
        self._unsent += 1
        self._publisher.post(parcel, self._sent, asyncio.get_running_loop().time() + 10.0)

    def _sent(self, error: TransportError | None) -> None:
        self._unsent -= 1
        if error is not None:
            logger.debug("an answer was not delivered: %s", error)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
