"""Publishing that survives the loss of its connection: what is unconfirmed is sent again, in order.

Lives on one event loop and is used from its thread only; the client's I/O thread and the worker's parent both
own one. Knows parcels and links; knows nothing of tasks, nor which driver a link is made of.

The life of a message: posted, written to the link (or held back: no link, or the broker is blocked), then
confirmed, refused, or given up. A lost link only returns it to the second step, under the same message id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable

from amqptasks.amqp import Parcel
from amqptasks.errors import (
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    NotFound,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from amqptasks.transport.base import Connect, Done, Link
from amqptasks.transport.keeping import Keeper, RetryPolicy, another

log = logging.getLogger(__name__)

LIMIT_MESSAGES = 1000
LIMIT_BYTES = 32 * 1024 * 1024
FORGOTTEN = ("drop", "event")
"""Fates of messages that nobody need wait for; a worker is told all the same what became of a result."""


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
        self._policy = policy
        self._forgotten = ("event",) if policy is None else FORGOTTEN
        self._give_up_after = give_up_after
        self._on_room = on_room
        self._pending: dict[_Pending, None] = {}
        self._held: deque[_Pending] = deque()
        self._bytes = 0
        self._link: Link | None = None
        self._idle = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._closed = False
        self._keeper = Keeper(
            connect,
            policy,
            wanted=lambda: bool(self._pending),
            on_open=self._resend,
            on_end=self._hold_back,
            on_refusal=self._charge,
        )

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
    def reconnects(self) -> int:
        """How often the link was lost."""
        return self._keeper.losses

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it takes no messages."""
        return self._link.blocked if self._link is not None else None

    # --- posting -------------------------------------------------------------------------------------

    def post(self, parcel: Parcel, done: Done, deadline: float | None = None) -> None:
        """Send `parcel` and call `done` once its fate is known: as `Link.post`, but a lost link is not a
        fate.

        `deadline` is a time of `loop.time()`, at which it is given up with BrokerBlocked, BrokerUnavailable
        or PublishTimeout. An Unroutable event counts as delivered, and with a `policy` what is to be dropped, too.
        Never blocks, never raises; the limits are the caller's to respect.
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

    def flush(self) -> None:
        """Write what is posted now: for who knows that nothing more comes in this turn of the loop."""
        if self._link is not None:
            self._link.flush()

    def _sweep_by(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        self._sweep = asyncio.get_running_loop().call_at(deadline, self._give_up_overdue)

    def _hold(self, pending: _Pending) -> None:
        if self._closed:
            self._finish(pending, ConnectionLost("the publisher is closed; nothing more is sent"))
        elif self._link is None:
            self._keeper.run()  # everything pending is sent once there is a link
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
                return  # it stays pending, and `_resend` sends it on the next link
            if pending.parcel.fate in self._forgotten and isinstance(error, Unroutable | NotFound):
                error = None
        self._finish(pending, error)

    def _finish(self, pending: _Pending, error: TransportError | None) -> None:
        # A message sent twice is confirmed twice; the first answer counts.
        if self._pending.pop(pending, self) is self:
            return
        self._bytes -= pending.size
        try:
            pending.done(error)
        except Exception:
            log.exception("what followed a publish failed")
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
        self._held = deque(each for each in self._held if each in self._pending)
        self._sweep, self._sweep_at = None, math.inf
        following = min((each.deadline for each in self._pending if each.deadline is not None), default=None)
        if following is not None:
            self._sweep_by(following)

    def reason_for_delay(self) -> TransportError:
        """Why what waits now is waiting, as the error for who waits no longer."""
        if self.blocked is not None:
            return BrokerBlocked(
                f"the broker takes no messages ({self.blocked}); free memory or disk on its host"
            )
        if self._link is None and self._keeper.last_error is not None:
            return BrokerUnavailable(f"the broker could not be reached in time: {self._keeper.last_error}")
        return PublishTimeout("the broker did not confirm in time; the message may still arrive")

    # --- connecting ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; return once connected for the first time.

        Raises AccessRefused, VhostNotFound or TLSFailed at once, and with a policy BrokerUnavailable when
        it is exhausted. Without a policy it waits for the broker for as long as it takes.
        """
        await self.connected()

    async def connected(self) -> Link:
        """Return the link, connecting if there is none. Raises as `start`."""
        return await self._keeper.connected()

    def _resend(self, link: Link) -> None:
        self._link = link
        self._held = deque(self._pending)
        link.on_blocked = self._send_held
        self._send_held(link.blocked)

    def _hold_back(self) -> None:
        self._link = None
        self._held.clear()

    def _charge(self, error: TransportError, hopeless: bool) -> None:
        """Count a failed attempt against every message; with a policy, fail those that had their share."""
        most = (
            math.inf if self._policy is None or self._policy.max_retries is None else self._policy.max_retries
        )
        for pending in list(self._pending):
            pending.failures += 1
            if hopeless or pending.failures > most:
                self._finish(pending, another(error))

    # --- ending --------------------------------------------------------------------------------------

    async def drain(self, timeout: float, brief: float | None = None) -> int:
        """Wait at most `timeout` seconds until nothing is pending; return how many messages still are.

        With `brief`, that long for messages that have a deadline, which somebody can do without.
        """
        if brief is not None:
            await self._emptied(brief)
            timeout = timeout - brief if any(each.deadline is None for each in self._pending) else 0.0
        await self._emptied(timeout)
        return len(self._pending)

    async def _emptied(self, timeout: float) -> None:
        if self._pending and timeout > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)

    async def close(self, timeout: float = 0.0) -> None:
        """Drain for at most `timeout` seconds, fail the rest with ConnectionLost, and close the link."""
        if timeout:
            await self.drain(timeout)
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        await self._keeper.close()
        for pending in list(self._pending):
            self._finish(
                pending, ConnectionLost("closed before the broker confirmed; the message may have arrived")
            )
