"""This project."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from mode import CONCURRENCY, Mode

from contenders.base import program


class Amqptasks:
    name = "amqptasks"
    late_only = False
    has_results = True
    quorum = True
    has_batches = True
    has_events = True
    pools = frozenset({"asyncio", "threads"})

    def version(self) -> list[str]:
        return [program("amqptasks"), "--version"]

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        command = [program("amqptasks"), "-A", "apps.on_amqptasks", "worker", "-c", str(mode.slots)]
        if mode.pool is not None:
            command += ["-P", mode.pool]
        if mode.events:
            command += ["-E"]
        if mode.prefetch is not None:
            command += ["--prefetch-multiplier", str(mode.prefetch // CONCURRENCY)]
        return command, {}

    def described(self, mode: Mode) -> dict[str, str]:
        return {
            "prefetch": "auto" if mode.prefetch is None else str(mode.prefetch),
            "queue": mode.queue_type or "quorum",
            "delivery": "persistent",
            "ack": "late" if mode.late else "early",
        }

    def client_send(self) -> Callable[[], object]:
        from apps.on_amqptasks import mode, noop

        return noop.delay if mode.results else lambda: noop.apply_async(ignore_result=True)

    def client_send_short(self) -> Callable[[float], object]:
        from apps.on_amqptasks import short

        return short.delay

    def client_send_long(self) -> Callable[[float], object]:
        from apps.on_amqptasks import long

        return long.delay

    def client_batch(self, count: int) -> None:
        from apps.on_amqptasks import app

        send = self.client_send()
        with app.batch():
            for _ in range(count):
                send()

    def client_call(self) -> Callable[[], object]:
        from apps.on_amqptasks import noop

        return lambda: noop.delay().get(timeout=30)

    def client_group(self, count: int) -> None:
        from apps.on_amqptasks import noop

        from amqptasks import group

        group([noop.s() for _ in range(count)]).apply_async().get(timeout=120)

    def client_gather(self, count: int) -> None:
        from apps.on_amqptasks import app, noop

        async def gather() -> None:
            async with app:
                results = await asyncio.gather(*[noop.adelay() for _ in range(count)])
                await asyncio.gather(*[result.aget(timeout=120) for result in results])

        asyncio.run(gather())

    def client_chain(self) -> Callable[[int], Callable[[], int]]:
        from apps.on_amqptasks import plus

        from amqptasks import chain

        def start(steps: int) -> Callable[[], int]:
            result = chain(plus.s(0, 1), *(plus.s(1) for _ in range(steps - 1))).apply_async()
            return lambda: result.get(timeout=120)

        return start

    def client_chord(self) -> Callable[[int], Callable[[], int]]:
        from apps.on_amqptasks import plus, total

        from amqptasks import chord

        def start(members: int) -> Callable[[], int]:
            result = chord([plus.s(0, 1) for _ in range(members)], total.s()).apply_async()
            return lambda: result.get(timeout=500)

        return start

    def client_together(self) -> Callable[[], AbstractContextManager[object]]:
        from apps.on_amqptasks import app

        return app.batch

    def client_ping(self) -> Callable[[list[str]], int]:
        from apps.on_amqptasks import app

        return lambda names: len(app.control.inspect(names, timeout=10.0).ping() or {})

    def ping(self, names: list[str]) -> list[str]:
        return [program("amqptasks"), "-A", "apps.on_amqptasks", "inspect", "ping", "-d", ",".join(names)]

    def client_send_late(self) -> Callable[[float, float], object]:
        from apps.on_amqptasks import late

        return lambda seconds, due: late.apply_async((due,), countdown=seconds)

    def client_send_failing(self) -> Callable[[], object]:
        from apps.on_amqptasks import fails_twice

        return fails_twice.delay

    def client_send_waiting(self) -> Callable[[float], object]:
        from apps.on_amqptasks import mode, waits, waits_async

        return (waits_async if mode.pool == "asyncio" else waits).delay
