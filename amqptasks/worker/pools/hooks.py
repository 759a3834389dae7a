"""The helper child: sends the worker's own signals to the app's receivers, carries out the app's own commands, in
order, and runs no tasks.

Forked when the first signal is due that the app listens to, or for the first command. What it is told is told once:
if a receiver or a command kills the child, the next one goes on with what comes after that.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from amqptasks.amqp import Delivery
from amqptasks.errors import PoolFailed
from amqptasks.worker.outcome import Cause, Run
from amqptasks.worker.pools import ends, wire
from amqptasks.worker.pools.slot import BURST, Slot

if TYPE_CHECKING:
    from amqptasks.worker.pools.spawner import Spawner

logger = logging.getLogger(__name__)

MOST = 10_000
"""Signals that may wait; receivers that are slower than the worker miss the oldest."""

FAILED_STARTS = 3
"""Children in a row that may end before they are ready."""

NEVER_STARTS = "the process for the app's own signals and commands cannot start; the worker's log says why"

NO_DELIVERY = Delivery("", 0, 0, redelivered=False, exchange="", routing_key="", header=b"", body=b"")


def saying(**named: object) -> Delivery:
    """Return what a signal's receivers are given by name: values of JSON."""
    return replace(NO_DELIVERY, body=json.dumps(named).encode())


class Hooks:
    """Used in the loop only. `spawn` orders a child whose words go to the function it is given."""

    def __init__(self, spawn: Callable[[Callable[[Slot], None]], Slot | None]) -> None:
        self._spawn = spawn
        self.known: frozenset[str] = frozenset()
        """The signals that somebody listens to."""
        self._keys = count(1)
        self._due: deque[Run] = deque()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._slot: Slot | None = None
        self._told_missed = False
        self._failures = 0

    def send(self, signal: str, delivery: Delivery | None) -> None:
        """Have the receivers of `signal` called, after those of all earlier ones; nothing for one that has none."""
        if signal not in self.known or self._failures >= FAILED_STARTS:
            return
        if len(self._due) >= MOST:
            self._due.popleft()
            if not self._told_missed:
                self._told_missed = True
                logger.warning("receivers of the worker's signals are too slow; they miss some")
        self._due.append(Run(next(self._keys), delivery or NO_DELIVERY, Cause.HOOK, signal))
        self._go_on()

    async def ask(self, command: str, arguments: bytes, limit: float) -> bytes:
        """See `Pool.command`."""
        if self._failures >= FAILED_STARTS:
            raise PoolFailed(NEVER_STARTS)
        run = Run(next(self._keys), replace(NO_DELIVERY, body=arguments), Cause.COMMAND, command)
        answer = self._asked[run.key] = asyncio.get_running_loop().create_future()
        self._due.append(run)
        self._go_on()
        try:
            return await asyncio.wait_for(answer, limit)
        except TimeoutError:
            self._give_up(run)
            raise
        finally:
            del self._asked[run.key]

    def _give_up(self, run: Run) -> None:
        """Nobody waits any more: kill the child if that is what it does, else leave it undone."""
        slot = self._slot
        if slot is not None:
            self._hear(slot)
            self._due.extendleft(reversed(slot.take_back()))
            if run.key in slot.held:
                slot.complaint = f"the command {run.detail} took longer than it may"
                slot.kill()
        if run in self._due:
            self._due.remove(run)
        self._go_on()

    def owns(self, number: int) -> bool:
        return self._slot is not None and self._slot.number == number

    def born(self, pidfd: int | None) -> None:
        if self._slot is not None:
            self._slot.pidfd = pidfd

    def died(self, reason: str) -> None:
        """Go on with another child, unless this one was told to end or never came up."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        self._hear(slot, burst=1 << 30)
        self._due.extendleft(reversed(slot.close()))
        self._answer_for(slot, slot.complaint or reason)
        if slot.leaving:
            self._go_on()  # what came meanwhile, if the pool lives on
            return
        logger.error("the child that sends the worker's signals ended: %s", slot.complaint or reason)
        self._failures = 0 if slot.ready else self._failures + 1
        if self._failures >= FAILED_STARTS:
            logger.error("the worker's signals are no longer sent: their child cannot start")
            self._due.clear()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(PoolFailed(NEVER_STARTS))
            return
        self._go_on()

    def _answer_for(self, slot: Slot, reason: str) -> None:
        """Its child has died with these in hand."""
        for key in slot.held:
            answer = self._asked.get(key)
            if answer is not None and not answer.done():
                answer.set_exception(PoolFailed(f"its process ended: {reason}"))

    def dismiss(self, known: frozenset[str] | None = None) -> None:
        """Let it end after all that is due; of the next one's signals these are `known`."""
        if known is not None:
            self.known = known
        slot = self._slot
        if slot is None or slot.leaving:
            return
        while self._due:
            slot.hand(self._due.popleft())
        slot.leave()

    def kill(self) -> None:
        if self._slot is not None:
            self._slot.kill()

    @property
    def spawner(self) -> Spawner | None:
        """The zygote that its child came from, if there is one."""
        return self._slot.spawner if self._slot is not None else None

    @property
    def alive(self) -> bool:
        return self._slot is not None

    def _go_on(self) -> None:
        if self._slot is None and self._due:
            self._slot = self._spawn(self._read)
        slot = self._slot
        while slot is not None and self._due and slot.has_room(ends.window()):
            slot.hand(self._due.popleft())

    def _read(self, slot: Slot) -> None:
        self._hear(slot)
        self._go_on()

    def _hear(self, slot: Slot, burst: int = BURST) -> None:
        for message in slot.receive(burst):
            if message[0] & wire.FAILED:
                slot.complaint = wire.decode_failed(message)
            elif message[0] & wire.READY:
                slot.came_up(wire.decode_ready(message))
            else:
                _, finished, _ = wire.decode_report(message)
                if finished is None:
                    continue
                key, outcome, _ = finished
                slot.finished(key)
                answer = self._asked.get(key)
                if answer is not None and not answer.done():
                    answer.set_result(outcome.publish[0].body)
