"""What the tests of the promises share: a vhost, a file of effects, workers on request."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from broker import PrivateNode

from integration.apps.fault_effects import Effects

from .calls import call, send
from .links import linked
from .processes import WorkerProcess
from .waiting import wait_until

APP = "integration.apps.fault_tasks"


class Bench:
    """One vhost, one file of effects, workers on request."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url, self.folder = node, node.url(vhost), folder
        self.effects = Effects(folder / "effects")
        self.flag = folder / "go"
        self._start = start

    def worker(self, *arguments: str, broker_url: str = "", **options: object) -> WorkerProcess:
        return self._start(
            APP,
            *("-c", "2", "--prefetch-multiplier", "4", "-n", "w@here", *arguments),
            broker_url=broker_url or self.url,
            env={"FAULT_EFFECTS": str(self.effects.path)},
            **{"ready": r" ready\."} | options,
        )

    def send(self, *calls: tuple) -> None:
        send(self.url, [call(f"{APP}.{name}", *arguments) for name, *arguments in calls])

    def hold(self, task: str, *numbers: int) -> None:
        """Send tasks that run until `release`; two of them are running when this returns."""
        self.send(*((task, number, str(self.flag)) for number in numbers))
        wait_until(lambda: len(self.effects.running()) == min(2, len(numbers)), 10, "tasks that run")

    def release(self) -> None:
        self.flag.touch()

    def starts(self) -> dict[int, int]:
        return dict(self.effects.counts("S"))

    def ends(self) -> dict[int, int]:
        return dict(self.effects.counts("F"))

    def finished(self, *numbers: int, timeout: float = 10) -> None:
        wait_until(lambda: set(numbers) <= set(self.ends()), timeout, lambda: f"{numbers} end; {self.ends()}")

    def delete_queue(self, name: str) -> None:
        async def scenario() -> None:
            async with linked(self.url) as link:
                await link.delete_queue(name)

        asyncio.run(scenario())
