"""Dramatiq: two processes of eight threads. It has no results over RabbitMQ, acknowledges late, uses classic queues."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from mode import CONCURRENCY, Mode

from contenders.base import program

THREADS = 8


class Dramatiq:
    name = "dramatiq"
    late_only = True
    has_results = False
    quorum = False
    has_batches = False
    has_events = False
    pools = frozenset({"threads"})

    def version(self) -> list[str]:
        return [program("dramatiq"), "--version"]

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        command = [program("dramatiq"), "apps.on_dramatiq", "-p", str(CONCURRENCY)]
        if mode.pool is not None:
            command += ["-t", str(mode.slots // CONCURRENCY)]
        if mode.prefetch is None:
            return command, {}
        return command, {"dramatiq_queue_prefetch": str(mode.prefetch // CONCURRENCY)}

    def described(self, mode: Mode) -> dict[str, str]:
        threads = THREADS * CONCURRENCY if mode.pool is None else mode.slots
        return {
            "prefetch": str(2 * threads if mode.prefetch is None else mode.prefetch),
            "queue": "classic",
            "delivery": "persistent",
            "ack": "late",
        }

    def client_send(self) -> Callable[[], object]:
        from apps.on_dramatiq import noop

        return noop.send

    def client_send_short(self) -> Callable[[float], object]:
        from apps.on_dramatiq import short

        return short.send

    def client_send_long(self) -> Callable[[float], object]:
        from apps.on_dramatiq import long

        return long.send

    def client_batch(self, count: int) -> None:
        raise NotImplementedError("it has no batches")

    def client_call(self) -> Callable[[], object]:
        raise NotImplementedError("Dramatiq has no results over RabbitMQ")

    def client_group(self, count: int) -> None:
        raise NotImplementedError("Dramatiq has no results over RabbitMQ")

    def client_gather(self, count: int) -> None:
        raise NotImplementedError("Dramatiq has no results over RabbitMQ")

    def client_chain(self) -> Callable[[int], Callable[[], int]]:
        raise NotImplementedError("Dramatiq has no results over RabbitMQ")

    def client_chord(self) -> Callable[[int], Callable[[], int]]:
        raise NotImplementedError("Dramatiq has no results over RabbitMQ")

    def client_together(self) -> Callable[[], AbstractContextManager[object]]:
        return nullcontext

    def client_send_late(self) -> Callable[[float, float], object]:
        from apps.on_dramatiq import late

        return lambda seconds, due: late.send_with_options(args=(due,), delay=int(seconds * 1000))

    def client_send_failing(self) -> Callable[[], object]:
        from apps.on_dramatiq import fails_twice

        return fails_twice.send

    def client_send_waiting(self) -> Callable[[float], object]:
        from apps.on_dramatiq import waits

        return waits.send
