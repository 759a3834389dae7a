"""One beat: waits for the lease, takes over where another stopped, sends what is due, answers operators.

Runs in one event loop; composing and declaring, which may block, run in a thread beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from amqptasks import signals
from amqptasks.backoff import reconnecting
from amqptasks.beat import checking, commands
from amqptasks.beat.agenda import Agenda
from amqptasks.beat.entries import Entry
from amqptasks.beat.lease import Lease, Note
from amqptasks.beat.scheduler import CLEANUP, open_scheduler
from amqptasks.beat.sending import Run, Sending
from amqptasks.beat.state import AHEAD, State
from amqptasks.errors import ImproperlyConfigured, TransportError
from amqptasks.transport.base import Link
from amqptasks.transport.keeping import PERMANENT
from amqptasks.transport.opening import configured
from amqptasks.worker.notify import supervised

if TYPE_CHECKING:
    from amqptasks.app import App

T = TypeVar("T")

log = logging.getLogger(__name__)

LONGEST = 1.0
"""Seconds after which the clock is looked at again: it may have been set."""
SNAPSHOT = 60.0
"""Seconds between two snapshots; RabbitMQ closes a channel that keeps a message for half an hour."""
SOON = 5.0
"""Seconds until a snapshot after something has changed."""
MANY = 1000
"""Runs at a time; between two such portions the lease is looked at."""
LAST_CONFIRMS = 4.0
"""Seconds that a beat which is to stop waits for the broker; what is unconfirmed then the next leader sends again."""
TOLD = 100
"""Entries that a beat names to the leader, which knows by them that it is no beat of another project."""


def lease_name(app: App) -> str:
    """The name under which this app's beats share a lease. Raises ImproperlyConfigured for an app without one."""
    name = app.conf.beat_name or app.main
    if not name:
        raise ImproperlyConfigured(
            "an app without a name would share its beat with every other one on this broker; "
            "write App('shop'), or set beat_name"
        )
    return name


def utc_now() -> datetime:
    """The time, by the machine's clock."""
    return datetime.now(UTC)


class Beat:
    """Use `run`; `stop` may be called from the loop, as a signal handler does."""

    def __init__(
        self,
        app: App,
        *,
        max_interval: float = 0.0,
        embedded: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.app = app
        self.name = lease_name(app)
        self.state = State()
        self.leads = False
        self.on_connected: Callable[[], None] = lambda: None
        """Called each time that it has a connection."""
        self._longest = max_interval or app.conf.beat_max_loop_interval or LONGEST
        self._embedded = embedded
        self._now = now
        self._stopping = asyncio.Event()
        self._scheduler = open_scheduler(app)
        self._entries: Mapping[str, Entry] = {}
        self._saved = self._changed = 0.0
        self._asked = 0.0
        self._clocks = 0.0, 0.0
        self._ran: Counter[str] = Counter()
        """Runs of each entry that were sent since this beat leads."""

    def stop(self) -> None:
        """End, after what is being sent is confirmed, and leave the lease to another."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped; wait for the broker, and connect again after every outage.

        Raises ImproperlyConfigured for a bad schedule, and AccessRefused and its kin when it is refused at once.
        """
        self._entries = await asyncio.to_thread(self._read)
        signals.beat_init.send(sender=self)
        if self._embedded:
            signals.beat_embedded_init.send(sender=self)
        settings = self.app.conf.table(with_defaults=True, censored=False)
        connect = configured(settings, "write", f"beat {self.name}")
        pauses, served = reconnecting(), False
        while not self._stopping.is_set():
            try:
                link = await connect()
                self.on_connected()
                pauses, served = reconnecting(), True
                await self._use(link)
            except TransportError as error:
                if isinstance(error, PERMANENT) and not served:
                    raise
                log.warning("beat: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), next(pauses))

    def _read(self) -> Mapping[str, Entry]:
        """Blocks. Raises ImproperlyConfigured for what could never be sent."""
        entries = self._scheduler.entries()
        new = [each for each in entries.values() if self._entries.get(each.name) != each]
        checking.check_all(self.app, new)
        return entries

    async def _use(self, link: Link) -> None:
        own = sorted(self._entries.keys() - {CLEANUP})[:TOLD]
        serving = asyncio.ensure_future(self._serve(Lease(link, self.name, {"entries": own})))
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await asyncio.wait({serving}, timeout=LAST_CONFIRMS)
            if serving.done():
                await serving
            else:
                reason = link.blocked or "no answer"
                log.warning(
                    "beat: the broker takes nothing (%s); what is under way is left to others", reason
                )
        finally:
            serving.cancel()
            stopped.cancel()
            self.leads = False
            await link.close()

    async def _serve(self, lease: Lease) -> None:
        notes = await self._unless_stopped(lease.acquire())
        if notes is None:
            return
        ran = self._rebuild(notes)
        self.leads = True
        self._ran.clear()
        self._sending = Sending(self.app, lease, self.name)
        self._take_up()
        overdue = self.agenda.overdue(self._now())
        log.info("beat: leads %s: %d entries, %d due already", self.name, len(self.agenda.entries), overdue)
        for each in notes:
            if (each.kind == "run" and each.id not in ran) or each.kind == "hello":
                await self._obey(lease, each)
        await self._save(lease)
        while not self._stopping.is_set():
            await self._turn(lease)
        await self._save(lease)
        await lease.release()

    async def _unless_stopped(self, waiting: Awaitable[T]) -> T | None:
        waited, stopped = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({waited, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return waited.result() if waited.done() else None
        finally:
            for each in (waited, stopped):
                each.cancel()

    def _rebuild(self, notes: Sequence[Note]) -> set[str]:
        """Read the state from what was left; return the commands whose run was sent already."""
        snapshots = [State.load(each.read()) for each in notes if each.kind == "snapshot"]
        self.state = max(snapshots, key=lambda each: each.number, default=State())
        ran = set()
        for each in notes:
            if each.kind == "sent":
                for entry, due in each.read()["runs"]:
                    if due.startswith("run "):
                        ran.add(due.removeprefix("run "))
                    else:
                        self.state.sent(entry, datetime.fromisoformat(due))
            elif each.kind in commands.CHANGING:
                commands.change(self.state, each)
        return ran

    def _take_up(self) -> None:
        """Take up the schedule and the clock as they are now."""
        now = self._now()
        self._clocks = now.timestamp(), asyncio.get_running_loop().time()
        entries = {**commands.added(self.state), **self._entries}
        self.state.adopt(entries.values(), now.replace(microsecond=0))
        deadline = self.app.conf.beat_cron_starting_deadline
        self.agenda = Agenda(entries, self.state, self.app.timezone, deadline, now)

    async def _renew(self, lease: Lease) -> None:
        self._take_up()
        await self._save(lease)

    async def _turn(self, lease: Lease) -> None:
        """Wait for the next due time or message, and deal with it."""
        wait = min(self._longest, self.agenda.wait(self._now()))
        while (given := await self._next(lease, wait)) is not None:
            await self._obey(lease, given)
            wait = 0.0
        lease.check()
        if self._clock_went_back():
            await self._renew(lease)
        runs, dropped = self.agenda.due(self._now(), MANY)
        if runs or dropped:
            await self._send(runs)
        await self._ask_scheduler(lease)
        clock = asyncio.get_running_loop().time()
        if clock - self._saved > (SOON if self._changed > self._saved else SNAPSHOT):
            await self._save(lease)

    async def _next(self, lease: Lease, wait: float) -> Note | None:
        try:
            return await self._unless_stopped(lease.next(wait))
        except TimeoutError:
            return None

    def _clock_went_back(self) -> bool:
        (wall, steady), clocks = self._clocks, (self._now().timestamp(), asyncio.get_running_loop().time())
        self._clocks = clocks
        return (clocks[0] - wall) - (clocks[1] - steady) < -AHEAD.total_seconds()

    async def _send(self, runs: Sequence[Run]) -> None:
        failed = await self._sending.send(runs)
        for run in runs:
            if run.entry.name in failed:
                continue
            self.state.sent(run.entry.name, run.due)
            self._ran[run.entry.name] += 1
        self.agenda.sent(runs, failed, self._now())
        self._changed = asyncio.get_running_loop().time()

    async def _ask_scheduler(self, lease: Lease) -> None:
        clock = asyncio.get_running_loop().time()
        refresh = self._scheduler.refresh
        if refresh is None or clock - self._asked < refresh:
            return
        self._asked = clock
        try:
            entries = await asyncio.to_thread(self._read)
        except Exception:
            log.exception("beat: the scheduler cannot be read; the entries stay as they were")
            return
        if entries != self._entries:
            self._entries = entries
            await self._renew(lease)

    async def _obey(self, lease: Lease, given: Note) -> None:
        """Do what an operator's message says, and answer. What beats write themselves needs nothing."""
        if given.kind in commands.CHANGING:
            answer = commands.change(self.state, given, self.agenda.entries, self._remark)
            await self._renew(lease)
        elif given.kind == "run":
            answer = await self._run_now(given)
        elif given.kind == "list":
            answer = self._listed()
        else:
            if given.kind == "hello":
                self._meet(given)
            return
        if (reply := commands.reply(given, answer)) is not None:
            await lease.post([reply])

    def _remark(self, entry: Entry) -> str:
        checking.check(self.app, entry)
        return checking.unknown(self.app, entry.task)

    def _meet(self, hello: Note) -> None:
        """Another beat waits behind this one. It would wait in vain if it were of another project."""
        theirs, ours = hello.read().get("entries"), self._entries.keys() - {CLEANUP}
        if theirs and ours and ours.isdisjoint(theirs):
            log.error(
                "beat: another beat named %s waits to lead and has none of the entries of this one; if it is another "
                "project's, its tasks are not sent: set beat_name there",
                self.name,
            )

    def _listed(self) -> dict[str, Any]:
        entries = [{**row, "runs": self._ran[row["name"]]} for row in self.agenda.table()]
        return {"entries": entries, "leader": f"{socket.gethostname()}:{os.getpid()}"}

    async def _run_now(self, given: Note) -> dict[str, Any]:
        entry = self.agenda.entries.get(str(given.read().get("entry")))
        if entry is None:
            return commands.missing(given, self.agenda.entries)
        run = Run(entry, self._now(), command=given.id)
        failed = await self._sending.send([run])
        if failed:
            return {"error": failed[entry.name]}
        self._ran[entry.name] += 1
        return {"ok": f"sent {entry.task}", "id": run.id(self.name)}

    async def _save(self, lease: Lease) -> None:
        self.state.number += 1
        await lease.keep(self.state.dump(self.state.number))
        self._saved = asyncio.get_running_loop().time()


def run_beat(app: App, *, max_interval: float = 0.0, embedded: bool = False) -> None:
    """Run a beat in this process, main thread, until TERM or INT. Blocks. Raises as `Beat.run`."""

    async def main() -> None:
        beat = Beat(app, max_interval=max_interval, embedded=embedded)
        loop = asyncio.get_running_loop()
        # Beside a worker it is the worker that is supervised.
        with supervised(wanted=not embedded) as notifier:
            stops = [beat.stop]
            if notifier is not None:
                notifier.status = lambda: f"leads {beat.name}" if beat.leads else "waits for its turn to lead"
                beat.on_connected = notifier.ready
                stops.append(notifier.stopping)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, lambda: [stop() for stop in stops])
            await beat.run()

    asyncio.run(main())
