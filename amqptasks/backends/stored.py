"""What the stores share: a state as a record of bytes, patience with a store that is down, saved groups.

A record is Celery's: the body alone where it is plain JSON; else a line that says its type comes before it. Knows
neither databases nor Redis.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from amqptasks import states
from amqptasks.amqp import Address, Envelope, Properties
from amqptasks.backends.awaiting import late
from amqptasks.backends.base import Backend, Meta, Publish
from amqptasks.backends.wire import ResultFormat, from_body, read_body, result_envelope
from amqptasks.compression import compress, inflate
from amqptasks.errors import InvalidMessage, StoreTimeout, StoreUnavailable, TooLarge
from amqptasks.masking import mask_url
from amqptasks.serialization import dumps, loads

T = TypeVar("T")
logger = logging.getLogger(__name__)

TYPED = b"\x01"
"""The first byte of a record that begins with a line about its type; no serializer's text begins with it."""
JSON = "application/json"
FIRST, LONGEST = 0.05, 1.0
"""Seconds between attempts, the first and the longest; the very first comes at once, for a connection gone stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What the settings say about every store."""

    format: ResultFormat
    compression: str | None = None
    patience: float = 30.0
    """Seconds that a store which is down is tried again."""
    interval: float = 0.5
    """Seconds between two looks at a store that cannot wake who waits."""
    largest: int = 16 << 20
    """Bytes of the largest record."""


class StoredBackend(Backend):
    """A backend whose states any process can read. Thread-safe and fork-safe, as its implementations are."""

    stores = True
    outages: tuple[type[Exception], ...] = ()
    """What the driver raises when the store cannot be reached now."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self.url = url
        self.options = options
        self.patience = options.patience

    # --- what an implementation says ----------------------------------------------------------------------

    @abstractmethod
    def _write(self, task_id: str, record: bytes, final: bool) -> None:
        """Keep a record; one that is not final must not replace one that is."""

    @abstractmethod
    def _records(self, task_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        """Return id and record of those that are known."""

    @abstractmethod
    def _write_group(self, group_id: str, record: bytes) -> None: ...

    @abstractmethod
    def _read_group(self, group_id: str) -> bytes | None: ...

    @abstractmethod
    def _delete(self, task_id: str) -> None: ...

    @abstractmethod
    def _delete_group(self, group_id: str) -> None: ...

    # --- the contract -------------------------------------------------------------------------------------

    def store(self, meta: Meta, publish: Publish) -> None:
        """Write the state; returns once the store has confirmed it. Raises EncodeError, TooLarge, StoreUnavailable."""
        self.prepare(meta, publish)()

    def prepare(self, meta: Meta, publish: Publish) -> Callable[[], None]:
        record = self._packed(result_envelope(meta, "", self.options.format))
        if len(record) > self.options.largest:
            raise TooLarge(
                f"the result of {meta.task_id} has {len(record)} bytes, over the limit of {self.options.largest} "
                "(`broker_max_message_size`); keep the data elsewhere and return a reference"
            )
        return lambda: self.patiently(lambda: self._write(meta.task_id, record, meta.ready))

    def fetch(self, task_id: str) -> Meta | None:
        return next(self.fetch_all([task_id]), None)

    def fetch_all(self, task_ids: Sequence[str]) -> Iterator[Meta]:
        for task_id, record in self.patiently(lambda: self._records(task_ids)):
            yield self.unpacked(task_id, record)

    def forget(self, task_id: str) -> None:
        self.patiently(lambda: self._delete(task_id))

    def save_group(self, group_id: str, members: Any) -> None:
        encoded = dumps({"result": members, "task_id": group_id}, "json")
        self.patiently(lambda: self._write_group(group_id, encoded.body))

    def restore_group(self, group_id: str) -> Any:
        record = self.patiently(lambda: self._read_group(group_id))
        if record is None:
            return None
        accept = self.options.format.accept | {JSON}
        return loads(record, JSON, accept=accept, limit=self.options.format.inflate_limit)["result"]

    def forget_group(self, group_id: str) -> None:
        self.patiently(lambda: self._delete_group(group_id))

    # --- parts --------------------------------------------------------------------------------------------

    def patiently(self, action: Callable[[], T], until: float | None = None) -> T:
        """Return what `action` does, tried again while the store is down. Blocks; raises StoreUnavailable.

        `until` (monotonic) ends it sooner; past it, the error is a StoreTimeout.
        """
        pauses = Pauses(self, until)
        while True:
            try:
                return action()
            except self.outages as error:
                time.sleep(pauses.after(error))  # nothing tells when a server is back: it is asked again

    def down(self, error: Exception) -> str:
        """Say that the store cannot be reached, and why."""
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        return f"the result store {mask_url(self.url)} does not answer: {reason or type(error).__name__}"

    def _late(self, left: Mapping[str, bytes | None], timeout: float | None) -> str:
        """What a wait says that came to its end; `left` holds the newest record of each id it still waits for."""
        record = left[min(left)]
        return late(left, self.unpacked(min(left), record).status if record else states.PENDING, timeout)

    def _news(self, left: dict[str, bytes | None], records: Sequence[tuple[str, bytes]]) -> Iterator[Meta]:
        """Yield what these records say that is new; `left` is what is waited for, with the last record of each."""
        for task_id, record in records:
            if task_id not in left or left[task_id] == record:
                continue
            left[task_id] = record
            meta = self.unpacked(task_id, record)
            if meta.ready:
                del left[task_id]
            yield meta

    def _packed(self, envelope: Envelope) -> bytes:
        kind, compression = envelope.properties.content_type or JSON, self.options.compression
        if kind == JSON and not compression:
            return envelope.body
        packing, body = compress(envelope.body, compression) if compression else ("", envelope.body)
        encoding = envelope.properties.content_encoding or ""
        return TYPED + f"{kind} {encoding} {packing}\n".encode() + body

    def unpacked(self, task_id: str, record: bytes) -> Meta:
        """Return the state in a record. Raises MessageError."""
        kind, encoding, body = JSON, "utf-8", record
        if record[:1] == TYPED:
            head, _, body = record[1:].partition(b"\n")
            try:
                kind, encoding, packing = head.decode().split(" ")
            except ValueError:
                raise InvalidMessage(
                    f"the stored result of {task_id} cannot be read: its head is broken"
                ) from None
            if packing:
                body = inflate(body, packing, self.options.format.inflate_limit)
        properties = Properties(content_type=kind, content_encoding=encoding, correlation_id=task_id)
        return from_body(read_body(Envelope(Address("", ""), body, properties), self.options.format))


class Pauses:
    """How one action on a store that is down is tried again: at once, then ever later, for the store's patience."""

    def __init__(self, store: StoredBackend, until: float | None) -> None:
        self._store = store
        self._until = until
        self._began = time.monotonic()
        self._next = 0.0

    def after(self, error: Exception) -> float:
        """Return the seconds until it is tried again. Raises StoreUnavailable, or StoreTimeout past `until`."""
        now, pause, said = time.monotonic(), self._next, self._store.down(error)
        if self._until is not None and now + pause >= self._until:
            raise StoreTimeout(f"{said}; the task may still finish") from error
        if now + pause - self._began >= self._store.patience:
            raise StoreUnavailable(
                f"{said}, tried for {now - self._began:.1f} s (`result_store_timeout`); see that it runs and that "
                "this machine reaches it"
            ) from error
        logger.info("%s; trying again", said)
        self._next = min(LONGEST, max(FIRST, pause * 2))
        return pause
