"""Celery, its prefork pool."""

from __future__ import annotations

from collections.abc import Callable

from mode import CONCURRENCY, Mode

from contenders.base import program


class Celery:
    name = "celery"
    late_only = False
    has_results = True
    quorum = True
    has_batches = False

    def version(self) -> list[str]:
        return [program("celery"), "--version"]

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        command = [
            program("celery"),
            "-A",
            "apps.on_celery",
            "worker",
            "-c",
            str(CONCURRENCY),
            "-l",
            "WARNING",
        ]
        if mode.prefetch is not None:
            command += ["--prefetch-multiplier", str(mode.prefetch // CONCURRENCY)]
        return command, {"C_FORCE_ROOT": "1"}

    def described(self, mode: Mode) -> dict[str, str]:
        return {
            "prefetch": str(4 * CONCURRENCY if mode.prefetch is None else mode.prefetch),
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
