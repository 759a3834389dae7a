"""What passes between the threads that publish and the I/O thread: tickets, and the room they take.

Knows no event loop and does no I/O. A `Room` bounds what is on its way; a `Ticket` is one caller's wait for
any number of messages, woken once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from amqptasks.amqp import Envelope, Parcel
from amqptasks.errors import AmqptasksError, BrokerBlocked, ConnectionLost, PublishError, PublishTimeout
from amqptasks.ids import process
from amqptasks.transport.codec import opened

GRACE = 2.0
"""Seconds past a message's deadline after which even a silent I/O thread keeps nobody waiting."""


class Ticket:
    """The fate of some messages, published together. `wait` may be called from any thread, more than once."""

    __slots__ = ("_latch", "_left", "_owner", "count", "deadline", "failures")

    def __init__(self, count: int, deadline: float) -> None:
        self.count = count
        self.deadline = deadline
        """A time of `time.monotonic()`, at which what is unconfirmed is given up."""
        self.failures: list[tuple[Envelope, AmqptasksError]] = []
        """Each message that is not in a queue, with the reason; complete once `done`."""
        self._left = count
        self._owner = process()
        self._latch = threading.Lock()
        if count:
            self._latch.acquire()

    def __repr__(self) -> str:
        return f"<Ticket {self.count - self._left} of {self.count} answered, {len(self.failures)} failed>"

    @property
    def done(self) -> bool:
        """Whether the fate of every message is known."""
        return not self._latch.locked()

    def settle(self, message: Envelope | Parcel, error: AmqptasksError | None) -> None:
        """Note one message's fate. Call under the room's lock."""
        if error is not None:
            self.failures.append((opened(message) if isinstance(message, Parcel) else message, error))
        self._left -= 1
        if not self._left:
            self._latch.release()

    def wait(self, timeout: float | None = None) -> None:
        """Return when every message is confirmed and in a queue; else raise the first failure's reason.

        `timeout` seconds shorten the wait (PublishTimeout; the ticket stays good for another one); without
        it the messages' own deadline holds. The error's `envelopes` are all messages that were refused. In
        a forked child, what the parent had not been answered raises ConnectionLost.
        """
        if self._latch.locked():
            self._await(timeout)
        if self.failures:
            raise self._failure()

    def _await(self, timeout: float | None) -> None:
        if self._owner != process():
            raise ConnectionLost(
                "these messages were published by the parent process, before the fork; "
                "only the parent learns their fate"
            )
        longest = max(0.0, self.deadline + GRACE - time.monotonic())
        if not self._latch.acquire(timeout=longest if timeout is None else min(max(0.0, timeout), longest)):
            raise PublishTimeout(
                f"{self._left} of {self.count} messages were not confirmed in time; they may still arrive"
            )
        self._latch.release()

    def _failure(self) -> AmqptasksError:
        first = self.failures[0][1]
        if self.count == 1 and not isinstance(first, PublishError):
            return first
        text = str(first)
        if len(self.failures) > 1:
            text += f" (and {len(self.failures) - 1} more of {self.count} messages)"
        if isinstance(first, PublishError):
            alike = tuple(failed for failed, error in self.failures if isinstance(error, PublishError))
            return type(first)(text, alike)
        return type(first)(text)


class Room:
    """The bound on what is on its way, in messages and bytes, shared by all threads that publish."""

    def __init__(self, messages: int, size: int) -> None:
        self.limit_messages = messages
        self.limit_bytes = size
        self.messages = 0
        self.bytes = 0
        self.lock = threading.Lock()
        self._free = threading.Condition(self.lock)
        self._waiting = 0

    def take(self, messages: int, size: int, deadline: float, blocked: Callable[[], str | None]) -> None:
        """Wait for room until `deadline`; then raise BrokerBlocked if that is why, else PublishTimeout.

        What is larger than all the room may go when nothing else is on its way.
        """
        with self.lock:
            while self.messages and not self._fits(messages, size):
                self._waiting += 1
                try:
                    in_time = self._free.wait(deadline - time.monotonic())
                finally:
                    self._waiting -= 1
                if not in_time and not self._fits(messages, size):
                    raise self._refusal(blocked())
            self.messages += messages
            self.bytes += size

    def _fits(self, messages: int, size: int) -> bool:
        return self.messages + messages <= self.limit_messages and self.bytes + size <= self.limit_bytes

    def _refusal(self, blocked: str | None) -> AmqptasksError:
        if blocked is not None:
            return BrokerBlocked(f"the broker takes no messages ({blocked}); free memory or disk on its host")
        return PublishTimeout(
            f"{self.messages} messages ({self.bytes} bytes) wait for confirms and leave no room for more; "
            f"this one was not sent"
        )

    def give(self, size: int) -> None:
        """One message is answered. Call under the lock."""
        self.messages -= 1
        self.bytes -= size
        if not self.messages:
            self._free.notify_all()
            return
        # Woken by the hundred, not one by one: each wake-up costs a switch of threads.
        if self._waiting and self.messages * 2 <= self.limit_messages and self.bytes * 2 <= self.limit_bytes:
            self._free.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """Return whether everything was answered within `timeout` seconds."""
        with self.lock:
            return self._free.wait_for(lambda: not self.messages, timeout)
