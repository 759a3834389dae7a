"""How long the broker lets a delivery wait for its acknowledgement, against how long tasks may take.

RabbitMQ's `consumer_timeout` takes a message from a consumer that has not acknowledged it in time: up to 4.2 by closing
the channel, from 4.3 on by cancelling the consumer, of quorum queues only. It cannot be asked for; the setting
`broker_consumer_timeout` says what it is. Where a worker may ask for more, it does; elsewhere it says how to. Pure:
reads the manifest and a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

from amqptasks.amqp import Arguments, Entity, Queue
from amqptasks.worker.outcome import Manifest, TaskOptions, WorkerQueue

ARGUMENT = "x-consumer-timeout"
OF_QUEUES = (3, 12)
"""The version from which a queue may have a timeout of its own."""
OF_CONSUMERS = (4, 3)
"""The version from which a consumer of a quorum queue asks for it."""
OURS = ("amqptasks.", "celery.")
"""How the names of the tasks begin that every app has."""
SHOWN = 5

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """`timeout` is the broker's, in seconds; 0: it has none."""

    timeout: float
    long: tuple[str, ...] = ()
    """Tasks, acknowledged late, whose time limit is beyond the timeout."""
    endless: tuple[str, ...] = ()
    """Tasks, acknowledged late, without a time limit."""
    needed: int = 0
    """Milliseconds after which the longest run is over, waiting included; 0: the timeout is enough."""

    @classmethod
    def of(cls, manifest: Manifest) -> Patience:
        timeout = float(manifest.settings["broker_consumer_timeout"])
        late = {name: task for name, task in manifest.tasks.items() if _is_late(name, task)}
        limits = {name: task.time_limit for name, task in late.items() if task.time_limit}
        if not timeout or not late:
            return cls(timeout)
        # What has not started after half of the timeout is given back: see `overdue`.
        needed = timeout / 2 + max(limits.values(), default=0.0)
        return cls(
            timeout,
            tuple(sorted(name for name, limit in limits.items() if limit >= timeout)),
            tuple(sorted(late.keys() - limits.keys())),
            ceil(needed * 1000) if needed > timeout else 0,
        )

    def asked(self, queue: WorkerQueue, version: Version) -> WorkerQueue:
        """The queue as a worker declares and consumes it on that version, so that the broker waits for long enough."""
        if not self.needed or version < OF_QUEUES:
            return queue
        if version < OF_CONSUMERS:
            return replace(
                queue, declare=tuple(self._patient(entity, queue.name) for entity in queue.declare)
            )
        if not _is_quorum(queue):
            return queue  # no timeout there
        arguments = {ARGUMENT: self.needed, **queue.consumer_arguments}
        return replace(queue, consumer_arguments=arguments)

    def _patient(self, entity: Entity, name: str) -> Entity:
        if not isinstance(entity, Queue) or entity.name != name:
            return entity
        return replace(entity, arguments={ARGUMENT: self.needed, **entity.arguments})

    def warning(self, version: Version) -> str:
        """What an operator has to do, if anything; empty on 4.3 and later, where the worker asks for what it needs."""
        if not self.long or not version or version >= OF_CONSUMERS:
            return ""
        risk = (
            f"{_named(self.long)} may run longer than the {self.timeout:g} s after which RabbitMQ takes back what is "
            "not acknowledged (consumer_timeout), and would be delivered again while it runs; "
        )
        if version < OF_QUEUES:
            return (
                f"{risk}write consumer_timeout = {self.needed} into rabbitmq.conf, and tell workers by "
                f"broker_consumer_timeout = {self.needed // 1000}"
            )
        return (
            f"{risk}a queue that this worker declares gets {ARGUMENT}, for one that exists: rabbitmqctl set_policy "
            f"--apply-to queues patient '^NAME$' '{{\"consumer-timeout\": {self.needed}}}'"
        )

    def remark(self) -> str:
        """What is worth knowing and no mistake; else empty."""
        if not self.timeout or not self.endless:
            return ""
        return (
            f"acknowledged late and without a time_limit: {_named(self.endless)}; what runs longer than "
            f"{self.timeout:g} s (consumer_timeout) is delivered again, and not run twice by this worker"
        )


def without(arguments: Mapping[str, object]) -> Arguments:
    """Consumer arguments for a queue that turns out to be a classic one, which takes no timeout."""
    return {name: value for name, value in arguments.items() if name != ARGUMENT}


def _is_late(name: str, task: TaskOptions) -> bool:
    return task.acks_late and not name.startswith(OURS)


def _is_quorum(queue: WorkerQueue) -> bool:
    return any(
        isinstance(entity, Queue)
        and entity.name == queue.name
        and entity.arguments.get("x-queue-type") == "quorum"
        for entity in queue.declare
    )


def _named(tasks: Iterable[str]) -> str:
    names = list(tasks)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
