"""Looking at dead letters, and running or dropping them: what `amqptasks dead` does, for programs too.

Looking takes nothing away. It counts as a delivery of each message, though, of which our dead-letter queues allow a
million. Opens connections of its own, one for each call.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Literal

from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.config import Config
from amqptasks.deaths import DeadLetter, Selection, address_of, alive, dead_queue, properties_of
from amqptasks.entities import LOST
from amqptasks.errors import BrokerBlocked, ConnectionLost, EncodeError, PublishTimeout, TransportError
from amqptasks.transport.base import Link
from amqptasks.transport.opening import configured
from amqptasks.visiting import Act, Tally, Walk

__all__ = ["DeadLetter", "DeadLetters", "Selection", "Tally"]

ROUND = 300.0
"""Seconds after which all that is held goes back and is looked at anew: RabbitMQ's `consumer_timeout` is above it."""

ALL = Selection()

Progress = Callable[[int], None]
"""Called with the number of those that are done."""


class DeadLetters:
    """The dead letters of some queues. Every method blocks, with a connection of its own; none may be called from a
    coroutine. Each raises BrokerUnavailable and its kin, ConnectionLost, and NotFound for a queue that was named.
    """

    def __init__(self, conf: Config, queues: Sequence[str], *, named: bool = False) -> None:
        """`queues` are task queues, or queues of dead letters themselves. If they are not `named` by somebody, those
        that do not exist are passed over, and the queue of what went astray, `amqptasks.lost`, is one of them.
        """
        names = map(dead_queue, queues)
        self.queues = tuple(dict.fromkeys(names if named else (*names, LOST)))
        self._conf = conf
        self._named = named

    def __repr__(self) -> str:
        return f"<DeadLetters of {', '.join(self.queues)}>"

    def list(self, selection: Selection = ALL, tally: Tally | None = None) -> builtins.list[DeadLetter]:
        """Return those that are selected, the oldest of each queue first. They stay where they are."""
        return [letter for letter, _ in self._found(selection, tally, bodies=False)]

    def show(
        self, selection: Selection = ALL, tally: Tally | None = None
    ) -> builtins.list[tuple[DeadLetter, Envelope]]:
        """As `list`, each with its message: all its headers, and the body, undecoded."""
        return self._found(selection, tally, bodies=True)

    def replay(
        self,
        selection: Selection = ALL,
        *,
        rate: float | None = None,
        to: str | None = None,
        progress: Progress | None = None,
    ) -> Tally:
        """Send what is selected back to the queue that it died in, or to the queue `to`, at most `rate` a second.

        Each is confirmed to be in a queue before its dead letter is acknowledged, and before the next one is sent:
        whoever is killed on the way loses none, and at most the one in flight is there twice. What finds no queue
        stays. Raises BrokerBlocked and PublishTimeout too.
        """
        tally = Tally()
        shut: dict[Address, str] = {}
        pace = _Pace(rate)

        async def again(link: Link, delivery: Delivery, letter: DeadLetter) -> bool:
            address = address_of(letter, to)
            why = "nothing says which queue it was in" if address is None else shut.get(address)
            if address is not None and why is None:
                await pace.next()
                why = await self._sent(link, delivery, letter, address)
                if why is not None:
                    shut[address] = why
            return _counted(tally, why, progress)

        async def walk() -> None:
            async with self._link("read") as reading, self._writing(reading) as writing:
                await self._walk(reading, selection, tally, partial(again, writing))

        asyncio.run(walk())
        return tally

    def drop(self, selection: Selection = ALL, *, progress: Progress | None = None) -> Tally:
        """Remove what is selected. There is no way back."""
        tally = Tally()

        async def away(_delivery: Delivery, _letter: DeadLetter) -> bool:
            return _counted(tally, None, progress)

        async def walk() -> None:
            async with self._link("read") as link:
                await self._walk(link, selection, tally, away)

        asyncio.run(walk())
        return tally

    # --- parts -------------------------------------------------------------------------------------------

    def _found(
        self, selection: Selection, tally: Tally | None, *, bodies: bool
    ) -> builtins.list[tuple[DeadLetter, Envelope]]:
        found: builtins.list[tuple[DeadLetter, Envelope]] = []

        async def note(delivery: Delivery, letter: DeadLetter) -> bool:
            address = Address(delivery.exchange, delivery.routing_key)
            body = delivery.body if bodies else b""
            found.append((letter, Envelope(address, body, properties_of(delivery))))
            return False

        async def walk() -> None:
            async with self._link("read") as link:
                await Walk(link, selection, tally or Tally()).over(self.queues, note, strict=self._named)

        asyncio.run(walk())
        return found

    async def _walk(self, link: Link, selection: Selection, tally: Tally, act: Act) -> None:
        longest = min(ROUND, (self._conf.broker_consumer_timeout or math.inf) / 3)
        await Walk(link, selection, tally, longest).over(self.queues, act, strict=self._named)

    @contextlib.asynccontextmanager
    async def _link(self, role: Literal["read", "write"]) -> AsyncIterator[Link]:
        settings = self._conf.table(with_defaults=True, censored=False)
        link = await configured(settings, role, "amqptasks dead")()
        try:
            yield link
        finally:
            await link.close()

    @contextlib.asynccontextmanager
    async def _writing(self, reading: Link) -> AsyncIterator[Link]:
        """The same connection, unless the settings tell them apart: on one, an acknowledgement is read by the broker
        before the publish that follows it, so that no two messages are ever in flight."""
        if self._conf.broker_read_url is None and self._conf.broker_write_url is None:
            yield reading
            return
        async with self._link("write") as writing:
            yield writing

    async def _sent(self, link: Link, delivery: Delivery, letter: DeadLetter, to: Address) -> str | None:
        """Send it back to life; return why no queue took it. Raises what concerns every other message as well."""
        try:
            error = await _fate(link, alive(delivery, letter, to), self._conf.broker_publish_timeout)
        except EncodeError as unwritable:
            return str(unwritable)
        if isinstance(error, ConnectionLost | BrokerBlocked | PublishTimeout):
            raise error
        return None if error is None else str(error)


class _Pace:
    """At most so many a second, evenly."""

    def __init__(self, rate: float | None) -> None:
        self._pause = 1 / rate if rate else 0.0
        self._due = 0.0

    async def next(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due = max(self._due, now) + self._pause


def _counted(tally: Tally, why: str | None, progress: Progress | None) -> bool:
    if why is not None:
        tally.left[why] = tally.left.get(why, 0) + 1
        return False
    tally.done += 1
    if progress is not None:
        progress(tally.done)
    return True


async def _fate(link: Link, parcel: Parcel, timeout: float) -> TransportError | None:
    fate: asyncio.Future[TransportError | None] = asyncio.get_running_loop().create_future()
    link.post(parcel, lambda error: None if fate.done() else fate.set_result(error))
    try:
        async with asyncio.timeout(timeout):
            return await fate
    except TimeoutError:
        if link.blocked is not None:
            return BrokerBlocked(f"the broker takes no messages ({link.blocked}); free memory or disk there")
        return PublishTimeout(
            f"the broker did not confirm within {timeout:g} s; look what keeps its disk busy"
        )
