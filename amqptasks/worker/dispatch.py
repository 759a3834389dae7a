"""From a delivery to its settlement: admit, hand to the pool, publish what follows, wait for the confirms, settle.

The parent's centre. It moves bytes: it reads six headers, knows a task's static options from the manifest, and never
decodes a body or runs user code. All methods run in the loop's thread.

The order that promise 2 stands on: an outcome's messages are confirmed before its delivery is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

from amqptasks import states
from amqptasks.amqp import Delivery, Parcel
from amqptasks.errors import Nacked, NotFound, TooLarge, TransportError, Unroutable
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.admission import REVOKED, Admission, admit, fields_of, identity_of, may_be_there_twice
from amqptasks.worker.counting import Counting
from amqptasks.worker.deadletters import KILLS_TWICE, buried, forwarded
from amqptasks.worker.doubles import Doubles
from amqptasks.worker.flight import UNKNOWN_TASK, Counters, Flight, Watched
from amqptasks.worker.holding import Holding
from amqptasks.worker.lane import Lane
from amqptasks.worker.late_results import LateResults
from amqptasks.worker.outcome import Cause, Manifest, Outcome, Run, TaskOptions, Verdict
from amqptasks.worker.pools.base import Pool
from amqptasks.worker.replies import Replies
from amqptasks.worker.revoked import Revoked

logger = logging.getLogger(__name__)

OBITUARIES = 3
"""Children that may die on one message before its obituary is written without the user's code; the next one that
dies has the parent give up."""
OWED = (Cause.SPENT, Cause.BURIED, Cause.LOST, Cause.TIMEOUT, Cause.TERMINATED)
"""Obituaries of what was started once, or would be a dead letter of the broker's if it were given back."""


class Dispatch:
    """Implements the pool's `Report`."""

    def __init__(self, pool: Pool, node: str) -> None:
        self.pool = pool
        self._publisher: Publisher
        self._replies: Replies
        self.tasks: Mapping[str, TaskOptions] = {}
        self._node = node
        self.began = self.ended = 0.0
        self._dead_exchange = self._serializer = ""
        self._abandoning = False
        self._verbose = False
        self.received_hook = False
        self._loop = asyncio.get_running_loop()
        self._keys = count(1)
        self.flights: dict[int, Flight] = {}
        self.holding = Holding(self._let_go, self._has_started)
        self.rates = self.holding.rates
        self.revoked = Revoked()
        self.events: Watched | None = None
        """While task events are on."""
        self._limited = self.rates.turns
        self._doubles = Doubles(self._forget)
        self._paused = False
        self._idle = asyncio.Event()
        self.counters = Counters()

    def begin(self, publisher: Publisher, manifest: Manifest) -> None:
        """The pool has started and told what it knows; deliveries may come now."""
        late = LateResults(publisher, manifest)
        self._publisher, self._following = publisher, Counting(late, manifest.internal)
        self._replies = Replies.of(late, manifest.settings)
        self._verbose = logger.isEnabledFor(logging.INFO)
        self.received_hook = "task_received" in manifest.hooks
        self.tasks = manifest.tasks
        self._dead_exchange = manifest.settings["task_dead_letter_exchange"]
        by_message = manifest.results.startswith("rpc")
        self._serializer = manifest.settings["result_serializer"] if by_message else ""
        for name, options in manifest.tasks.items():
            self.rates.change(name, options.rate_limit)

    # --- in ----------------------------------------------------------------------------------------------

    def receive(self, lane: Lane, delivery: Delivery) -> None:
        """Take a delivery: run it, hold it until its second or its turn comes, or have its obituary written."""
        self.counters.received += 1
        lane.took()
        fields = fields_of(delivery)
        options = self.tasks.get(fields.get("task", ""), UNKNOWN_TASK)
        key = next(self._keys)
        flight = Flight(key, delivery, lane, options, self._loop.time(), identity_of(delivery, fields))
        self.flights[key] = flight
        flight.climbed = may_be_there_twice(delivery)
        again = delivery.redelivered or flight.climbed
        if again and flight.identity is not None and self._is_double(flight):
            return
        if self.received_hook:
            self.pool.hook("task_received", delivery)
        if self._verbose and fields:
            logger.info("Task %s[%s] received", *map(fields.get, ("task", "id")))
        now = admit(fields, options, time.time())
        if again and now.cause is Cause.RUN and (spent := lane.spent(delivery)):
            now = Admission(Cause.SPENT, spent)
        if self.revoked.any and self.revoked.covers(fields.get("id"), delivery):
            now = REVOKED
        if self.events is not None:
            self.events.received(fields, delivery)
        run = Run(key, delivery, now.cause, now.detail, now.soft, now.hard, self.events is not None)
        if now.wait > 0 or options.name in self._limited:
            self.holding.add(options.name, run, now.wait)
        else:
            self.pool.submit(run)

    def _let_go(self, run: Run) -> None:
        """It was held; meanwhile it may have expired."""
        now = admit(fields_of(run.delivery), self.flights[run.key].options, time.time())
        self.pool.submit(replace(run, cause=Cause.EXPIRED) if now.cause is Cause.EXPIRED else run)

    def _has_started(self, key: int) -> bool:
        flight = self.flights.get(key)
        return flight is None or flight.started

    def _is_double(self, flight: Flight) -> bool:
        """True when this very message was started or finished here: the redelivery shares that run's outcome."""
        verdict = self._doubles.done.get(flight.identity)
        if verdict is not None:
            self.counters.doubles += 1
            logger.info("dropped a redelivery of %s: it ran here before", flight.identity)
            self._settle(flight, verdict)
            return True
        joined = self._doubles.join(flight)
        self.counters.doubles += joined
        return joined

    # --- the pool's reports ------------------------------------------------------------------------------

    def started(self, key: int, pid: int, publish: Sequence[Parcel]) -> None:
        self.counters.started += 1
        flight = self.flights[key]
        flight.started, flight.pid = True, pid
        if self.events is not None:
            self.events.started(flight)
        tasks = self.counters.tasks
        tasks[flight.options.name] = tasks.get(flight.options.name, 0) + 1
        for parcel in publish:
            self._publisher.post(parcel, partial(self._told, parcel))
        if not flight.options.acks_late:
            flight.acked = True
            self._doubles.done.add(flight.identity, Verdict.ACK)
            if not flight.void:
                flight.lane.settler.ack(flight.delivery.tag)
                flight.lane.released()

    def finished(self, key: int, outcome: Outcome) -> None:
        flight = self.flights[key]
        if outcome.event and self.events is not None:
            self.events.finished(flight, outcome.event)
        self.counters.ended(flight, outcome)
        flight.lane.finished += 1
        if outcome.state == states.IGNORED:
            self._doubles.renounce(flight)
        if not outcome.publish:
            self._settle(flight, outcome.verdict)
            return
        flight.verdict = outcome.verdict
        if len(outcome.publish) == 1 and outcome.publish[0].fate == "drop":  # a result and nothing else
            flight.unconfirmed = 1
            self._replies.post(outcome.publish[0], partial(self._confirmed, flight, outcome.publish[0]))
        else:
            flight.unconfirmed = len(outcome.publish)
            for parcel in outcome.publish:
                self._following.post(parcel, partial(self._confirmed, flight, parcel))
        if self._publisher.saturated and not self._paused:
            self._paused = True
            self.pool.pause(paused=True)

    def lost(self, key: int, reason: str, innocent: bool, cause: Cause = Cause.LOST) -> None:
        """A child died. Late-acknowledged bystanders go back; for the rest a child writes the obituary."""
        self.counters.lost += 1
        flight = self.flights[key]
        flight.failed = True
        flight.losses += 1
        if flight.options.acks_late and (innocent or self._abandoning):
            self._settle(flight, Verdict.REQUEUE)
            return
        if self._abandoning and cause is Cause.TERMINATED:
            cause = Cause.LOST  # by the worker's end; nobody has revoked it
        if flight.losses > OBITUARIES:
            cause, reason = Cause.BURIED, KILLS_TWICE.format(reason)
        if flight.losses > OBITUARIES + 1:
            self._bury(flight, reason)
            return
        self.pool.submit(Run(key, flight.delivery, cause, reason, watch=self.events is not None))

    def _bury(self, flight: Flight, error: str) -> None:
        """Its obituary kills children too: the message goes to the dead letters as it is, from here."""
        logger.error("%s: %s", flight.identity, error)
        publish = buried(flight.delivery, self._dead_exchange, error, self._node, self._serializer)
        self.finished(flight.key, Outcome(publish=publish, state=states.FAILURE))

    # --- out ---------------------------------------------------------------------------------------------

    def room(self) -> None:
        """The publisher has room again."""
        if self._paused:
            self._paused = False
            self.pool.pause(paused=False)

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
        self._loop.call_later(1.0, self._following.post, parcel, partial(self._confirmed, flight, parcel))
        return False

    def _settle(self, flight: Flight, verdict: Verdict) -> None:
        """The only place that settles a late-acknowledged delivery."""
        heir = flight.heir
        if verdict is Verdict.REQUEUE:
            self._doubles.done.discard(flight.identity)  # to run again is what its redelivery is for
        else:
            # Whether the broker got an ack shows only when the connection is lost and the message comes again.
            self._doubles.done.add(flight.identity, verdict)
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
        if heir is None:
            return
        if verdict is Verdict.REQUEUE and not flight.void:
            self._settle(heir, Verdict.ACK)  # both are on the broker: one of them is enough
            self._doubles.done.discard(flight.identity)
        else:
            self._settle(heir, verdict)

    def _forget(self, flight: Flight) -> None:
        self.flights.pop(flight.key, None)
        if flight.void or flight.climbed:
            self._doubles.forget(flight)
        if not self.flights:
            self._idle.set()

    # --- endings -----------------------------------------------------------------------------------------

    def void(self, lane: Lane) -> None:
        """The lane's channel is gone: its tags are void, what has not started will be delivered again."""
        for flight in self.flights.values():
            if flight.lane is lane:
                flight.void = True
        for run in self.holding.take_back({key for key, flight in self.flights.items() if flight.void}):
            self._drop(self.flights[run.key])
        for run in self.pool.recall():
            flight = self.flights[run.key]
            if flight.void and not flight.started:
                self._drop(flight)
            else:
                self.pool.submit(run)
        for flight in self.flights.values():
            if flight.void:
                self._doubles.expect(flight)

    def _drop(self, flight: Flight) -> None:
        """Its channel is gone and it has not started: its redelivery is another flight, and so are its heirs'."""
        heir = flight.heir
        self._forget(flight)
        if heir is not None:
            self._drop(heir)

    def give_back(self) -> int:
        """Return everything that has not started to the broker; how many that were."""
        returned = 0
        for run in self.holding.take_back() + self.pool.recall():
            flight = self.flights.get(run.key)
            if flight is None:
                continue
            if run.cause in OWED:
                self.pool.submit(run)
                continue
            returned += 1
            self._settle(flight, Verdict.REQUEUE)
        self.counters.returned += returned
        return returned

    def take_back(self, keys: Collection[int]) -> list[Run]:
        """Take out those of `keys` that have not started."""
        taken = self.holding.take_back(keys)
        for run in self.pool.recall():
            if run.key in keys:
                taken.append(run)
            else:
                self.pool.submit(run)
        return taken

    def wait_on(self, run: Run) -> None:
        """Put back what `take_back` took."""
        self.holding.add(self.flights[run.key].options.name, run)

    def abandon(self) -> None:
        """Kill the children that run tasks. Late-acknowledged tasks go back to the broker; of early ones, which
        the broker has forgotten, the caller is told FAILURE."""
        self._abandoning = True
        for key in list(self.pool.running):
            if not self.pool.terminate(key, "the worker was shut down cold"):
                logger.warning("a running task could not be stopped; the worker leaves it")

    async def settled(self) -> None:
        """Wait until nothing is in flight; the caller bounds it."""
        while self.flights:
            self._idle.clear()
            await self._idle.wait()

    @property
    def in_flight(self) -> int:
        return len(self.flights)
