"""Celery, its prefork pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from mode import CONCURRENCY, Mode

from contenders.base import program


class Celery:
    name = "celery"
    late_only = False
    has_results = True
    quorum = True
    has_batches = False
    has_events = True
    pools = frozenset({"threads"})

    def version(self) -> list[str]:
        return [program("celery"), "--version"]

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        command = [
            program("celery"),
            "-A",
            "apps.on_celery",
            "worker",
            "-c",
            str(mode.slots),
            "-l",
            "WARNING",
        ]
        if mode.pool is not None:
            command += ["-P", mode.pool]
        if mode.events:
            command += ["-E"]
        if mode.prefetch is not None:
            command += ["--prefetch-multiplier", str(mode.prefetch // CONCURRENCY)]
        return command, {"C_FORCE_ROOT": "1"}

    def described(self, mode: Mode) -> dict[str, str]:
        return {
            "prefetch": str(4 * mode.slots if mode.prefetch is None else mode.prefetch),
            "queue": mode.queue_type or "classic",
            "delivery": "persistent",
            "ack": "late" if mode.late else "early",
        }

    def client_send(self) -> Callable[[], object]:
        from apps.on_celery import noop

        return noop.delay

    def client_send_short(self) -> Callable[[float], object]:
        from apps.on_celery import short

        return short.delay

    def client_send_long(self) -> Callable[[float], object]:
        from apps.on_celery import long

        return long.delay

    def client_batch(self, count: int) -> None:
        raise NotImplementedError("it has no batches")

    def client_call(self) -> Callable[[], object]:
        from apps.on_celery import noop

        return lambda: noop.delay().get(timeout=30)

    def client_group(self, count: int) -> None:
        from apps.on_celery import noop
        from celery import group

        group([noop.s() for _ in range(count)]).apply_async().get(timeout=120)

    def client_gather(self, count: int) -> None:
        from apps.on_celery import noop
        from celery.result import ResultSet

        # It has no asyncio client, and its results come to the thread that called: one after the other, then all.
        ResultSet([noop.delay() for _ in range(count)]).get(timeout=120)

    def client_chain(self) -> Callable[[int], Callable[[], int]]:
        from apps.on_celery import plus
        from celery import chain

        def start(steps: int) -> Callable[[], int]:
            result = chain(plus.s(0, 1), *(plus.s(1) for _ in range(steps - 1))).apply_async()
            return lambda: result.get(timeout=120)

        return start

    def client_chord(self) -> Callable[[int], Callable[[], int]]:
        from apps.on_celery import plus, total
        from celery import chord

        def start(members: int) -> Callable[[], int]:
            result = chord([plus.s(0, 1) for _ in range(members)], total.s()).apply_async()
            return lambda: result.get(timeout=500)

        return start

    def client_together(self) -> Callable[[], AbstractContextManager[object]]:
        return nullcontext

    def client_ping(self) -> Callable[[list[str]], int]:
        from apps.on_celery import app

        return lambda names: len(app.control.inspect(names, timeout=10.0, limit=len(names)).ping() or {})

    def ping(self, names: list[str]) -> list[str]:
        return [program("celery"), "-A", "apps.on_celery", "inspect", "ping", "-d", ",".join(names)]

    def client_send_late(self) -> Callable[[float, float], object]:
        from apps.on_celery import late

        return lambda seconds, due: late.apply_async((due,), countdown=seconds)

    def client_send_failing(self) -> Callable[[], object]:
        from apps.on_celery import fails_twice

        return fails_twice.delay

    def client_send_waiting(self) -> Callable[[float], object]:
        from apps.on_celery import waits

        return waits.delay
