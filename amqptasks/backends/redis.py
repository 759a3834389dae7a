"""Results in Redis, under `redis://` and `rediss://` (TLS). The one place that imports redis-py.

Keys, values and channels are Celery's: a state is set under `celery-task-meta-<id>` and published on the channel of the
same name, which wakes who waits; nothing polls. Redis drops what is expired. Knows records and ids only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from amqptasks.backends.base import Meta
from amqptasks.backends.stored import StoredBackend, StoreOptions
from amqptasks.errors import ImproperlyConfigured, TimeoutError
from amqptasks.masking import mask_url

STATE = "celery-task-meta-"
GROUP = "celery-taskset-meta-"
AT_ONCE = 1000
"""Keys in one command."""
ANSWER = 10.0
"""Seconds that Redis may take for an answer."""
LOOK = 30.0
"""Seconds after which who waits looks by himself: a connection may be dead without a sign."""


class RedisBackend(StoredBackend):
    """`redis://[user:password@]host:port/db`; the URL's query holds redis-py's options, those of TLS among them."""

    outages = (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.ReadOnlyError,
        redis.OutOfMemoryError,
    )

    def __init__(self, url: str, options: StoreOptions) -> None:
        super().__init__(url, options)
        # Celery writes CERT_REQUIRED where redis-py writes required.
        plain = url.replace("ssl_cert_reqs=CERT_", "ssl_cert_reqs=")
        try:
            # redis-py's own retries would double ours. Its pool opens anew in a forked child by itself.
            self._redis: Any = redis.Redis.from_url(
                plain,
                socket_timeout=ANSWER,
                socket_connect_timeout=ANSWER,
                socket_keepalive=True,
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, redis.RedisError) as error:
            raise ImproperlyConfigured(
                f"result_backend {mask_url(url)!r} cannot be used: {error}; write redis://host:6379/0"
            ) from None

    # --- records ------------------------------------------------------------------------------------------

    def _write(self, task_id: str, record: bytes, final: bool) -> None:
        key = STATE + task_id
        expires = self._expires

        def write(pipe: Any) -> None:
            if not final:
                # A task that ended does not begin again: a late STARTED must not hide its value.
                known = pipe.get(key)
                pipe.multi()
                if known is not None and self.unpacked(task_id, known).ready:
                    return
            pipe.set(key, record, px=expires)
            pipe.publish(key, record)

        if final:
            with self._redis.pipeline(transaction=True) as pipe:
                write(pipe)
                pipe.execute()
        else:
            self._redis.transaction(write, key)

    @property
    def _expires(self) -> int | None:
        seconds = self.options.format.expires
        return max(1, int(seconds * 1000)) if seconds else None

    def _delete(self, task_id: str) -> None:
        self._redis.delete(STATE + task_id)

    def _write_group(self, group_id: str, record: bytes) -> None:
        self._redis.set(GROUP + group_id, record, px=self._expires)

    def _read_group(self, group_id: str) -> bytes | None:
        found: bytes | None = self._redis.get(GROUP + group_id)
        return found

    def _delete_group(self, group_id: str) -> None:
        self._redis.delete(GROUP + group_id)

    # --- waiting ------------------------------------------------------------------------------------------

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        deadline = None if timeout is None else time.monotonic() + timeout
        left: dict[str, bytes | None] = dict.fromkeys(task_ids)
        yield from self._news(left, self.patiently(lambda: self._records(list(left)), deadline))
        while left:
            channels = [STATE + task_id for task_id in left]
            ear = self.patiently(lambda keys=channels: self._subscribed(keys), deadline)  # type: ignore[misc]
            try:
                # What was published before the subscription is seen here, what comes after it is heard.
                yield from self._news(left, self.patiently(lambda: self._records(list(left)), deadline))
                while left and (heard := self._heard(ear, left, deadline, timeout)) is not None:
                    yield from self._news(left, [heard])
            finally:
                ear.close()

    def _records(self, task_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        found = []
        for start in range(0, len(task_ids), AT_ONCE):
            some = task_ids[start : start + AT_ONCE]
            records = self._redis.mget([STATE + task_id for task_id in some])
            found += [(task_id, record) for task_id, record in zip(some, records, strict=True) if record]
        return found

    def _subscribed(self, channels: Sequence[str]) -> Any:
        """Return a subscription that Redis has confirmed for every channel."""
        ear = self._redis.pubsub()
        try:
            unconfirmed = len(channels)
            for start in range(0, unconfirmed, AT_ONCE):
                ear.subscribe(*channels[start : start + AT_ONCE])
            while unconfirmed:
                message = ear.get_message(timeout=ANSWER)
                if message is None:
                    raise redis.TimeoutError("no answer to SUBSCRIBE")
                unconfirmed -= message["type"] == "subscribe"
        except BaseException:
            ear.close()
            raise
        return ear

    def _heard(
        self, ear: Any, left: dict[str, bytes | None], deadline: float | None, timeout: float | None
    ) -> tuple[str, bytes] | None:
        """Return the next state that is published; None when the connection broke or it is time to look."""
        until = time.monotonic() + LOOK
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError(self._late(left, timeout))
            if now >= until:
                return None
            try:
                message = ear.get_message(timeout=(until if deadline is None else min(until, deadline)) - now)
            except self.outages:
                return None
            if message is not None and message["type"] == "message":
                return message["channel"].decode().removeprefix(STATE), message["data"]

    def close(self, timeout: float | None = None) -> None:
        """Close this process's connections."""
        self._redis.close()
