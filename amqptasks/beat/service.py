"""One beat: waits for the lease, takes over where another stopped, sends what is due, answers operators.

Runs in one event loop; composing and declaring, which may block, run in a thread beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from amqptasks import signals
from amqptasks.backoff import reconnecting
from amqptasks.beat import commands
from amqptasks.beat.agenda import Agenda
from amqptasks.beat.entries import Entry
from amqptasks.beat.lease import Lease, Note
from amqptasks.beat.scheduler import open_scheduler
from amqptasks.beat.sending import Run, Sending
from amqptasks.beat.state import State
from amqptasks.errors import TransportError
from amqptasks.transport.opening import configured

if TYPE_CHECKING:
    from amqptasks.app import App

log = logging.getLogger(__name__)

LONGEST = 1.0
"""Seconds after which the clock is looked at again: it may have been set."""
SNAPSHOT = 60.0
"""Seconds between two snapshots; RabbitMQ closes a channel that keeps a message for half an hour."""
SOON = 5.0
"""Seconds until a snapshot after something has changed."""
MANY = 1000
"""Runs at a time; between two such portions the lease is looked at."""


def lease_name(app: App) -> str:
    """The name under which this app's beats share a lease."""
    return app.conf.beat_name or app.main or "app"


class Beat:
    """Use `run`; `stop` may be called from the loop, as a signal handler does."""

    def __init__(self, app: App, *, max_interval: float = 0.0) -> None:
        self.app = app
        self.name = lease_name(app)
        self.state = State()
        self.leads = False
        self._longest = max_interval or app.conf.beat_max_loop_interval or LONGEST
        self._stopping = asyncio.Event()
        self._scheduler = open_scheduler(app)
        self._entries: Mapping[str, Entry] = {}
        self._saved = self._changed = 0.0
        self._asked = 0.0

    def stop(self) -> None:
        """End, after what is being sent is confirmed, and leave the lease to another."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped; connect again after every outage. Raises ImproperlyConfigured for a bad schedule."""
        self._entries = await asyncio.to_thread(self._scheduler.entries)
        signals.beat_init.send(sender=self)
        settings = self.app.conf.table(with_defaults=True, censored=False)
        connect = configured(settings, "write", f"beat {self.name}")
        pauses = reconnecting()
        while not self._stopping.is_set():
            try:
                link = await connect()
                pauses = reconnecting()
                try:
                    await self._serve(Lease(link, self.name))
                finally:
                    self.leads = False
                    await link.close()
            except TransportError as error:
                log.warning("beat: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), next(pauses))

    async def _serve(self, lease: Lease) -> None:
        notes = await self._unless_stopped(lease.acquire())
        if notes is None:
            return
        ran = self._rebuild(notes)
        self.leads = True
        self._sending = Sending(self.app, lease, self.name)
        await self._renew(lease)
        overdue = self.agenda.overdue(datetime.now(UTC))
        log.info("beat: leads %s: %d entries, %d due already", self.name, len(self.agenda.entries), overdue)
        for each in notes:
            if each.kind == "run" and each.id not in ran:
                await self._obey(lease, each)
        while not self._stopping.is_set():
            await self._turn(lease)
        await self._save(lease)
        await lease.release()

    async def _unless_stopped(self, waiting: Any) -> list[Note] | None:
        acquiring, stopped = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({acquiring, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return list(acquiring.result()) if acquiring.done() else None
        finally:
            for each in (acquiring, stopped):
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

    async def _renew(self, lease: Lease) -> None:
        """Take up the schedule as it is now, and keep that."""
        entries = {**commands.added(self.state), **self._entries}
        self.state.adopt(entries.values(), datetime.now(UTC).replace(microsecond=0))
        self.agenda = Agenda(
            entries, self.state, self.app.timezone, self.app.conf.beat_cron_starting_deadline
        )
        await self._save(lease)

    async def _turn(self, lease: Lease) -> None:
        """Wait for the next due time or message, and deal with it."""
        now = datetime.now(UTC)
        wait = 0.0 if self._stopping.is_set() else min(self._longest, self.agenda.wait(now))
        with contextlib.suppress(TimeoutError):
            while True:
                await self._obey(lease, await lease.next(wait))
                wait = 0.0
        lease.check()
        runs, dropped = self.agenda.due(datetime.now(UTC), MANY)
        if runs or dropped:
            await self._send(runs)
        await self._ask_scheduler(lease)
        clock = asyncio.get_running_loop().time()
        if clock - self._saved > (SOON if self._changed > self._saved else SNAPSHOT):
            await self._save(lease)

    async def _send(self, runs: Sequence[Run]) -> None:
        failed = await self._sending.send(runs)
        for run in runs:
            if run.entry.name in failed:
                continue
            self.state.sent(run.entry.name, run.due)
        self.agenda.sent(runs, failed)
        self._changed = asyncio.get_running_loop().time()

    async def _ask_scheduler(self, lease: Lease) -> None:
        clock = asyncio.get_running_loop().time()
        refresh = self._scheduler.refresh
        if refresh is None or clock - self._asked < refresh:
            return
        self._asked = clock
        try:
            entries = await asyncio.to_thread(self._scheduler.entries)
        except Exception:
            log.exception("beat: the scheduler cannot be read; the entries stay as they were")
            return
        if entries != self._entries:
            self._entries = entries
            await self._renew(lease)

    async def _obey(self, lease: Lease, given: Note) -> None:
        """Do what an operator's message says, and answer. What beats write themselves needs nothing."""
        if given.kind in commands.CHANGING:
            answer = commands.change(self.state, given, self.agenda.entries)
            await self._renew(lease)
        elif given.kind == "run":
            answer = await self._run_now(given)
        elif given.kind == "list":
            answer = {"entries": self.agenda.table()}
        else:
            return
        if (reply := commands.reply(given, answer)) is not None:
            await lease.post([reply])

    async def _run_now(self, given: Note) -> dict[str, Any]:
        entry = self.agenda.entries.get(str(given.read().get("entry")))
        if entry is None:
            return commands.missing(given, self.agenda.entries)
        run = Run(entry, datetime.now(UTC), command=given.id)
        failed = await self._sending.send([run])
        if failed:
            return {"error": failed[entry.name]}
        return {"ok": f"sent {entry.task}", "id": run.id(self.name)}

    async def _save(self, lease: Lease) -> None:
        self.state.number += 1
        await lease.keep(self.state.dump(self.state.number))
        self._saved = asyncio.get_running_loop().time()


def run_beat(app: App, *, max_interval: float = 0.0) -> None:
    """Run a beat in this process, main thread, until TERM or INT. Blocks. Raises ImproperlyConfigured."""

    async def main() -> None:
        beat = Beat(app, max_interval=max_interval)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, beat.stop)
        await beat.run()

    asyncio.run(main())
