"""Publishing that survives the loss of its connection: what is unconfirmed is sent again, in order.

Lives on one event loop and is used from its thread only; the client's I/O thread and the worker's parent both
own one. Knows parcels and links; knows nothing of tasks, nor which driver a link is made of.

The life of a message: posted, written to the link (or held back: no link, or the broker is blocked), then
confirmed, refused, or given up. A lost link only returns it to the second step, under the same message id.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amqptasks.amqp import Parcel
from amqptasks.backoff import reconnecting
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    NotFound,
    PublishTimeout,
    TLSFailed,
    TransportError,
    Unroutable,
    VhostNotFound,
)
from amqptasks.transport.base import Connect, Done, Link

log = logging.getLogger(__name__)

PERMANENT = (AccessRefused, VhostNotFound, TLSFailed)
"""Refusals that a retry does not mend."""

LIMIT_MESSAGES = 1000
LIMIT_BYTES = 32 * 1024 * 1024

_STEADY = 1.0
"""Seconds after which a link counts as good; one that is lost sooner is not replaced without a pause."""


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
            yield min(
                self.interval_start + retry * self.interval_step, self.interval_start + self.interval_max
            )


class _Pending:
    """One unconfirmed message, and the callback that its link is given."""

    __slots__ = ("deadline", "done", "failures", "owner", "parcel", "size")

    def __init__(
        self, owner: Publisher, parcel: Parcel, done: Done, size: int, deadline: float | None
    ) -> None:
        self.owner = owner
        self.parcel = parcel
        self.done = done
        self.size = size
        self.deadline = deadline
        self.failures = 0

    def __call__(self, error: TransportError | None) -> None:
        self.owner._settle(self, error)


class Publisher:
    """Posts parcels to the broker and reports the fate of each. Bounded by whoever looks at `saturated`.

    With a `policy` (clients) it connects on demand and fails what is pending once the policy is exhausted;
    without (workers) it connects at `start` and goes on for ever, with jittered backoff.
    `on_room` is called when it was saturated and is no more.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        limit_messages: int = LIMIT_MESSAGES,
        limit_bytes: int = LIMIT_BYTES,
        policy: RetryPolicy | None = None,
        give_up_after: float | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        self.limit_messages = limit_messages
        self.limit_bytes = limit_bytes
        self.saturated = False
        """True from the moment a limit is reached until a quarter of it is free again."""
        self.reconnects = 0
        self.last_error: TransportError | None = None
        self._connect = connect
        self._policy = policy
        self._give_up_after = give_up_after
        self._on_room = on_room
        self._pending: dict[_Pending, None] = {}
        self._held: deque[_Pending] = deque()
        self._bytes = 0
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._idle = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._attempts = 0
        self._waiters = 0
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._link else "not connected"
        blocked = ", blocked" if self.blocked else ""
        return f"<Publisher {state}{blocked} | {self.pending} unconfirmed, {self._bytes} bytes>"

    @property
    def pending(self) -> int:
        """Messages that are neither confirmed nor given up."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    @property
    def link(self) -> Link | None:
        """The link in use, None while there is none."""
        return self._link

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it takes no messages."""
        return self._link.blocked if self._link is not None else None

    # --- posting -------------------------------------------------------------------------------------

    def post(self, parcel: Parcel, done: Done, deadline: float | None = None) -> None:
        """Send `parcel` and call `done` once its fate is known: as `Link.post`, but a lost link is not a fate.

        `deadline` is a time of `loop.time()`, at which it is given up with BrokerBlocked, BrokerUnavailable or
        PublishTimeout. An Unroutable message whose fate is "drop" counts as delivered. Never blocks, never
        raises; the limits are the caller's to respect.
        """
        size = len(parcel.header) + len(parcel.body)
        if deadline is None and self._give_up_after is not None:
            deadline = asyncio.get_running_loop().time() + self._give_up_after
        pending = _Pending(self, parcel, done, size, deadline)
        self._pending[pending] = None
        self._bytes += size
        if len(self._pending) >= self.limit_messages or self._bytes >= self.limit_bytes:
            self.saturated = True
        if deadline is not None and deadline < self._sweep_at:
            self._sweep_by(deadline)
        link = self._link
        if link is not None and link.blocked is None and not self._held:
            link.post(parcel, pending)
        else:
            self._hold(pending)

    def _sweep_by(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        self._sweep = asyncio.get_running_loop().call_at(deadline, self._give_up_overdue)

    def _hold(self, pending: _Pending) -> None:
        if self._closed:
            self._finish(pending, ConnectionLost("the publisher is closed; nothing more is sent"))
        elif self._link is None:
            self._run()  # everything pending is sent once there is a link
        else:
            self._held.append(pending)

    def _send_held(self, blocked: str | None = None) -> None:
        """The link was blocked, or is no more: what was held back goes out, in order."""
        while blocked is None and self._held and self._link is not None:
            pending = self._held.popleft()
            if pending in self._pending:
                self._link.post(pending.parcel, pending)

    # --- fates ---------------------------------------------------------------------------------------

    def _settle(self, pending: _Pending, error: TransportError | None) -> None:
        if error is not None:
            if isinstance(error, ConnectionLost):
                return  # it stays pending, and `_serve` sends it again
            if pending.parcel.fate == "drop" and isinstance(error, Unroutable | NotFound):
                error = None
        self._finish(pending, error)

    def _finish(self, pending: _Pending, error: TransportError | None) -> None:
        # A message sent twice is confirmed twice; the first answer counts.
        if self._pending.pop(pending, self) is self:
            return
        self._bytes -= pending.size
        pending.done(error)
        if self.saturated:
            self._make_room()
        if not self._pending:
            self._idle.set()

    def _make_room(self) -> None:
        if len(self._pending) * 4 <= self.limit_messages * 3 and self._bytes * 4 <= self.limit_bytes * 3:
            self.saturated = False
            if self._on_room is not None:
                self._on_room()

    def _give_up_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        for pending in [each for each in self._pending if each.deadline is not None and each.deadline <= now]:
            self._finish(pending, self.reason_for_delay())
        self._sweep, self._sweep_at = None, math.inf
        following = min((each.deadline for each in self._pending if each.deadline is not None), default=None)
        if following is not None:
            self._sweep_by(following)

    def reason_for_delay(self) -> TransportError:
        """Why what waits now is waiting, as the error for who waits no longer."""
        if self.blocked is not None:
            return BrokerBlocked(
                f"the broker takes no messages ({self.blocked}); free memory or disk on its host, then try again"
            )
        if self._link is None and self.last_error is not None:
            return BrokerUnavailable(f"the broker could not be reached in time: {self.last_error}")
        return PublishTimeout("the broker did not confirm in time; the message may still arrive")

    # --- connecting ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; return once connected for the first time.

        Raises AccessRefused, VhostNotFound or TLSFailed at once, and with a policy BrokerUnavailable when it is
        exhausted. Without a policy it waits for the broker for as long as it takes.
        """
        await self.connected()

    async def connected(self) -> Link:
        """Return the link, connecting if there is none. Raises as `start`."""
        self._waiters += 1
        try:
            while self._link is None:
                if self._closed:
                    raise ConnectionLost("the publisher is closed")
                await self._attempt()
        finally:
            self._waiters -= 1
        return self._link

    async def _attempt(self) -> None:
        running = self._run()
        connected = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait({running, connected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connected.cancel()
        if self._link is None and running.done():
            raise _copy(self.last_error or ConnectionLost("the connection was lost while it opened"))

    def _run(self) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._keep_connected())
            self._running.add_done_callback(self._ran)
        return self._running

    def _ran(self, running: asyncio.Task[None]) -> None:
        if running.cancelled() or self._closed:
            return
        if running.exception() is not None:
            log.error("the publishing connection ended by a mistake of ours", exc_info=running.exception())
        # Posted by a callback that was just told of a failure: the attempts begin anew for it.
        if self._pending:
            self._run()

    async def _keep_connected(self) -> None:
        """Open a link, serve it until it is lost, and again; a client stops when nobody wants it any more."""
        loop, patient, pauses = asyncio.get_running_loop(), False, reconnecting()
        while not self._closed:
            link = await self._open(patient=patient)
            if link is None:
                return
            # A worker that has once been connected waits for a password or vhost to be put right.
            patient = self._policy is None
            opened = loop.time()
            await self._serve(link)
            if self._policy is not None and not self._wanted:
                return
            if loop.time() - opened > _STEADY:
                pauses = reconnecting()
            else:
                await asyncio.sleep(next(pauses))

    @property
    def _wanted(self) -> bool:
        return bool(self._pending) or self._waiters > 0

    async def _open(self, *, patient: bool) -> Link | None:
        """Return a link, or None once everybody who waited was told why there is none."""
        self._attempts = 0
        for delay in self._policy.delays() if self._policy is not None else reconnecting():
            try:
                return await self._connect()
            except TransportError as exc:
                error, hopeless = exc, isinstance(exc, PERMANENT)
            except Exception as exc:
                log.exception("connecting failed in a way that a retry does not mend")
                error, hopeless = BrokerUnavailable(f"connecting failed: {exc!r}"), True
            self.last_error = error
            if hopeless and not patient:
                self._fail_all(error)
            if (hopeless and not patient) or self._exhausted(error):
                return None
            log.log(logging.DEBUG if self._policy else logging.WARNING, "cannot connect: %s", error)
            await asyncio.sleep(delay)
        return None

    def _exhausted(self, error: TransportError) -> bool:
        """Count a failed attempt against every message; with a policy, fail those that had their share."""
        if self._policy is None:
            return self._closed
        most = self._policy.max_retries
        self._attempts += 1
        if most is None:
            return self._closed or not self._wanted
        for pending in list(self._pending):
            pending.failures += 1
            if pending.failures > most:
                self._finish(pending, _copy(error))
        return self._closed or (not self._pending and self._attempts > most)

    async def _serve(self, link: Link) -> None:
        self._link = link
        self.last_error = None
        self._connected.set()
        self._held = deque(self._pending)
        link.on_blocked = self._send_held
        self._send_held(link.blocked)
        reason = await asyncio.shield(link.lost)
        self.last_error = reason
        self._connected.clear()
        self._link = None
        self._held.clear()
        if not self._closed:
            self.reconnects += 1
            log.log(
                logging.DEBUG if self._policy else logging.WARNING, "publishing connection lost: %s", reason
            )

    def _fail_all(self, error: TransportError) -> None:
        for pending in list(self._pending):
            self._finish(pending, _copy(error))

    # --- ending --------------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> int:
        """Wait at most `timeout` seconds until nothing is pending; return how many messages still are."""
        if self._pending:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                pass
        return len(self._pending)

    async def close(self, timeout: float = 0.0) -> None:
        """Drain for at most `timeout` seconds, fail the rest with ConnectionLost, and close the link."""
        if timeout:
            await self.drain(timeout)
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        link, running = self._link, self._running
        if link is not None:
            await link.close()
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        for pending in list(self._pending):
            self._finish(
                pending, ConnectionLost("closed before the broker confirmed; the message may have arrived")
            )


def _copy(error: TransportError) -> TransportError:
    """The same refusal for another message: one exception must not be raised by two threads at once."""
    return type(error)(*error.args)
