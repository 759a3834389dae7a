"""Rolling restarts: workers that hold prefetched messages come and go, and nothing that never ran becomes a dead letter.

Up to RabbitMQ 4.2 every return to a quorum queue counts toward its `x-delivery-limit`, whoever is to blame. Our queues
have a limit of 100, and a worker that ends gives each message back once. AMQPTASKS_TEST_FAULTS=full restarts fifty
times; `-s` shows the delivery counts.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks.amqp import Delivery
from integration.support import WorkerProcess, wait_until
from integration.support.calls import TASKS, count, headers, take
from integration.support.notes import Limits

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
RESTARTS = 50 if FULL else 4
HELD = 40
"""Messages that each worker takes and never starts."""

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_restarts_with_messages_in_hand_dead_letter_nothing_that_never_ran(
    node: PrivateNode,
    fresh_vhost: str,
    tmp_path: Path,
    worker: Callable[..., WorkerProcess],
    ending: str,
) -> None:
    """Every worker takes all messages; a rate of one an hour lets it start a single one."""
    limits = Limits(node, fresh_vhost, tmp_path, worker)
    total = HELD + RESTARTS
    with limits.client() as client:
        client.send_many(*(("hourly", number) for number in range(total)))

    for restart in range(1, RESTARTS + 1):
        process = limits.worker("-c", "2", "--prefetch-multiplier", str(total))
        wait_until(lambda n=restart: len(limits.notes("S")) == n, 20, process.log)
        wait_until(lambda: count(limits.url, TASKS) == 0, 20, "all in the worker's hands")
        if ending == "stop":
            assert process.stop() == 0, process.log()
        else:
            process.kill()
        wait_until(
            lambda n=restart: count(limits.url, TASKS) >= total - n, 20, "the others on the broker again"
        )

    assert count(limits.url, f"{TASKS}.dead") == 0
    ran = Counter(note.number for note in limits.notes("S"))
    waiting = {_number(delivery): delivery for delivery in take(limits.url, TASKS)}
    returns = Counter(
        headers(delivery).get("x-delivery-count") or 0
        for number, delivery in waiting.items()
        if number not in ran
    )
    print(f"\n{RESTARTS} restarts by {ending}: x-delivery-count -> messages: {dict(sorted(returns.items()))}")
    assert set(range(total)) <= waiting.keys() | ran.keys(), "lost"
    assert max(returns) <= RESTARTS, "a worker gave a message back more than once"


def _number(delivery: Delivery) -> int:
    return int(json.loads(delivery.body)[0][0])
