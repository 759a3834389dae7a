"""Dead letters on the real broker: listed without being touched, replayed under kill -9, none lost.

The run in CI is small; AMQPTASKS_TEST_FAULTS=full has 1,000 of them and more kills. `-s` shows the figures.
"""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import App, Queue, amqp
from amqptasks.amqp import Parcel, Properties
from amqptasks.dead import Selection
from amqptasks.transport.codec import encode_header
from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import REPLIES, call, count, headers, send
from integration.support.links import Inbox, linked, until
from integration.support.processes import Process

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
EACH = 200 if FULL else 40
KILLS = 20 if FULL else 4
RATE = "200/s"
"""Slow enough to be killed on its way: most of the time a message is in flight all the same."""
APP = "integration.apps.dead_tasks"
KINDS = ("unknown", "undecodable", "forbidden", "rejected", "crashed")
MENDABLE = ("unknown", "rejected", "crashed")

pytestmark = pytest.mark.timeout(300)


class Bench:
    """A vhost, workers whose tasks die until `mend`, and numbered messages by their ids."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.vhost, self.url, self.folder = node, vhost, node.url(vhost), folder
        self.effects = Effects(folder / "effects")
        self.flag = folder / "mended"
        self.kinds: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self._start = start

    def worker(self, *settings: str) -> WorkerProcess:
        return self._start(
            APP,
            *("-c", "2", "-n", "w@here", "--", *settings),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path), "DEAD_MENDED": str(self.flag)},
            ready=r" ready\.",
        )

    def nobody_connected(self) -> bool:
        """Whether the broker has no connection to our vhost any more."""
        ours, all_ = f'[{{vhost, <<"{self.vhost}">>}}]', "rabbit_networking:connection_info_all([vhost])"
        return self.node.eval(f"lists:member({ours}, {all_})") == "false"

    def mend(self) -> None:
        self.flag.touch()

    def message(self, kind: str) -> Parcel:
        task_id, number = str(uuid.uuid4()), len(self.kinds)
        self.kinds[task_id], self.numbers[task_id] = kind, number
        match kind:
            case "undecodable":
                return broken(task_id, b"[[1, 2", "application/json")
            case "forbidden":
                return broken(task_id, b"\x80\x04N.", "application/x-python-serialize")
        name = {"unknown": "unknown", "rejected": "rejects", "crashed": "crashes"}[kind]
        return call(f"{APP}.{name}", number, task_id=task_id)

    def process(self, *words: str) -> Process:
        command = [sys.executable, "-m", "amqptasks", "-b", self.url, "dead", *words]
        return Process(command, log=self.folder / "dead.log")

    def dead(self, *words: str) -> list[dict[str, object]]:
        """What `amqptasks dead list` prints, as JSON."""
        ran = subprocess.run(
            [sys.executable, "-m", "amqptasks", "-b", self.url, "dead", "list", "--json", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(ran.stdout)


def broken(task_id: str, body: bytes, content_type: str) -> Parcel:
    properties = Properties(
        content_type=content_type,
        content_encoding="utf-8",
        delivery_mode=2,
        reply_to=REPLIES,
        correlation_id=task_id,
        headers={"task": f"{APP}.rejects", "id": task_id},
    )
    return Parcel("", "amqptasks", encode_header(properties), body, task_id)


@pytest.fixture
def bench(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Bench:
    return Bench(node, fresh_vhost, tmp_path, worker)


@pytest.fixture
def app(node: PrivateNode, fresh_vhost: str) -> Iterator[App]:
    with App("client", broker=node.url(fresh_vhost), set_as_current=False) as app:
        yield app


def peek(url: str, queue: str) -> list[str]:
    """The ids of what lies in a queue; it stays there."""

    async def scenario() -> list[str]:
        async with linked(url) as link:
            (info,) = await link.declare(amqp.Queue(queue), passive=True)
            inbox = Inbox()
            await link.consume(queue, inbox.deliveries.append, inbox.cancelled.append, prefetch=0)
            await until(lambda: len(inbox.deliveries) >= info.messages, f"{info.messages} messages", 20)
            return [str(headers(delivery)["id"]) for delivery in inbox.deliveries]

    found = asyncio.run(scenario())
    wait_until(lambda: count(url, queue) >= len(found), 10, "what was looked at is back in its queue")
    return found


def wait_for(url: str, queue: str, number: int, process: Process) -> None:
    """Return as soon as a queue holds so many, or the process has ended: asked as fast as the broker answers."""

    async def scenario() -> None:
        async with linked(url) as link:
            while process.returncode is None:
                (info,) = await link.declare(amqp.Queue(queue), passive=True)
                if info.messages >= number:
                    return

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_dead_letters_of_five_kinds_are_listed_and_half_replayed_under_kill_9(bench: Bench) -> None:
    first = bench.worker("task_unknown_retries=0", "worker_lost_limit=1")
    send(bench.url, [bench.message(kind) for _ in range(EACH) for kind in KINDS])
    total = EACH * len(KINDS)
    wait_until(lambda: count(bench.url, "amqptasks.dead") == total, 120, lambda: first.log()[-3000:], 0.2)
    assert first.stop() == 0

    listed = bench.dead()
    assert {str(each["id"]): each["reason"] for each in listed} == bench.kinds
    assert len(listed) == total
    assert all(each["times"] == 1 and each["queue"] == "amqptasks" for each in listed)
    assert Counter(each["crashes"] for each in listed) == {0: 4 * EACH, 1: EACH}

    wanted = {task_id for task_id, number in bench.numbers.items() if number % 2}
    rest = set(bench.kinds) - wanted
    kills = replay_under_kills(bench, sorted(wanted))

    back, left = Counter(peek(bench.url, "amqptasks")), Counter(str(each["id"]) for each in bench.dead())
    lost = set(bench.kinds) - set(back) - set(left)
    doubled = sum(back.values()) - len(back)
    print(f"dead={total} replayed={len(back)} kills={kills} lost={len(lost)} doubled={doubled}")
    assert not lost
    assert set(back) == wanted
    assert left == Counter(rest), "each once, and none that was replayed"
    assert doubled <= kills, "only what was in flight when its replay was killed is there twice"

    runs_once_mended(bench, back, rest)


def replay_under_kills(bench: Bench, wanted: list[str]) -> int:
    """Replay these ids, killing the replay again and again on its way; return how often it was hit."""
    kills = 0
    for number in range(KILLS):
        process = bench.process("replay", *wanted, "--rate", RATE).start()
        wait_for(bench.url, "amqptasks", len(wanted) * (number + 1) // (KILLS + 1), process)
        if process.returncode is None:
            process.kill()
            kills += 1
    assert kills >= KILLS // 2, "the replay was too quick to be killed"
    # What a killed process held comes back when the broker notices; the last one may have been killed just now.
    wait_until(bench.nobody_connected, 20, "no connection is left")
    wait_until(lambda: sum(map(len, both(bench))) >= len(bench.kinds), 10, "every message is in a queue")
    if set(wanted) & set(both(bench)[1]):
        last = bench.process("replay", *wanted).start()
        assert last.wait(60) == 0, last.log()
    return kills


def both(bench: Bench) -> tuple[list[str], list[str]]:
    return peek(bench.url, "amqptasks"), peek(bench.url, "amqptasks.dead")


def runs_once_mended(bench: Bench, back: Counter[str], rest: set[str]) -> None:
    """What was replayed runs once, also what is there twice; what cannot be mended is dead once more."""
    runs = {bench.numbers[task_id] for task_id in back if bench.kinds[task_id] in MENDABLE}
    hopeless = {task_id for task_id in back if bench.kinds[task_id] not in MENDABLE}
    bench.mend()
    worker = bench.worker("task_unknown_retries=0")
    wait_until(lambda: bench.effects.finished == len(runs), 60, lambda: worker.log()[-3000:])
    wait_until(lambda: count(bench.url, "amqptasks.dead") >= len(rest) + len(hopeless), 20)
    assert worker.stop() == 0
    assert count(bench.url, "amqptasks") == 0

    assert bench.effects.counts("F") == Counter(runs)
    again = [each for each in bench.dead() if each["times"] == 2]
    assert Counter(str(each["id"]) for each in again) == Counter(hopeless)
    assert {each["reason"] for each in again} == {"undecodable", "forbidden"}


def test_looking_changes_neither_number_nor_order_and_never_ends_in_a_loss(app: App) -> None:
    """More often than RabbitMQ 4 delivers a message of a quorum queue unless told otherwise: 20 times."""
    app.prepare("amqptasks")
    sent = [str(number) for number in range(12)]
    send(str(app.conf.broker_url), [call("t", task_id=each, queue="amqptasks.dead") for each in sent])
    letters = app.dead_letters()

    for number in range(30):
        limit = (3, None)[number % 2]
        found = wait_until(lambda limit=limit: letters.list(Selection(limit=limit)), 10)
        assert [letter.id for letter in found] == sent[:limit]

    wait_until(lambda: app.connection.inspect("amqptasks.dead").messages == len(sent), 10, "all are back")


def test_what_the_broker_dead_letters_says_so_and_can_be_replayed(app: App) -> None:
    app.conf.task_queues = [
        Queue("brief", message_ttl=0.01),
        Queue("small", max_length=1, arguments={"x-overflow": "drop-head", "x-dead-letter-strategy": None}),
        Queue("tried"),
    ]
    app.conf.task_queue_delivery_limit = 1
    sent = {"expired": app.send_task("t", queue="brief").id, "maxlen": app.send_task("t", queue="small").id}
    app.send_task("t", queue="small")
    sent["delivery_limit"] = app.send_task("t", queue="tried").id
    give_back_until_dead(str(app.conf.broker_url), "tried")

    letters = app.dead_letters()
    # One look: right after it the broker may still be putting back what it has shown.
    looked = wait_until(lambda: len(all_ := letters.list()) == 3 and all_, 10, "three dead letters")
    found = {letter.reason: letter for letter in looked}

    assert {reason: letter.id for reason, letter in found.items()} == sent
    assert [found[reason].queue for reason in sent] == ["brief", "small", "tried"]
    assert all(letter.died_at is not None for letter in found.values())
    one = Selection(ids=frozenset([sent["delivery_limit"]]))
    assert wait_until(lambda: letters.replay(one).done, 10) == 1
    assert peek(str(app.conf.broker_url), "tried") == [sent["delivery_limit"]]


def give_back_until_dead(url: str, queue: str) -> None:
    async def scenario() -> None:
        async with linked(url) as link:
            inbox = Inbox()
            consumer = await link.consume(queue, inbox.deliveries.append, inbox.cancelled.append, prefetch=1)
            for times in (1, 2):
                await inbox.count(times)
                consumer.reject(inbox.deliveries[-1].tag, requeue=True)

    asyncio.run(scenario())


def test_a_task_that_is_newer_than_the_worker_waits_for_a_newer_worker(bench: Bench) -> None:
    """A rolling deployment: the old worker sends it back, and the new one runs it."""
    old = bench.worker()
    send(bench.url, [bench.message("unknown")])
    old.wait_log(r"unknown here; sent back for 5 s \(1 of 3\)")
    assert old.stop() == 0

    bench.mend()
    new = bench.worker()

    wait_until(lambda: bench.effects.finished == 1, 20, lambda: new.log()[-3000:])
    assert new.stop() == 0
    assert count(bench.url, "amqptasks.dead") == 0
