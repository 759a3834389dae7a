"""An observer that watches nothing: realistic rows, and a note of each action. For tests of what is drawn from it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from amqptasks.monitor.snapshot import (
    SERIES,
    ActiveCall,
    Answer,
    DeadLetterPage,
    DeadLetterRow,
    Graph,
    GraphNode,
    Overview,
    QueueRow,
    SchedulePage,
    ScheduleRow,
    Series,
    TaskDetail,
    TaskRow,
    WorkerDetail,
    WorkerRow,
)

NOW = 1_790_000_000.0
"""The moment that everything here is of."""

ROOT, CHILD, FAILED, RUNNING, ODD = (f"{n:08x}-0000-4000-8000-000000000000" for n in range(1, 6))
DEAD = "0000dead-0000-4000-8000-000000000000"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "shop/tasks.py", line 12, in charge\n'
    "    raise ValueError('card declined')\n"
    "ValueError: card declined\n"
)


def overview(**changes: Any) -> Overview:
    made = Overview(
        at=NOW,
        broker="amqp://shop:**@rabbit:5672/shop",
        product="RabbitMQ 3.13.7",
        connected=True,
        management=True,
        states={"SUCCESS": 812, "STARTED": 4, "RECEIVED": 12, "FAILURE": 9, "RETRY": 2, "REVOKED": 1},
        rates={"sent": 41.0, "received": 40.5, "started": 40.2, "succeeded": 38.9, "failed": 1.2, "retried": 0.4,
               "revoked": 0.1, "rejected": 0.0},
        events=160.0,
        task_events=True,
        workers_online=2,
        workers_known=3,
        active=4,
        reserved=12,
        processed=81_234,
        ready=1_293,
        unacked=16,
        dead=7,
        unconsumed=("reports",),
    )  # fmt: skip
    return replace(made, **changes)


QUEUES = (
    QueueRow(name="mail", type="quorum", ready=93, unacked=12, consumers=2, publish_rate=20.0, deliver_rate=21.5,
             ack_rate=21.4, oldest_age=1.5, memory=143_000, dead_letters=5, workers=("w1@shop", "w2@shop")),
    QueueRow(name="orders", type="classic", ready=0, unacked=4, consumers=1, publish_rate=19.5, deliver_rate=19.5,
             ack_rate=19.4, dead_letters=2, workers=("w1@shop",)),
    QueueRow(name="reports", type="quorum", ready=1200, unacked=0, consumers=0, publish_rate=1.5, deliver_rate=0.0,
             ack_rate=0.0, nobody_consumes=True),
    QueueRow(name="soon", type="quorum", exists=False),
)  # fmt: skip
INTERNAL = (
    QueueRow(name="mail.dead", kind="dead", type="quorum", ready=5, unacked=0, consumers=0),
    QueueRow(name="orders.dead", kind="dead", type="quorum", ready=2, unacked=0, consumers=0),
    QueueRow(name="amqptasks.delay.1.5", kind="internal", type="quorum", ready=3, unacked=0, consumers=0),
)

WORKERS = (
    WorkerRow(node="w1@shop", pool="prefork", concurrency=4, autoscale=(8, 2), active=3, reserved=8, processed=61_000,
              rate=30.1, loadavg=(0.8, 0.6, 0.5), queues=("mail", "orders"), heartbeat_age=0.7,
              software="amqptasks 0.1.0", pid=4711, uptime=86_400.0, memory=61_865_984, prefetch=16,
              totals={"shop.mail": 40_000, "shop.charge": 21_000}),
    WorkerRow(node="w2@shop", pool="threads", concurrency=20, active=1, reserved=4, processed=20_234, rate=10.1,
              loadavg=(0.2, 0.2, 0.1), queues=("mail",), heartbeat_age=1.9, software="celery 5.5.0", pid=99,
              uptime=3_600.0, memory=50_331_648, prefetch=80, totals={"shop.mail": 20_234}),
    WorkerRow(node="w3@shop", alive=False, pool="prefork", concurrency=4, processed=812, heartbeat_age=412.0,
              software="amqptasks 0.1.0", pid=1234),
)  # fmt: skip

TASKS = (
    TaskRow(id=RUNNING, name="shop.report", state="STARTED", at=NOW - 1, args="(2026,)", kwargs="{'full': True}",
            worker="w1@shop", queue="mail", wait=0.4),
    TaskRow(id=ROOT, name="shop.order", state="SUCCESS", at=NOW - 2, args="(17,)", kwargs="{}", result="'done'",
            worker="w1@shop", queue="orders", runtime=0.25, wait=0.012),
    TaskRow(id=CHILD, name="shop.mail", state="SUCCESS", at=NOW - 3, args="('a@example.org',)", kwargs="{}",
            result="None", worker="w2@shop", queue="mail", runtime=1.5, wait=2.25),
    TaskRow(id=FAILED, name="shop.charge", state="FAILURE", at=NOW - 4, args="(17,)", kwargs="{}",
            exception="ValueError('card declined')", worker="w1@shop", queue="orders", retries=3, runtime=None, wait=0.1),
    TaskRow(id=ODD, name="shop.<script>alert(1)</script>", state="RETRY", at=NOW - 5, args="('<b>&\"', '\\x1b[31m')",
            kwargs="{}", worker="w1@shop"),
)  # fmt: skip

LETTERS = (
    DeadLetterRow(id=DEAD, task="shop.charge", queue="orders", lies_in="orders.dead", reason="crashed",
                  error="the process that ran the task died five times", at=NOW - 600, deaths=1, crashes=5,
                  node="w1@shop", args="(17,)", kwargs="{}", size=120),
    DeadLetterRow(id="", task="", queue="mail", lies_in="mail.dead", reason="undecodable", error="no JSON",
                  at=NOW - 7_200, size=4_096),
)  # fmt: skip

SCHEDULES = (
    ScheduleRow(name="nightly", task="shop.report", schedule="<crontab: 0 3 * * *>", next_due=NOW + 3_600,
                last_due=NOW - 82_800, catch_up="latest", runs=3),
    ScheduleRow(name="often", task="shop.mail", schedule="<freq: 10.00 seconds>", next_due=NOW + 4, last_due=NOW - 6,
                paused=True, added=True, catch_up="none", runs=120),
)  # fmt: skip


class FakeObserver:
    """Has `Observer`'s methods. Change its attributes to have it tell something else; `done` notes the actions."""

    def __init__(self, app: Any = None, **options: Any) -> None:
        self.app, self.options = app, options
        self.interval = float(options.get("interval", 2.0))
        self.running = False
        self.told = overview()
        self.queue_rows: tuple[QueueRow, ...] = QUEUES
        self.internal_rows: tuple[QueueRow, ...] = INTERNAL
        self.worker_rows: tuple[WorkerRow, ...] = WORKERS
        self.task_rows: tuple[TaskRow, ...] = TASKS
        self.letters: tuple[DeadLetterRow, ...] = LETTERS
        self.schedule_page = SchedulePage(rows=SCHEDULES, leader="shop-1:312")
        self.done: list[tuple[Any, ...]] = []
        self.answers: tuple[Answer, ...] = (Answer(node="w1@shop", text="ok"),)
        self.error: Exception | None = None
        """What every action and every question raises."""

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def __enter__(self) -> "FakeObserver":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- reads -------------------------------------------------------------------------------------------

    def overview(self) -> Overview:
        return self.told

    def queues(self, *, internal: bool = False) -> tuple[QueueRow, ...]:
        return (*self.queue_rows, *self.internal_rows) if internal else self.queue_rows

    def workers(self) -> tuple[WorkerRow, ...]:
        return self.worker_rows

    def worker(self, node: str, timeout: float = 1.0) -> WorkerDetail | None:
        self._raise()
        row = next((row for row in self.worker_rows if row.node == node), None)
        if row is None or not row.alive:
            return (
                None
                if row is None
                else WorkerDetail(row=row, message=f"{node} did not answer within 1 seconds")
            )
        call = ActiveCall(
            id=RUNNING, name="shop.report", args="(2026,)", kwargs="{}", started_at=NOW - 1, pid=4712
        )
        waiting = ActiveCall(id=CHILD, name="shop.mail", args="('a@example.org',)", kwargs="{}")
        return WorkerDetail(
            row=row,
            active=(call,),
            reserved=(waiting,),
            registered=("shop.charge [rate_limit=10/s]", "shop.mail", "shop.order", "shop.report"),
            stats={"pid": row.pid, "total": dict(row.totals), "prefetch_count": row.prefetch},
            conf={"broker_url": "amqp://shop:**@rabbit:5672/shop", "task_acks_late": True},
        )

    def tasks(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        worker: str | None = None,
        queue: str | None = None,
        search: str = "",
        before: float | None = None,
        limit: int = 100,
    ) -> tuple[TaskRow, ...]:
        found = [
            row
            for row in self.task_rows
            if (not state or row.state == state)
            and (not name or row.name == name)
            and (not worker or row.worker == worker)
            and (not queue or row.queue == queue)
            and (before is None or row.at < before)
            and search.lower()
            in f"{row.id} {row.name} {row.args} {row.kwargs} {row.result} {row.exception}".lower()
        ]
        return tuple(found[:limit])

    def task_names(self) -> tuple[str, ...]:
        return tuple(sorted({row.name for row in self.task_rows}))

    def task(self, task_id: str) -> TaskDetail | None:
        row = next((row for row in self.task_rows if row.id == task_id), None)
        if row is None:
            return None
        start = row.at - 1.0
        steps = (("PENDING", start), ("RECEIVED", start + 0.1), ("STARTED", start + 0.2), (row.state, row.at))
        return TaskDetail(
            row=row,
            traceback=TRACEBACK if row.state == "FAILURE" else "",
            timeline=steps,
            parent="" if row.id == ROOT else ROOT,
            root=ROOT,
            children=(CHILD, FAILED) if row.id == ROOT else (),
            exchange="amqptasks",
            routing_key=row.queue,
            received_by=row.worker,
        )

    def graph(self, task_id: str, limit: int = 500) -> Graph | None:
        if all(row.id != task_id for row in self.task_rows):
            return None
        nodes = (
            GraphNode(id=ROOT, name="shop.order", state="SUCCESS", runtime=0.25),
            GraphNode(id=CHILD, name="shop.mail", state="SUCCESS", parent=ROOT, depth=1, runtime=1.5),
            GraphNode(id=FAILED, name="shop.charge", state="FAILURE", parent=ROOT, depth=1),
        )
        return Graph(root=ROOT, nodes=nodes[:limit], cut=limit < len(nodes))

    def series(self, name: str, points: int = 300) -> Series:
        if name not in SERIES:
            raise KeyError(name)
        lines = {
            "throughput": ("1/s", ("started", "succeeded", "failed", "retried")),
            "runtime": ("s", ("p50", "p99")),
            "wait": ("s", ("p50", "p99")),
            "depth": ("", ("mail", "orders", "reports")),
            "workers": ("", ("online", "active")),
        }
        unit, named = lines[name]
        count = min(points, 60)
        times = tuple(NOW - 2.0 * (count - 1 - at) for at in range(count))
        values = {
            line: tuple(
                None if line == "p99" and at == 5 else (number + 1) * (10 + 5 * math.sin(at / 6))
                for at in range(count)
            )
            for number, line in enumerate(named)
        }
        return Series(name=name, unit=unit, interval=2.0, times=times, values=values)

    def dead_letters(self, queue: str | None = None, *, limit: int = 100, offset: int = 0) -> DeadLetterPage:
        self._raise()
        rows = [row for row in self.letters if not queue or row.queue == queue]
        return DeadLetterPage(rows=tuple(rows[offset : offset + limit]), offset=offset, total=len(rows))

    def dead_letter_body(self, queue: str, task_id: str) -> str:
        self._raise()
        return f"id: '{task_id}'\ntask: 'shop.charge'\n\n[[17], {{}}, {{}}]" if task_id else ""

    def schedules(self) -> SchedulePage:
        self._raise()
        return self.schedule_page

    # --- actions -----------------------------------------------------------------------------------------

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def _told(self, *what: Any) -> tuple[Answer, ...]:
        self._raise()
        self.done.append(what)
        return self.answers

    def revoke(
        self, task_id: str | Sequence[str], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> tuple[Answer, ...]:
        return self._told("revoke", task_id, terminate)

    def rate_limit(self, task: str, rate: str, node: str | None = None) -> tuple[Answer, ...]:
        return self._told("rate_limit", task, rate, node)

    def time_limit(
        self, task: str, soft: float | None = None, hard: float | None = None, node: str | None = None
    ) -> tuple[Answer, ...]:
        return self._told("time_limit", task, soft, hard, node)

    def pool_grow(self, node: str, n: int = 1) -> tuple[Answer, ...]:
        return self._told("pool_grow", node, n)

    def pool_shrink(self, node: str, n: int = 1) -> tuple[Answer, ...]:
        return self._told("pool_shrink", node, n)

    def autoscale(self, node: str, most: int, least: int) -> tuple[Answer, ...]:
        return self._told("autoscale", node, most, least)

    def pool_restart(self, node: str) -> tuple[Answer, ...]:
        return self._told("pool_restart", node)

    def add_consumer(self, queue: str, node: str | None = None) -> tuple[Answer, ...]:
        return self._told("add_consumer", queue, node)

    def cancel_consumer(self, queue: str, node: str | None = None) -> tuple[Answer, ...]:
        return self._told("cancel_consumer", queue, node)

    def enable_events(self, node: str | None = None) -> tuple[Answer, ...]:
        return self._told("enable_events", node)

    def disable_events(self, node: str | None = None) -> tuple[Answer, ...]:
        return self._told("disable_events", node)

    def shutdown(self, node: str) -> tuple[Answer, ...]:
        return self._told("shutdown", node)

    def purge(self, queue: str) -> int:
        self._told("purge", queue)
        return 93

    def replay_dead(
        self,
        queue: str | None = None,
        *,
        ids: Sequence[str] = (),
        limit: int | None = None,
        to: str | None = None,
    ) -> Answer:
        self._told("replay_dead", queue, tuple(ids), limit, to)
        return Answer(text=f"{len(ids) or 2} replayed")

    def drop_dead(
        self, queue: str | None = None, *, ids: Sequence[str] = (), limit: int | None = None
    ) -> Answer:
        self._told("drop_dead", queue, tuple(ids), limit)
        return Answer(text=f"{len(ids) or 2} dropped")

    def schedule_pause(self, name: str) -> Answer:
        return self._told("schedule_pause", name)[0]

    def schedule_resume(self, name: str) -> Answer:
        return self._told("schedule_resume", name)[0]

    def schedule_run(self, name: str) -> Answer:
        return self._told("schedule_run", name)[0]

    def schedule_remove(self, name: str) -> Answer:
        return self._told("schedule_remove", name)[0]
