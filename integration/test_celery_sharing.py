"""Both kinds of worker on the same queues, whoever declared them and whoever started first."""

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.apps import interop_ours
from integration.apps.interop_sharing_ours import NEW, OLD
from integration.apps.interop_sharing_theirs import make_sharing
from integration.support import CeleryWorker, WorkerProcess, wait_until
from integration.support.peers import LEAN, close_celery, printed_queues

OURS, THEIRS = "integration.apps.interop_sharing_ours", "integration.apps.interop_sharing_theirs"
BOTH = {"amqptasks", "celery"}


@dataclass(frozen=True, slots=True)
class Sharing:
    ours: Any
    theirs: Any
    our_worker: WorkerProcess


@pytest.fixture(scope="module")
def sharing(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    """One worker of ours between two of Celery's: each queue has its order of start.

    Celery's first declares and consumes the queues `*.ours_later`, then ours starts on all four, then Celery's
    second on `*.ours_first`.
    """
    folder = tmp_path_factory.mktemp("sharing")
    queues = printed_queues(broker_url, folder, OURS)
    theirs = make_sharing(broker_url, queues)
    declare(theirs, OLD)
    early, late = (
        CeleryWorker(
            THEIRS, "-Q", f"{old},{new}", "-n", f"{old}@%h", "-c", "1", *LEAN,
            log=folder / f"{old}.log", broker_url=broker_url, env={"INTEROP_QUEUES": queues},
        )
        for old, new in zip(OLD, NEW, strict=True)
    )  # fmt: skip
    ours = WorkerProcess(
        OURS, "-Q", ",".join((*OLD, *NEW)), "-c", "1", log=folder / "ours.log", broker_url=broker_url
    )
    with early, ours, late, interop_ours.make(broker_url) as client:
        yield Sharing(client, theirs, ours)
        early.end()
        late.end()
    close_celery(theirs)


def declare(app: Any, queues: tuple[str, ...]) -> None:
    """Have Celery declare queues, as it does when it first sends to them."""
    with app.connection_for_write() as connection:
        for name in queues:
            app.amqp.queues[name](connection.default_channel).declare()


def effects_of(path: Path, count: int, timeout: float = 60) -> list[tuple[int, str]]:
    """(id, side) of each effect, once there are `count` of them."""

    def read() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    wait_until(lambda: len(read()) >= count, timeout, lambda: f"{count} effects, not {len(read())}")
    return [(int(number), side) for number, side in map(str.split, read())]


@pytest.mark.parametrize("queue", [*OLD, *NEW])
def test_a_queue_is_shared_whoever_declared_it_and_whoever_started_first(
    sharing: Sharing, queue: str, tmp_path: Path
) -> None:
    path = tmp_path / "effects"

    for number in range(0, 60, 2):
        sharing.ours.send_task("interop.effect", (str(path), number), queue=queue)
        sharing.theirs.send_task("interop.effect", (str(path), number + 1), queue=queue)
    effects = effects_of(path, 60)

    assert sorted(number for number, _ in effects) == list(range(60))
    assert {side for _, side in effects} == BOTH


def test_a_difference_is_named_once_and_lived_with(sharing: Sharing) -> None:
    warnings = [line for line in sharing.our_worker.log().splitlines() if "WARNING" in line]

    for queue in OLD:
        named = [line for line in warnings if f"'{queue}'" in line]
        assert len(named) == 1, "\n".join(warnings)
        assert "as it is" in named[0]
    assert not [line for line in warnings if any(queue in line for queue in NEW)]


def test_two_thousand_tasks_on_one_shared_queue_run_once_each_on_both_sides(
    sharing: Sharing, tmp_path: Path
) -> None:
    path, queue = tmp_path / "effects", NEW[0]

    with sharing.ours.batch():
        for number in range(1000):
            sharing.ours.send_task("interop.effect", (str(path), number), queue=queue)
    for number in range(1000, 2000):
        sharing.theirs.send_task("interop.effect", (str(path), number), queue=queue)
    effects = effects_of(path, 2000)

    assert sorted(number for number, _ in effects) == list(range(2000))
    sides = collections.Counter(side for _, side in effects)
    assert sides.keys() == BOTH
    assert sum(sides.values()) == 2000
