"""A worker's child for tests: takes messages off an app's queues, runs them with the real executor, in this thread."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from amqptasks import App, late_parts
from amqptasks.amqp import Address, Delivery
from amqptasks.canvas.parts import INTERNAL, internal_key
from amqptasks.errors import NotFound, PublishError
from amqptasks.transport import codec
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Cause, Outcome, Run

LONGEST = 60.0


def gone(app: App, queue: str) -> bool:
    try:
        app.connection.inspect(queue)
    except NotFound:
        return True
    return False


def called(delivery: Delivery) -> str:
    return str((codec.decode_header(delivery.header).headers or {})["task"])


def eventually(condition: Callable[[], Any], what: str = "it did not come true in time") -> Any:
    """Wait for what other threads do; return what came of it."""
    deadline = time.monotonic() + LONGEST
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return found


class Work:
    """Call it to run what lies in a queue; `outcomes` holds what came of it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.outcomes: list[Outcome] = []
        self.deliveries: list[Delivery] = []
        self._keys = itertools.count(1)
        self._executor: Executor | None = None

    def __call__(self, count: int | None = None, queue: str = "amqptasks") -> int:
        """Run `count` messages, waiting for each; without a count, those that are there. Return how many ran."""
        ran = 0
        while count is None or ran < count:
            delivery = self.take(queue, LONGEST if count is not None else 0.0)
            if delivery is None:
                assert count is None, f"only {ran} of {count} messages came within {LONGEST} s"
                return ran
            self.run(delivery)
            ran += 1
        return ran

    def all(self, *queues: str) -> int:
        """Run everything, the workers' own calls included, until nothing is left; return how many ran."""
        names = queues or ("amqptasks", "amqptasks.internal")
        total = 0
        while ran := sum(self(queue=queue) for queue in names):
            total += ran
        return total

    def take(self, queue: str, seconds: float) -> Delivery | None:
        """Return the next message; wait for it until a deadline."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                delivery = self.app.connection.get(queue)
            except NotFound:
                delivery = None
            if delivery is not None or time.monotonic() >= deadline:
                return delivery

    def run(self, delivery: Delivery, cause: Cause = Cause.RUN) -> Outcome:
        self._executor = self._executor or Executor(self.app, "w1@test")
        self.deliveries.append(delivery)
        outcome = self._executor.run(Run(next(self._keys), delivery, cause), self._publish)
        self.outcomes.append(outcome)
        self._publish(outcome.publish)
        return outcome

    def close(self) -> None:
        """End what the child has opened: the loop of its coroutines."""
        if self._executor is not None:
            self._executor.close()

    def _publish(self, parcels: object) -> None:
        if not parcels:
            return
        try:
            self.app.connection.publish(list(parcels))  # type: ignore[call-overload]
        except PublishError as error:  # as the parent does
            if any(each.fate != "part" for each in error.envelopes):
                raise
            internal = Address(INTERNAL, internal_key(self.app.conf))
            self.app.connection.publish(
                [late_parts.call(codec.pack(each), internal) for each in error.envelopes]
            )
