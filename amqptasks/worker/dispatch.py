"""From a delivery to its settlement: admit, hand to the pool, publish what follows, wait for the confirms, settle.

The parent's centre. It moves bytes: it reads six headers, knows a task's static options from the manifest, and never
decodes a body or runs user code. All methods run in the loop's thread.

The order that promise 2 stands on: an outcome's messages are confirmed before its delivery is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from itertools import count

from amqptasks import states
from amqptasks.amqp import Delivery, Parcel
from amqptasks.errors import Nacked, NotFound, TooLarge, TransportError, Unroutable, WorkerLost
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.admission import admit, fields_of, identity_of
from amqptasks.worker.deadletters import forwarded, refused, told
from amqptasks.worker.flight import UNKNOWN_TASK, Counters, Flight, Recent
from amqptasks.worker.lane import Lane
from amqptasks.worker.outcome import Cause, Manifest, Outcome, Run, TaskOptions, Verdict
from amqptasks.worker.pools.base import Pool

logger = logging.getLogger(__name__)

REMEMBERED = 50_000
"""Runs that were acknowledged or ended, kept to recognise their redeliveries."""


OBITUARIES = 3
"""Children that may die on one message before the parent gives up on having its obituary written."""


class Dispatch:
    """Implements the pool's `Report`."""

    def __init__(self, pool: Pool, node: str) -> None:
        self._pool = pool
        self._publisher: Publisher
        self._tasks: Mapping[str, TaskOptions] = {}
        self._node = node
        self._dead_exchange = ""
        self._serializer = ""
        self._abandoning = False
        self._verbose = False
        self._received_hook = False
        self._loop = asyncio.get_running_loop()
        self._keys = count(1)
        self._flights: dict[int, Flight] = {}
        self._held: dict[int, tuple[Run, asyncio.TimerHandle]] = {}
        self._done_before: Recent[Verdict] = Recent(REMEMBERED)
        self._ghosts: dict[Hashable, Flight] = {}
        self._paused = False
        self._idle = asyncio.Event()
        self.counters = Counters()

    def begin(self, publisher: Publisher, manifest: Manifest) -> None:
        """The pool has started and told what it knows; deliveries may come now."""
        self._publisher = publisher
        self._verbose = logger.isEnabledFor(logging.INFO)
        self._received_hook = "task_received" in manifest.hooks
        self._tasks = manifest.tasks
        self._dead_exchange = manifest.settings["task_dead_letter_exchange"]
        by_message = manifest.results.startswith("rpc")
        self._serializer = manifest.settings["result_serializer"] if by_message else ""

    # --- in ----------------------------------------------------------------------------------------------

    def receive(self, lane: Lane, delivery: Delivery) -> None:
        """Take a delivery: run it, hold it for less than a second, or have its obituary written."""
        self.counters.received += 1
        lane.took()
        fields = fields_of(delivery)
        options = self._tasks.get(fields.get("task", ""), UNKNOWN_TASK)
        key = next(self._keys)
        flight = Flight(key, delivery, lane, options, self._loop.time(), identity_of(delivery, fields))
        self._flights[key] = flight
        if delivery.redelivered and flight.identity is not None and self._is_double(flight):
            return
        if self._received_hook:
            self._pool.hook("task_received", delivery)
        if self._verbose and fields:
            logger.info("Task %s[%s] received", *map(fields.get, ("task", "id")))
        now = admit(fields, options, time.time())
        run = Run(key, delivery, now.cause, now.detail, now.soft, now.hard)
        if now.wait > 0:
            self._held[key] = (run, self._loop.call_later(now.wait, self._release, run))
        else:
            self._pool.submit(run)

    def _release(self, run: Run) -> None:
        if self._held.pop(run.key, None) is not None:
            self._pool.submit(run)

    def _is_double(self, flight: Flight) -> bool:
        """True when this very message was started or finished here: the redelivery shares that run's outcome."""
        verdict = self._done_before.get(flight.identity)
        if verdict is not None:
            self.counters.doubles += 1
            logger.info("dropped a redelivery of %s: it ran here before", flight.identity)
            self._settle(flight, verdict)
            return True
        first = self._ghosts.get(flight.identity)
        if first is None:
            return False
        self.counters.doubles += 1
        if first.heir is not None:
            self._forget(first.heir)
        first.heir = flight
        return True

    # --- the pool's reports ------------------------------------------------------------------------------

    def started(self, key: int, pid: int, publish: Sequence[Parcel]) -> None:
        self.counters.started += 1
        flight = self._flights[key]
        flight.started = True
        for parcel in publish:
            self._publisher.post(parcel, partial(self._told, parcel))
        if not flight.options.acks_late:
            flight.acked = True
            self._done_before.add(flight.identity, Verdict.ACK)
            if not flight.void:
                flight.lane.settler.ack(flight.delivery.tag)
                flight.lane.released()

    def finished(self, key: int, outcome: Outcome) -> None:
        flight = self._flights[key]
        counters = self.counters
        counters.finished += 1
        flight.lane.finished += 1
        if outcome.state:
            counters.states[outcome.state] = counters.states.get(outcome.state, 0) + 1
        if not outcome.publish:
            self._settle(flight, outcome.verdict)
            return
        flight.verdict = outcome.verdict
        flight.unconfirmed = len(outcome.publish)
        for parcel in outcome.publish:
            self._publisher.post(parcel, partial(self._confirmed, flight, parcel))
        if self._publisher.saturated and not self._paused:
            self._paused = True
            self._pool.pause(paused=True)

    def lost(self, key: int, reason: str, innocent: bool, cause: Cause = Cause.LOST) -> None:
        """A child died. Late-acknowledged bystanders go back; for the rest a child writes the obituary."""
        self.counters.lost += 1
        flight = self._flights[key]
        flight.failed = True
        flight.losses += 1
        if flight.options.acks_late and (innocent or self._abandoning):
            self._settle(flight, Verdict.REQUEUE)
            return
        if self._abandoning and cause is Cause.TERMINATED:
            cause = Cause.LOST  # by the worker's end; nobody has revoked it
        if flight.losses > OBITUARIES:
            self._bury(flight, reason)
            return
        self._pool.submit(Run(key, flight.delivery, cause, reason))

    def _bury(self, flight: Flight, reason: str) -> None:
        """Its obituary kills children too: the message goes to the dead letters as it is, from here."""
        error = f"children died while they wrote what follows from this task, the last by {reason}"
        logger.error("%s: %s", flight.identity, error)
        dead = refused(flight.delivery, self._dead_exchange, reason="crashed", error=error, node=self._node)
        answer = told(flight.delivery, WorkerLost(error), self._serializer) if self._serializer else None
        publish = (dead,) if answer is None else (dead, answer)
        self.finished(flight.key, Outcome(publish=publish, state=states.FAILURE))

    # --- out ---------------------------------------------------------------------------------------------

    def room(self) -> None:
        """The publisher has room again."""
        if self._paused:
            self._paused = False
            self._pool.pause(paused=False)

    def _told(self, parcel: Parcel, error: TransportError | None) -> None:
        if error is not None:
            logger.debug("state update to %s not delivered: %s", parcel.routing_key, error)

    def _confirmed(self, flight: Flight, parcel: Parcel, error: TransportError | None) -> None:
        if error is not None and not self._excused(flight, parcel, error):
            return
        flight.unconfirmed -= 1
        if not flight.unconfirmed:
            self._settle(flight, flight.verdict)

    def _excused(self, flight: Flight, parcel: Parcel, error: TransportError) -> bool:
        """True when the message need not arrive; otherwise it was sent on to the dead letters, or will be again."""
        if parcel.fate == "drop" and not isinstance(error, Nacked):
            self.counters.undeliverable += 1
            logger.info("dropped a result for %s: %s", parcel.routing_key, error)
            return True
        if isinstance(error, TooLarge):
            logger.error("%s: the message is lost; see `broker_max_message_size`", error)
            return True
        if parcel.fate == "dead" and isinstance(error, Unroutable | NotFound):
            logger.error("%s: the message goes to the dead letters", error)
            dead = forwarded(
                parcel, self._dead_exchange, reason="unroutable", error=str(error), node=self._node
            )
            self._publisher.post(dead, partial(self._confirmed, flight, dead))
            return False
        # The delivery stays unacknowledged meanwhile, so nothing is lost if this worker dies first.
        logger.warning("%s: will be published again in a second", error)
        self._loop.call_later(1.0, self._publisher.post, parcel, partial(self._confirmed, flight, parcel))
        return False

    def _settle(self, flight: Flight, verdict: Verdict) -> None:
        """The only place that settles a late-acknowledged delivery."""
        heir = flight.heir
        if verdict is Verdict.REQUEUE:
            self._done_before.discard(flight.identity)  # to run again is what its redelivery is for
        else:
            # Whether the broker got an ack shows only when the connection is lost and the message comes again.
            self._done_before.add(flight.identity, verdict)
        if not flight.void and not flight.acked:
            settler, tag = flight.lane.settler, flight.delivery.tag
            flight.lane.released()
            if verdict is Verdict.ACK:
                settler.ack(tag)
            elif verdict is Verdict.REJECT:
                settler.reject(tag)
            else:
                settler.requeue(tag, flight.failed)
        self._forget(flight)
        if heir is not None:
            self._settle(heir, verdict)

    def _forget(self, flight: Flight) -> None:
        self._flights.pop(flight.key, None)
        if flight.void and self._ghosts.get(flight.identity) is flight:
            del self._ghosts[flight.identity]
        if not self._flights:
            self._idle.set()

    # --- endings -----------------------------------------------------------------------------------------

    def void(self, lane: Lane) -> None:
        """The lane's channel is gone: its tags are void, what has not started will be delivered again."""
        for flight in self._flights.values():
            if flight.lane is lane:
                flight.void = True
        for key in [key for key in self._held if self._flights[key].void]:
            _, timer = self._held.pop(key)
            timer.cancel()
            self._forget(self._flights[key])
        for run in self._pool.recall():
            flight = self._flights[run.key]
            if flight.void and not flight.started:
                self._forget(flight)
            else:
                self._pool.submit(run)
        for flight in self._flights.values():
            if flight.void and flight.identity is not None:
                self._ghosts.setdefault(flight.identity, flight)

    def give_back(self) -> int:
        """Return everything that has not started to the broker; how many that were."""
        returned = 0
        for run in self._take_back():
            flight = self._flights.get(run.key)
            if flight is None:
                continue
            if run.cause in (Cause.LOST, Cause.TIMEOUT, Cause.TERMINATED):
                self._pool.submit(run)  # started once: its obituary is owed
                continue
            returned += 1
            self._settle(flight, Verdict.REQUEUE)
        self.counters.returned += returned
        return returned

    def take_overdue(self, age: float) -> list[Flight]:
        """Take from the pool what came more than `age` seconds ago and has not started."""
        latest = self._loop.time() - age
        waiting = {
            key for key, flight in self._flights.items() if flight.since < latest and not flight.started
        }
        waiting.difference_update(self._held)
        if not waiting:
            return []
        overdue = []
        for run in self._pool.recall():
            flight = self._flights[run.key]
            if run.key in waiting and not flight.void:
                overdue.append(flight)
            else:
                self._pool.submit(run)
        return overdue

    def wait_on(self, flight: Flight) -> None:
        """Put back what `take_overdue` took."""
        self._pool.submit(Run(flight.key, flight.delivery))

    def abandon(self) -> None:
        """Kill the children that run tasks. Late-acknowledged tasks go back to the broker; of early ones, which
        the broker has forgotten, the caller is told FAILURE."""
        self._abandoning = True
        for key in list(self._pool.running):
            if not self._pool.terminate(key, "the worker was shut down cold"):
                logger.warning("a running task could not be stopped; the worker leaves it")

    def _take_back(self) -> list[Run]:
        held = list(self._held.values())
        self._held.clear()
        for _, timer in held:
            timer.cancel()
        return [run for run, _ in held] + self._pool.recall()

    async def settled(self) -> None:
        """Wait until nothing is in flight; the caller bounds it."""
        while self._flights:
            self._idle.clear()
            await self._idle.wait()

    def longest_running(self, lane: Lane) -> float:
        """Seconds that the lane's longest running task has taken so far."""
        now = self._loop.time()
        flights = self._flights
        mine = [
            start for key, start in self._pool.running.items() if key in flights and flights[key].lane is lane
        ]
        return now - min(mine) if mine else 0.0

    @property
    def in_flight(self) -> int:
        return len(self._flights)
