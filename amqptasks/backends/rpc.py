"""Results as messages: each process that calls tasks has one reply queue, and one consumer on it.

A state is published to the reply queue named by the request (Celery's `rpc://` wire). The client's I/O thread
puts what arrives into `Recent` and wakes exactly the threads that wait for it; nothing polls. Knows messages
and queues; knows nothing of tasks or workers.

When may a reply be lost? Replies are acknowledged, so a broken connection loses none. A restarted broker has
lost those that lay in the queue, unless `result_persistent`; a reply queue that had to be made anew has lost
all. From here a restart is an outage longer than `BLIP`. After either, a `get()` without timeout that waits
for an id called before is woken with ResultLost if its answer does not come within `GRACE`: once for each id
and outage, the next `get()` waits on.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from amqptasks import states
from amqptasks.amqp import Delivery, Queue
from amqptasks.backends.awaiting import LoopWatcher, Watch
from amqptasks.backends.base import Backend, Meta, Publish
from amqptasks.backends.recent import Answer, Recent
from amqptasks.backends.watching import Watcher, Watchers
from amqptasks.backends.wire import BUNDLE, REPLIES, ResultFormat, read_body, result_envelope, unbundled
from amqptasks.errors import MessageError, ResultElsewhere, ResultLost, TimeoutError, TransportError
from amqptasks.ids import process
from amqptasks.transport import codec
from amqptasks.transport.aside import may_wait
from amqptasks.transport.blocking import BlockingConnection, Subscription

logger = logging.getLogger(__name__)

BLIP = 1.0
"""Seconds: no broker restarts within it."""
CLOSING = 5.0
GRACE = 30.0
"""Seconds that replies are waited for once they can come again."""


class RpcBackend(Backend):
    """`rpc://`. Thread-safe; a forked child gets a reply queue of its own on its first call."""

    url = "rpc://"

    def __init__(
        self,
        connection: Callable[[], BlockingConnection],
        format: ResultFormat,
        *,
        recent: Callable[[], Recent] = Recent,
        idle: float = 600.0,
    ) -> None:
        """`idle`: seconds that the reply queue outlives its consumer; who reconnects within them finds its
        results.
        """
        self._connection = connection
        self._format = format
        self._make_recent = recent
        self._idle = idle
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a garbage collection inside it may run a finalizer that forgets a result.
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self._queue: str | None = None
        self._subscription: Subscription | None = None
        self._recent = self._make_recent()
        self._watchers: Watchers[Answer] = Watchers(self._lock)
        self._lost_at = 0.0
        self._restored_at: float | None = None
        self._uncertain: set[str] = set()

    # --- calling ------------------------------------------------------------------------------------------

    def reply_to(self) -> str:
        """Return the reply queue's name; the first call of a process declares and consumes it (blocks)."""
        if self._queue is None or self._pid != process():
            return self._open()
        return self._queue

    def _open(self) -> str:
        if self._pid != os.getpid():
            # After a fork the locks may be held by threads that do not exist here, and the queue is the
            # parent's.
            self._reset()
        may_wait()
        with self._opening:
            if self._queue is None:
                name = f"{REPLIES}{uuid.uuid4()}"
                self._subscription = self._connection().consume(
                    self._entity(name),
                    self._receive,
                    no_ack=False,
                    on_lost=self._on_lost,
                    on_restored=self._on_restored,
                )
                self._queue = name
            return self._queue

    def _entity(self, name: str) -> Queue:
        arguments: dict[str, Any] = {"x-queue-type": "classic", "x-expires": max(1, int(self._idle * 1000))}
        if self._format.expires:
            arguments["x-message-ttl"] = int(self._format.expires * 1000)
        return Queue(name, arguments=arguments)

    def expect(self, task_id: str) -> object:
        with self._lock:
            return self._recent.expect(task_id)

    # --- receiving (I/O thread) ---------------------------------------------------------------------------

    def _receive(self, delivery: Delivery) -> None:
        if self._subscription is not None:
            self._subscription.ack(delivery)
        self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        try:
            envelope = codec.unpack(delivery)
            if envelope.properties.content_type == BUNDLE:
                for result in unbundled(delivery):
                    self._take(result)
                return
        except MessageError as error:
            logger.warning("a message on %s is no result: %s", delivery.queue, error)
            return
        correlation_id = envelope.properties.correlation_id or ""
        try:
            body = read_body(envelope, self._format)
        except MessageError as error:
            self._keep(correlation_id, Answer({}, len(delivery.body), error))
            return
        # Celery's wire names the task twice; the caller may have set a correlation id of his own.
        self._keep(str(body.get("task_id") or correlation_id), Answer(body, len(delivery.body)))

    def _keep(self, task_id: str, answer: Answer) -> None:
        with self._lock:
            self._recent.put(task_id, answer)
            if answer.final:
                self._recent.settle(task_id)
                self._uncertain.discard(task_id)
            self._watchers.notify(task_id, answer)

    def _on_lost(self, reason: object) -> None:
        with self._lock:
            self._lost_at, self._restored_at = monotonic(), None

    def _on_restored(self, kept: bool) -> None:
        with self._lock:
            self._restored_at = monotonic()
            restarted = self._restored_at - self._lost_at > BLIP and not self._format.persistent
            if restarted or not kept:
                self._uncertain.update(self._recent.expected)
                self._watchers.wake(self._uncertain)

    # --- reading ------------------------------------------------------------------------------------------

    def fetch(self, task_id: str) -> Meta | None:
        self._check_process(task_id)
        with self._lock:
            answer = self._recent.get(task_id)
        return None if answer is None else answer.read()

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        with self._watching(Watcher(), task_ids, timeout) as watch:
            yield from watch.blocking()

    async def awatch(self, task_ids: Sequence[str], timeout: float | None) -> AsyncIterator[Meta]:
        with self._watching(LoopWatcher(), task_ids, timeout) as watch:
            async for meta in watch.awaited():
                yield meta

    @contextmanager
    def _watching(
        self, watcher: Watcher[Answer], task_ids: Sequence[str], timeout: float | None
    ) -> Iterator[Watch[Answer]]:
        deadline = None if timeout is None else monotonic() + timeout
        left = self._register(watcher, task_ids)
        with self._watchers.removing(watcher, task_ids):
            yield Watch(watcher, left, Answer.read, lambda left: self._patience(left, timeout, deadline))

    def _register(self, watcher: Watcher[Answer], task_ids: Sequence[str]) -> set[str]:
        """Put what is known already into the watcher; return the ids. Raises for those that can never
        come.
        """
        for task_id in task_ids:
            self._check_process(task_id)
        with self._lock:
            for task_id in task_ids:
                answer = self._recent.get(task_id)
                if answer is not None:
                    watcher.arrived.append(answer)
                elif (standing := self._recent.standing(task_id)) != "expected":
                    raise _never(task_id, standing)
            self._watchers.add(watcher, task_ids)
        return set(task_ids)

    def _patience(self, left: set[str], timeout: float | None, deadline: float | None) -> float | None:
        now = monotonic()
        if deadline is not None and now >= deadline:
            raise TimeoutError(self._late(left, timeout))
        doubtful = self._doubtful_at(left) if deadline is None else None
        if doubtful is not None and now >= doubtful:
            raise self._lost(left)
        until = deadline if deadline is not None else doubtful
        return None if until is None else until - now

    def _doubtful_at(self, left: set[str]) -> float | None:
        """When a wait without timeout is to be given up, because a reply may be gone; None as long as none
        may.
        """
        with self._lock:
            if self._restored_at is None or self._uncertain.isdisjoint(left):
                return None
            return self._restored_at + GRACE

    def _lost(self, left: set[str]) -> ResultLost:
        with self._lock:
            doubtful = sorted(left & self._uncertain)
            self._uncertain.difference_update(doubtful)
        return ResultLost(
            f"the result of {doubtful[0]}{_and_more(doubtful)} may be lost: the connection to the broker "
            "ended while "
            "it was awaited, long enough for a restart, which results do not survive unless "
            "result_persistent is set; "
            "call get() again to wait on"
        )

    def _late(self, left: set[str], timeout: float | None) -> str:
        ids = sorted(left)
        with self._lock:
            answer = self._recent.get(ids[0])
        state = states.PENDING if answer is None else answer.body.get("status")
        return (
            f"no result of {ids[0]}{_and_more(ids)} within {timeout:g} s; its last known state is {state}; "
            "the task may still finish"
        )

    def _check_process(self, task_id: str) -> None:
        if self._pid != os.getpid():
            raise ResultElsewhere(
                f"the result of {task_id} goes to the process that called the task (pid {self._pid}), of "
                "which this "
                "one is a fork; get it there, or use a result backend that can be shared"
            )

    def forget(self, task_id: str) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            self._recent.forget(task_id)

    # --- answering ----------------------------------------------------------------------------------------

    def store(self, meta: Meta, publish: Publish) -> None:
        """Publish the state to its reply queue; a call without `reply_to` wants none, as in Celery."""
        if meta.reply_to:
            publish(result_envelope(meta, meta.reply_to, self._format))

    def close(self, timeout: float | None = None) -> None:
        """Stop consuming; delete the reply queue unless a result is still expected."""
        if self._pid != os.getpid():
            return
        with self._opening:
            subscription, queue = self._subscription, self._queue
            self._subscription = self._queue = None
        if subscription is None or queue is None:
            return
        within = CLOSING if timeout is None else timeout
        subscription.close(within)
        if self._recent.expected:
            return
        try:
            self._connection().delete_queue(queue, timeout=within)
        except TransportError as error:
            logger.debug("reply queue %s is left to expire: %s", queue, error)


def _never(task_id: str, standing: str) -> ResultLost | ResultElsewhere:
    if standing == "evicted":
        return ResultLost(
            f"the result of {task_id} came and was dropped: nobody held its AsyncResult, and this process "
            "keeps only "
            "the latest such results; keep the AsyncResult, or use a result backend that stores"
        )
    return ResultElsewhere(
        f"{task_id} was not called by this process (pid {os.getpid()}), and an rpc result goes to its "
        "caller; "
        "get it there, or use a result backend that can be shared"
    )


def _and_more(ids: Sequence[str]) -> str:
    return f" and {len(ids) - 1} more" if len(ids) > 1 else ""
