"""From runs to messages: composed as any call of the app, confirmed, and noted for the next leader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from amqptasks import signals
from amqptasks.amqp import Envelope
from amqptasks.beat.entries import Entry, run_id
from amqptasks.beat.lease import Lease, note
from amqptasks.errors import NotFound, TransportError, Unroutable
from amqptasks.transport.keeping import outage

if TYPE_CHECKING:
    from amqptasks.app import App

log = logging.getLogger(__name__)

BEAT_HEADER = "celery_beat_task"
ENTRY, DUE = "x-amqptasks-entry", "x-amqptasks-due"
"""Headers of a run's message."""
UNDER_WAY = 50
"""Runs sent at a time, with the note of those before: twice as many may be sent again when this beat is killed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One sending of an entry: at its due time, or because an operator's message wanted it."""

    entry: Entry
    due: datetime
    command: str = ""
    """The id of that message."""

    def id(self, beat: str) -> str:
        """The task id, the same however often it is sent."""
        if self.command:
            return run_id(beat, f"{self.entry.name}\n{self.command}", datetime.fromtimestamp(0, UTC))
        return run_id(beat, self.entry.name, self.due)

    @property
    def stamp(self) -> str:
        """What the note tells the next leader."""
        return f"run {self.command}" if self.command else self.due.isoformat()


@dataclass(frozen=True, slots=True)
class _Made:
    run: Run
    envelope: Envelope
    queue: str | None


class Sending:
    """The leader's way of publishing."""

    def __init__(self, app: App, lease: Lease, beat: str) -> None:
        self._app = app
        self._lease = lease
        self._beat = beat
        # Nobody waits for these results; a reply queue of beat's would only fill.
        self._ignores = app.backend.url.startswith("rpc")

    async def send(self, runs: Sequence[Run]) -> dict[str, str]:
        """Publish all and wait for the confirms; return, by entry, why one could not be sent, to be tried again.

        A run that cannot be composed is logged and counts as sent: it would fail for ever. Raises when the connection,
        and with it the lease, is lost.
        """
        made, failed = await asyncio.to_thread(self._compose, runs)
        failed |= await self._publish(made)
        again = [each for each in made if isinstance(failed.get(each.run.entry.name), Unroutable | NotFound)]
        if again:
            await asyncio.to_thread(self._app.redeclare)
            for each in again:
                failed.pop(each.run.entry.name, None)
            failed |= await self._publish(again)
        for name, error in failed.items():
            log.error("beat: %s could not be sent, and is tried again: %s", name, error)
        return {name: str(error) for name, error in failed.items()}

    def _compose(self, runs: Sequence[Run]) -> tuple[list[_Made], dict[str, TransportError]]:
        """In a thread: it may declare queues, and takes a tenth of a millisecond for each.

        An outage is everybody's; what the broker refuses to one entry is that one's alone.
        """
        made: list[_Made] = []
        failed: dict[str, TransportError] = {}
        for run in runs:
            try:
                made.append(self._one(run))
            except TransportError as error:
                if outage(error):
                    raise
                failed[run.entry.name] = error
            except Exception:
                log.exception("beat: %s is not sent, for it cannot be composed", run.entry.name)
        return made, failed

    def _one(self, run: Run) -> _Made:
        entry = run.entry
        options: dict[str, Any] = dict(entry.options)
        if self._ignores:
            options.setdefault("ignore_result", True)
        options["task_id"] = run.id(self._beat)
        options["headers"] = {
            **(options.get("headers") or {}),
            BEAT_HEADER: True,
            ENTRY: entry.name,
            DUE: run.stamp,
        }
        call, envelope = self._app.compose(entry.task, entry.args, entry.kwargs, options)
        return _Made(run, envelope, call.queue)

    async def _publish(self, made: Sequence[_Made]) -> dict[str, TransportError]:
        failed: dict[str, TransportError] = {}
        notes: list[Envelope] = []
        for start in range(0, len(made), UNDER_WAY):
            portion = made[start : start + UNDER_WAY]
            # The note of the portion before travels with this one: it costs no round trip of its own.
            answers = await self._lease.post([*notes, *(each.envelope for each in portion)])
            sent = []
            for each, error in zip(portion, answers[len(notes) :], strict=True):
                if error is None:
                    sent.append(each)
                else:
                    failed[each.run.entry.name] = error
            if sent and (signals.after_task_publish.receivers or self._app.conf.task_send_sent_event):
                await asyncio.to_thread(self._tell, sent)
            notes = [self._note(sent)] if sent else []
        await self._lease.post(notes)
        return failed

    def _note(self, sent: Sequence[_Made]) -> Envelope:
        runs = [(each.run.entry.name, each.run.stamp) for each in sent]
        return note(self._lease.queue.name, "sent", {"runs": runs})

    def _tell(self, sent: Sequence[_Made]) -> None:
        """As any call of the app is told of. In a thread: the user's code may block."""
        for made in sent:
            envelope = made.envelope
            if self._app.conf.task_send_sent_event:
                try:
                    self._app.events.sent(envelope, made.queue)
                except TransportError as error:
                    log.debug("beat: no event task-sent: %s", error)
            signals.after_task_publish.send(
                sender=made.run.entry.task,
                body=envelope.body,
                headers=dict(envelope.properties.headers or {}),
                exchange=envelope.address.exchange,
                routing_key=envelope.address.routing_key,
            )
