"""All that an observer knows at the moment, under one lock: calls, workers, queues, history, the connection. No I/O."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from amqptasks.monitor.calls import Calls
from amqptasks.monitor.depots import Depots
from amqptasks.monitor.fleet import Fleet
from amqptasks.monitor.history import History, percentiles
from amqptasks.monitor.management import Told
from amqptasks.monitor.snapshot import Overview, QueueRow, WorkerRow

LATELY = 3
"""Turns over which rates are taken."""
SILENCE = 60.0
"""Seconds without task events after which it is told that there are none."""
OUTCOMES = ("succeeded", "failed", "retried", "revoked", "rejected")
KINDS = ("sent", "received", "started", *OUTCOMES)


class Known:
    """Written by the thread that watches, read by all others; `lock` is held for moments only."""

    def __init__(self, broker: str, calls: int, history: History, depots: Depots) -> None:
        self.lock = threading.Lock()
        self.calls = Calls(calls)
        self.fleet = Fleet()
        self.depots = depots
        self.history = history
        self.told: Callable[[], Told] = Told
        self.changed: set[str] = set()
        """Workers that have answered an order, and what they do may differ from what is known."""
        self._broker = broker
        self._product = ""
        self._message = "not connected yet"
        self._seen = 0.0
        """When the broker was there for the last time: what is known is as old as that."""
        self._turns: deque[tuple[float, Counter[str]]] = deque(maxlen=LATELY)
        self._turned = time.monotonic()
        self._heard = 0.0
        self._dropped = False
        self._alarm = ""

    # --- written -----------------------------------------------------------------------------------------

    def connected(self, product: str) -> None:
        with self.lock:
            self._product, self._message, self._seen = product, "", time.time()
            # What happened meanwhile was not seen: it is no rate.
            self._turns.clear()
            self.calls.turn(1.0)
            self._turned = time.monotonic()

    def disconnected(self, why: str) -> None:
        with self.lock:
            self._message = why or "the connection was lost"

    def event(self, event: Any) -> None:
        """Take in what may be an event; the lock is held by the caller, who has many of them."""
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        if kind.startswith("worker-"):
            self.fleet.take(event)
        else:
            self.calls.take(event)

    def turn(self, *, dropped: bool, alarm: str = "") -> None:
        """An interval is over: make its point of the charts."""
        with self.lock:
            now, clock = time.time(), time.monotonic()
            seconds, self._turned = clock - self._turned, clock
            counts, runtimes, waits = self.calls.turn(seconds)
            self._turns.append((seconds, counts))
            self._seen, self._dropped, self._alarm = now, dropped, alarm
            if counts:
                self._heard = now
            self.fleet.forget_gone(now)
            rates = self._rates(now)
            workers = {"online": float(self.fleet.online(now)), "active": float(self._active(now))}
            point: dict[str, Mapping[str, float]] = {
                "throughput": {name: rates[name] for name in ("started", *OUTCOMES) if name in rates},
                "runtime": percentiles(runtimes),
                "wait": percentiles(waits),
                "depth": self.depots.ready(),
                "workers": workers,
            }
            self.history.add(now, point)

    # --- read --------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The moment that what is known is of; workers do not die because the observer is blind."""
        return self._seen if self._message else max(self._seen, time.time())

    def overview(self) -> Overview:
        told = self.told()
        queues, workers = self.queues(internal=False), self.workers()
        with self.lock:
            states, now = self.calls.states(), self.now
            unacked = [row.unacked for row in queues if row.unacked is not None]
            online = [row for row in workers if row.alive]
            return Overview(
                at=time.time(),
                broker=self._broker,
                product=self._product,
                connected=not self._message,
                message=self._message,
                alarm=self._alarm,
                management=told.available,
                management_message=told.message,
                states=states,
                rates=self._rates(now),
                events=sum(sum(counts.values()) for _, counts in self._turns) / self._span,
                sampled=self.calls.sampling.n,
                dropped=self._dropped,
                task_events=now - self._heard < SILENCE,
                workers_online=len(online),
                workers_known=len(workers),
                active=sum(row.active or 0 for row in online),
                reserved=sum(row.reserved or 0 for row in online),
                processed=sum(row.processed or 0 for row in online),
                ready=sum(row.ready or 0 for row in queues),
                unacked=sum(unacked) if unacked else None,
                dead=self.depots.dead(),
                unconsumed=tuple(row.name for row in queues if row.nobody_consumes),
            )

    def queues(self, *, internal: bool) -> tuple[QueueRow, ...]:
        told = self.told()
        with self.lock:
            return self.depots.rows(told, self.fleet.consumed(self.now), internal=internal)

    def workers(self) -> tuple[WorkerRow, ...]:
        with self.lock:
            return self.fleet.rows(self.now)

    @property
    def _span(self) -> float:
        return max(sum(seconds for seconds, _ in self._turns), 1e-3)

    def _active(self, now: float) -> int:
        return sum(row.active or 0 for row in self.fleet.rows(now) if row.alive)

    def _rates(self, now: float) -> dict[str, float]:
        """By what happened. Where events were thrown away, what is left is scaled by what workers say they started."""
        span, counts = self._span, Counter[str]()
        for _, each in self._turns:
            counts.update(each)
        started, seen = self.fleet.started(now), counts["started"] / span
        factor = started / seen if self._dropped and started is not None and started > seen > 0 else 1.0
        heard = now - self._heard < SILENCE
        rates = {name: counts[name] / span * factor for name in KINDS if counts[name] or heard}
        if started is not None:
            rates["started"] = started
        return rates
