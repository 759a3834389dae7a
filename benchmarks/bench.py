"""What every row stands on: the broker, queues filled with each contender's own messages, workers, clients."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pika
import wire
from contenders import Contender
from contenders.base import FOLDER, environment
from mode import Mode
from redis_server import RedisServer
from slots import VARIABLE, Counter
from workers import WorkerProcesses, cpu_of, listener


class Bench:
    """One run of the benchmark. Used in one thread."""

    def __init__(self, url: str, *, quick: bool) -> None:
        self.url = url
        self.quick = quick
        self._folder = tempfile.TemporaryDirectory()
        self._prebuilt: dict[tuple[str, Mode, int], list[bytes]] = {}
        self._redis: RedisServer | None = None
        self._broker = listener(pika.URLParameters(url).port)

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()
        self._folder.cleanup()

    def size(self, quick: int, full: int) -> int:
        return quick if self.quick else full

    def set_up(self, mode: Mode) -> Mode:
        """`mode` with the store that it needs, running and empty. Raises Missing when it is not installed."""
        if mode.store is None:
            return mode
        if self._redis is None:
            self._redis = RedisServer()
        self._redis.empty()
        return replace(mode, store=self._redis.url)

    def broker_cpu(self) -> float | None:
        """Seconds of the processor that RabbitMQ has used; None when it runs elsewhere."""
        return None if self._broker is None else cpu_of(self._broker)

    # --- broker ------------------------------------------------------------------------------------------

    def empty(self, *queues: str) -> None:
        """Delete queues, so that nothing of the contender before is left."""
        with self._connection() as connection:
            channel = connection.channel()
            for queue in queues:
                channel.queue_delete(queue)
                channel.queue_delete(f"{queue}.dead")

    def fill(self, contender: Contender, mode: Mode, count: int) -> None:
        """Put `count` no-ops into the queue, as the contender's own client would have."""
        sample = self.template(contender, mode)
        key = (contender.name, mode, count)
        if key not in self._prebuilt:
            self._prebuilt.clear()  # 300,000 messages are half a GiB
            self._prebuilt[key] = sample.prebuilt(count)
        with self._connection() as connection:
            channel = connection.channel()
            if mode.results:
                channel.queue_declare(wire.REPLIES, durable=True, arguments={"x-expires": 600_000})
                channel.queue_purge(wire.REPLIES)
            channel.queue_purge(mode.queue)
        wire.push(self.url, self._prebuilt[key], count)

    def template(self, contender: Contender, mode: Mode) -> wire.Template:
        """One message of the contender's, taken out of the queue that it declared for it, which is empty then."""
        self.empty(mode.queue)
        self.client(contender, mode, "send", 0)
        with self._connection() as connection:
            return wire.template(connection.channel(), mode.queue)

    def _connection(self) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(self.url))

    # --- processes ---------------------------------------------------------------------------------------

    def client(
        self,
        contender: Contender,
        mode: Mode,
        what: str,
        count: int,
        timeout: float = 240,
        *,
        rounds: int = 0,
    ) -> dict[str, float]:
        """Run one measurement of the client side in a process of its own; `rounds` for those that repeat."""
        more = [str(rounds)] if rounds else []
        command = [sys.executable, str(FOLDER / "client.py"), contender.name, what, str(count), *more]
        env = environment(mode) | {VARIABLE: str(Path(self._folder.name) / "client")}
        done = subprocess.run(
            command, env=env, cwd=FOLDER, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{contender.name} {what}: {done.stderr[-2000:]}")
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def worker(self, contender: Contender, mode: Mode) -> WorkerProcesses:
        """A worker that marks in a new counter."""
        return WorkerProcesses(contender, mode, Counter(str(Path(self._folder.name) / "slots")))
