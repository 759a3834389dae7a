"""Results in a database, under `db+<SQLAlchemy URL>`. The one place that imports SQLAlchemy.

One table, made on first use. Who waits looks again at an interval, sooner at first; every look is a transaction
of its own, READ COMMITTED where the database's default would hide what others wrote. Knows records and ids only.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy import exc

from amqptasks.backends.awaiting import threads
from amqptasks.backends.base import Meta
from amqptasks.backends.stored import Pauses, StoredBackend, StoreOptions
from amqptasks.errors import ImproperlyConfigured, TimeoutError
from amqptasks.ids import process
from amqptasks.masking import mask_url

AT_ONCE = 500
"""Ids in one query."""
SOONEST = 0.01
"""Seconds until the second look; each pause doubles, up to the interval."""
GROUP = "group:"
READ_COMMITTED = ("mysql", "mariadb", "postgresql")

_metadata = sql.MetaData()
RESULTS = sql.Table(
    "amqptasks_results",
    _metadata,
    sql.Column("id", sql.String(255), primary_key=True),
    sql.Column("final", sql.Boolean, nullable=False),
    # The length makes it a LONGBLOB for MySQL, whose BLOB ends at 64 KiB.
    sql.Column("record", sql.LargeBinary(2**32 - 1), nullable=False),
    sql.Column("stored_at", sql.Double, nullable=False, index=True),
)


class DatabaseBackend(StoredBackend):
    """`db+sqlite:///results.db`, `db+postgresql://...`, `db+mysql+pymysql://...`."""

    outages = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
    supports_autoexpire = False

    def __init__(self, url: str, options: StoreOptions) -> None:
        super().__init__(url, options)
        try:
            self._url = sql.make_url(url.removeprefix("db+"))
            self._url.get_dialect().import_dbapi()
        except (exc.ArgumentError, exc.NoSuchModuleError) as error:
            raise ImproperlyConfigured(
                f"result_backend {mask_url(url)!r} is no URL of SQLAlchemy's: {error}"
            ) from None
        except ImportError as error:
            raise ImproperlyConfigured(
                f"result_backend {mask_url(url)!r} needs a driver that is not installed ({error}); install it, "
                "or name another: db+postgresql+psycopg://, db+mysql+pymysql://"
            ) from None
        if self._url.get_backend_name() == "sqlite" and self._url.database in (None, "", ":memory:"):
            raise ImproperlyConfigured(
                f"result_backend {url!r} is a database that each process has for itself; name a file "
                "(db+sqlite:///results.db), or use memory:// in tests"
            )
        self._lock = threading.Lock()
        self._pid = 0
        self._made: sql.Engine | None = None

    @property
    def engine(self) -> sql.Engine:
        """This process's engine, with the table in place. Connects when it is first used."""
        if self._made is not None and self._pid == process():
            return self._made
        if self._pid != os.getpid():
            # The parent's connections are the parent's: they are neither used nor closed here.
            self._lock, self._pid, self._made = threading.Lock(), os.getpid(), None
        with self._lock:
            if self._made is None:
                engine = self._engine()
                self._prepare(engine)
                self._made = engine
            return self._made

    def _engine(self) -> sql.Engine:
        name = self._url.get_backend_name()
        options: dict[str, Any] = {}
        if name in READ_COMMITTED:
            # MySQL's REPEATABLE READ would show the first look's state for as long as a transaction lasts.
            options["isolation_level"] = "READ COMMITTED"
        engine = sql.create_engine(self._url, **options)
        if name == "sqlite":
            sql.event.listen(engine, "connect", _readers_do_not_wait)
        return engine

    @staticmethod
    def _prepare(engine: sql.Engine) -> None:
        try:
            _metadata.create_all(engine)
        except exc.DBAPIError:
            # Another process may have made the table between the look and the making; else this says what is wrong.
            _metadata.create_all(engine)

    # --- records ------------------------------------------------------------------------------------------

    def _write(self, task_id: str, record: bytes, final: bool) -> None:
        row = {"final": final, "record": record, "stored_at": time.time()}
        known = RESULTS.c.id == task_id
        # A task that ended does not begin again: a late STARTED must not hide its value.
        change = RESULTS.update().where(known if final else known & ~RESULTS.c.final).values(row)
        try:
            with self.engine.begin() as connection:
                if not final and connection.execute(change).rowcount:
                    return
                connection.execute(RESULTS.insert().values(id=task_id, **row))
        except exc.IntegrityError:
            with self.engine.begin() as connection:
                connection.execute(change)

    def _records(self, task_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        columns = sql.select(RESULTS.c.id, RESULTS.c.record)
        found: list[tuple[str, bytes]] = []
        with self.engine.connect() as connection:
            for start in range(0, len(task_ids), AT_ONCE):
                query = columns.where(RESULTS.c.id.in_(task_ids[start : start + AT_ONCE]))
                if self._expired_at is not None:
                    query = query.where(RESULTS.c.stored_at > self._expired_at)
                found += [(row.id, bytes(row.record)) for row in connection.execute(query)]
        return found

    @property
    def _expired_at(self) -> float | None:
        expires = self.options.format.expires
        return time.time() - expires if expires else None

    def _delete(self, task_id: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(RESULTS.delete().where(RESULTS.c.id == task_id))

    def _write_group(self, group_id: str, record: bytes) -> None:
        self._write(GROUP + group_id, record, final=True)

    def _read_group(self, group_id: str) -> bytes | None:
        return dict(self._records([GROUP + group_id])).get(GROUP + group_id)

    def _delete_group(self, group_id: str) -> None:
        self._delete(GROUP + group_id)

    def cleanup(self) -> None:
        """Delete what is older than `result_expires`."""
        limit = self._expired_at
        if limit is None:
            return

        def delete() -> None:
            with self.engine.begin() as connection:
                connection.execute(RESULTS.delete().where(RESULTS.c.stored_at <= limit))

        self.patiently(delete)

    # --- waiting ------------------------------------------------------------------------------------------

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        deadline = None if timeout is None else time.monotonic() + timeout
        left: dict[str, bytes | None] = dict.fromkeys(task_ids)
        pauses = self._pauses(left, timeout, deadline)
        while left:
            yield from self._news(left, self.patiently(lambda: self._records(list(left)), deadline))
            if left:
                time.sleep(next(pauses))

    async def awatch(self, task_ids: Sequence[str], timeout: float | None) -> AsyncIterator[Meta]:
        """As `watch`; a thread is taken for each look, and for none of the pauses between."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left: dict[str, bytes | None] = dict.fromkeys(task_ids)
        pauses = self._pauses(left, timeout, deadline)
        while left:
            for meta in self._news(left, await self._looked(list(left), deadline)):
                yield meta
            if left:
                await asyncio.sleep(next(pauses))

    async def _looked(self, task_ids: Sequence[str], until: float | None) -> list[tuple[str, bytes]]:
        loop, pauses = asyncio.get_running_loop(), Pauses(self, until)
        while True:
            try:
                return await loop.run_in_executor(threads(process()), self._records, task_ids)
            except self.outages as error:
                await asyncio.sleep(pauses.after(error))

    def _pauses(
        self, left: dict[str, bytes | None], timeout: float | None, deadline: float | None
    ) -> Iterator[float]:
        """Yield the seconds until each next look; the last is at the deadline. Raises TimeoutError then."""
        pause = SOONEST
        while True:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError(self._late(left, timeout))
            # SQL has no way to be told: who waits looks again.
            yield pause if remaining is None else min(pause, remaining)
            pause = min(self.options.interval, pause * 2)

    def close(self, timeout: float | None = None) -> None:
        """Close this process's connections."""
        engine, self._made = self._made, None
        if engine is not None and self._pid == os.getpid():
            engine.dispose()


def _readers_do_not_wait(connection: Any, record: Any) -> None:
    """SQLite: who reads does not keep others from writing."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
