"""A cluster of two nodes, one of which goes down with the queue of a chord and of replies: parts and results wait for it.

It takes two nodes of its own and one start more: about half a minute.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import App, AsyncResult, chord
from integration.apps.canvas_tasks import app, body, member
from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.cluster import Partner
from tests.support.canvases import digest

pytestmark = pytest.mark.timeout(600)

MEMBERS = 5


@pytest.fixture
def call() -> Iterator[Callable[[str, int], None]]:
    """`call(url, number)`: a chord, called on a node, which then holds its queue."""
    before = app.conf.broker_url

    def calling(url: str, number: int) -> None:
        app.conf.broker_url = url
        with app:
            chord(
                (member.s(MEMBERS * number + each, 0.0) for each in range(MEMBERS)), body.s(number)
            ).apply_async()

    yield calling
    app.conf.broker_url = before


@pytest.fixture
def waiting() -> Iterator[Callable[[str, str], AsyncResult[int]]]:
    """`waiting(url, other)`: a call from a node, which then holds the reply queue; its client may move to the other."""
    clients: list[App] = []

    def calling(url: str, other: str) -> AsyncResult[int]:
        # The node has time: a client that gives it up has its reply queue on the other one.
        client = App("client", broker=f"{url}?connection_timeout=60;{other}", set_as_current=False)
        clients.append(client)
        return client.send_task("tree.hash", (1,))

    yield calling
    for client in clients:
        client.close()


def test_parts_and_results_wait_until_the_node_of_their_queue_is_back(
    call: Callable[[str, int], None],
    waiting: Callable[[str, str], AsyncResult[int]],
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    effects, bodies = Effects(tmp_path / "effects"), tmp_path / "bodies"

    def start(node: PrivateNode) -> WorkerProcess:
        return worker(
            "integration.apps.canvas_tasks",
            *("-c", "1", "-n", "w1@here"),
            broker_url=node.url(),
            env={"FAULT_EFFECTS": str(effects.path), "CHORD_BODIES": str(bodies)},
            ready=r" ready\.",
        )

    def done() -> list[str]:
        return (
            sorted(line.partition(" ")[0] for line in bodies.read_text().splitlines())
            if bodies.exists()
            else []
        )

    with PrivateNode() as first:
        start(first).end()  # its queues have one replica each: of two nodes, one alone is no majority
        with Partner(first) as partner:
            first.eval("application:set_env(rabbit, quorum_cluster_size, 1)")
            call(first.url(), 0)
            call(partner.url(), 1)
            result = waiting(partner.url(), first.url())
            partner.kill()
            process = start(first)

            def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
                wait_until(condition, seconds, lambda: process.log()[-4000:])

            wait(lambda: effects.finished == 2 * MEMBERS)
            wait(lambda: done() == ["0"])
            for task in ("chord_late", "chord_unlock", "late_result"):
                asked = re.compile(rf"amqptasks\.{task}.* retry: .*home node")
                wait(lambda asked=asked: asked.search(process.log()) is not None)
            partner.start()

            wait(lambda: done() == ["0", "1"])
            assert result.get(timeout=90) == digest((1,))
            process.end()
    number, _, values, total = bodies.read_text().splitlines()[-1].split()
    assert (number, values, total) == ("1", str(MEMBERS), str(sum(range(MEMBERS, 2 * MEMBERS))))
