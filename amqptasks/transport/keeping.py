"""Keeping a link open: when to connect, how often to try, when to stop. Knows links; knows no messages."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amqptasks.backoff import reconnecting
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    PublishTimeout,
    TLSFailed,
    TransportError,
    VhostNotFound,
)
from amqptasks.transport.base import Connect, Link

log = logging.getLogger(__name__)

PERMANENT = (AccessRefused, VhostNotFound, TLSFailed)
"""Refusals that a retry does not mend."""

STEADY = 1.0
"""Seconds after which a link counts as good; one that is lost sooner is not replaced without a pause."""


def outage(error: BaseException) -> bool:
    """Whether it is only a matter of time until the broker takes what it has not taken now."""
    down = isinstance(error, BrokerUnavailable | ConnectionLost | BrokerBlocked | PublishTimeout)
    return down and not isinstance(error, PERMANENT)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a client tries to reach the broker: Celery's `task_publish_retry_policy`, times in seconds.

    `max_retries` counts the attempts after the first; None goes on until the message's deadline.
    """

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0

    def delays(self) -> Iterator[float]:
        """Yield the wait before each retry, for ever."""
        for retry in itertools.count():
            yield self.interval_start + min(retry * self.interval_step, self.interval_max)


class Keeper:
    """One link at a time, opened again when lost. Used from its loop's thread only.

    With a `policy` (clients) it connects when asked and gives up when the policy is exhausted and nothing
    is `wanted`; without (workers) it goes on for ever, with jittered backoff. `on_open` is given each link;
    `on_end` follows each loss; `on_refusal` each failed attempt, with whether it was the last for
    everybody.
    """

    def __init__(
        self,
        connect: Connect,
        policy: RetryPolicy | None,
        *,
        wanted: Callable[[], bool],
        on_open: Callable[[Link], None],
        on_end: Callable[[], None],
        on_refusal: Callable[[TransportError, bool], None],
    ) -> None:
        self.link: Link | None = None
        self.closed = False
        self.losses = 0
        self.last_error: TransportError | None = None
        """Why there is no link; None while there is one."""
        self._connect = connect
        self._policy = policy
        self._level = logging.DEBUG if policy is not None else logging.WARNING
        self._wanted = wanted
        self._on_open = on_open
        self._on_end = on_end
        self._on_refusal = on_refusal
        self._running: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._waiters = 0

    async def connected(self) -> Link:
        """Return the link, connecting if there is none.

        Raises PERMANENT errors at once, and with a policy BrokerUnavailable when it is exhausted. Without a
        policy it waits for the broker for as long as it takes.
        """
        self._waiters += 1
        try:
            while self.link is None:
                if self.closed:
                    raise ConnectionLost("the connection is closed")
                await self._attempt()
        finally:
            self._waiters -= 1
        return self.link

    async def _attempt(self) -> None:
        running = self.run()
        connected = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait({running, connected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connected.cancel()
        if self.link is None and running.done():
            raise another(self.last_error or ConnectionLost("the connection was lost while it opened"))

    def run(self) -> asyncio.Task[None]:
        """Connect, unless that is under way."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._keep())
            self._running.add_done_callback(self._ran)
        return self._running

    def _ran(self, running: asyncio.Task[None]) -> None:
        if running.cancelled() or self.closed:
            return
        if running.exception() is not None:
            log.error("keeping a connection failed by a mistake of ours", exc_info=running.exception())
        # Wanted by who was just told of a failure: the attempts begin anew for him.
        if self._wanted():
            self.run()

    async def _keep(self) -> None:
        loop, patient, pauses = asyncio.get_running_loop(), False, reconnecting()
        while not self.closed:
            link = await self._open(patient=patient)
            if link is None:
                return
            # A worker that has once been connected waits for a password or vhost to be put right.
            patient = self._policy is None
            opened = loop.time()
            await self._serve(link)
            if self._policy is not None and not self._wanted() and not self._waiters:
                return
            if loop.time() - opened > STEADY:
                pauses = reconnecting()
            else:
                await asyncio.sleep(next(pauses))

    async def _open(self, *, patient: bool) -> Link | None:
        """Return a link, or None once everybody who waited was told why there is none."""
        delays = self._policy.delays() if self._policy is not None else reconnecting()
        for attempt, delay in enumerate(delays):
            try:
                return await self._connect()
            except TransportError as exc:
                error, hopeless = exc, isinstance(exc, PERMANENT) and not patient
            except Exception as exc:
                log.exception("connecting failed in a way that a retry does not mend")
                error, hopeless = BrokerUnavailable(f"connecting failed: {exc!r}"), not patient
            self.last_error = error
            self._on_refusal(error, hopeless)
            if self.closed or hopeless or self._exhausted(attempt):
                return None
            log.log(self._level, "cannot connect for publishing: %s", error)
            await asyncio.sleep(delay)
        return None

    def _exhausted(self, attempt: int) -> bool:
        if self._policy is None:
            return False
        if self._policy.max_retries is None:
            return not self._wanted() and not self._waiters
        return attempt >= self._policy.max_retries

    async def _serve(self, link: Link) -> None:
        self.link = link
        self.last_error = None
        self._connected.set()
        self._on_open(link)
        reason = await asyncio.shield(link.lost)
        self.last_error = reason
        self._connected.clear()
        self.link = None
        self._on_end()
        if not self.closed:
            self.losses += 1
            log.log(self._level, "publishing connection lost: %s", reason)

    async def close(self) -> None:
        """Close the link and connect no more."""
        self.closed = True
        if self.link is not None:
            await self.link.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})


def another(error: TransportError) -> TransportError:
    """The same refusal for another message: one exception must not be raised by two threads at once."""
    return type(error)(*error.args)
