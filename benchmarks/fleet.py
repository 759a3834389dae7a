"""Many real workers in one process, without tasks to run: what they tell and hear of each other while they idle.

    python fleet.py 6 50 100 200

Each has the worker's own parent, with its connections, queues, heartbeats and mailbox, around an idle pool. The
counts given are reached one after the other; at each, once nothing comes any more of what they say
to each other as they start, a line of JSON tells what went over all connections, a second.
With one count, and nothing on its standard input, it stays until that is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from names import names

from amqptasks import App
from amqptasks.amqp import Delivery, Parcel
from amqptasks.transport.base import Done, OnDelivery
from amqptasks.transport.loop import LoopLink
from amqptasks.worker.boot import loaded
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.solo import SoloPool
from amqptasks.worker.shutdown import Phase
from amqptasks.worker.worker import Worker

AT_ONCE = 20
"""Workers that start at the same time."""
STARTED_WITHIN = 120.0
"""Seconds."""
WINDOWS = 5
"""Windows that are measured at most: what workers say to each other as they start may be delivered late."""


class CountedLink(LoopLink):
    """Counts what all links send and are sent."""

    published = 0
    delivered = 0

    @classmethod
    def install(cls) -> None:
        post, consume = LoopLink.post, LoopLink.consume

        def counted_post(link: LoopLink, parcel: Parcel, done: Done) -> None:
            cls.published += 1
            post(link, parcel, done)

        async def counted_consume(
            link: LoopLink, queue: str, on_delivery: OnDelivery, *rest: Any, **options: Any
        ) -> Any:
            def noted(delivery: Delivery) -> None:
                cls.delivered += 1
                on_delivery(delivery)

            return await consume(link, queue, noted, *rest, **options)

        LoopLink.post = counted_post  # type: ignore[method-assign]
        LoopLink.consume = counted_consume  # type: ignore[method-assign]


class Fleet:
    """Workers that are there. Used in one loop."""

    def __init__(self, url: str) -> None:
        app = App("fleet", broker=url, backend=None)
        self._loaded = loaded(app, LoadSpec("", options=WorkerOptions()))
        self._workers: list[tuple[Worker, asyncio.Task[int]]] = []

    async def grow(self, size: int) -> None:
        """Return when there are `size`."""
        while (have := len(self._workers)) < size:
            await asyncio.gather(*[self._start(n) for n in range(have, min(size, have + AT_ONCE))])

    async def _start(self, number: int) -> None:
        ready = asyncio.Event()
        options = WorkerOptions(hostname=names(number + 1)[-1], quiet=True)
        worker = Worker(options, SoloPool(self._loaded), on_ready=ready.set)
        task = asyncio.create_task(worker.run())
        self._workers.append((worker, task))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiting}, timeout=STARTED_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set():
            waiting.cancel()
            raise RuntimeError(
                f"worker {number} did not start: {task.exception() if task.done() else 'too slow'}"
            )

    async def end(self) -> None:
        for worker, _ in self._workers:
            worker.shutdown.request(Phase.WARM)
        await asyncio.gather(*[task for _, task in self._workers])


async def measure_idling(window: float) -> dict[str, float]:
    """What goes over the connections in the first window without a delivery; in the last one if each of them has some,
    as they have when workers hear of each other at all."""
    for _ in range(WINDOWS):
        figures = await measure(window)
        if not figures["delivered"]:
            break
    return figures


async def measure(window: float) -> dict[str, float]:
    published, delivered, began = CountedLink.published, CountedLink.delivered, time.monotonic()
    used = time.process_time()
    await asyncio.sleep(window)
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "published": (CountedLink.published - published) / seconds,
        "delivered": (CountedLink.delivered - delivered) / seconds,
        "processor": 100 * (time.process_time() - used) / seconds,
    }


async def main(url: str, window: float, *sizes: int) -> None:
    CountedLink.install()
    fleet = Fleet(url)
    try:
        for size in sizes:
            await fleet.grow(size)
            print(json.dumps({"workers": size, **await measure_idling(window)}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await fleet.end()


if __name__ == "__main__":
    asyncio.run(main(os.environ["AMQPTASKS_BROKER_URL"], float(sys.argv[1]), *map(int, sys.argv[2:])))
