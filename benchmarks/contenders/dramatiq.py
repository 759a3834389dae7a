"""Dramatiq: two processes of eight threads. It has no results over RabbitMQ, acknowledges late, uses classic queues."""

from __future__ import annotations

from collections.abc import Callable

from mode import CONCURRENCY, Mode

from contenders.base import program

THREADS = 8


class Dramatiq:
    name = "dramatiq"
    late_only = True
    has_results = False
    quorum = False
    has_batches = False

    def version(self) -> list[str]:
        return [program("dramatiq"), "--version"]

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        command = [program("dramatiq"), "apps.on_dramatiq", "-p", str(CONCURRENCY)]
        if mode.prefetch is None:
            return command, {}
        return command, {"dramatiq_queue_prefetch": str(mode.prefetch // CONCURRENCY)}

    def described(self, mode: Mode) -> dict[str, str]:
        return {
            "prefetch": str(2 * THREADS * CONCURRENCY if mode.prefetch is None else mode.prefetch),
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
