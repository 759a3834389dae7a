"""Workers as heartbeats and answers tell of them."""

from typing import Any

from amqptasks.monitor import fleet
from amqptasks.monitor.fleet import Fleet

STATS: dict[str, Any] = {
    "pid": 4711,
    "uptime": 90,
    "total": {"shop.mail": 7},
    "pool": {"implementation": "amqptasks:prefork", "max-concurrency": 4},
    "prefetch_count": 16,
    "rusage": {"maxrss": 1024},
    "counters": {"held": 5},
    "autoscaler": {"max": 8, "min": 2},
}


def beat(node: str, at: float, kind: str = "heartbeat", **fields: Any) -> dict[str, Any]:
    given = {"freq": 2.0, "active": 2, "processed": 10, "loadavg": [0.5, 0.4, 0.3], "pid": 4711, "sw_ident": "amqptasks",
             "sw_ver": "0.1.0"}  # fmt: skip
    return {"type": f"worker-{kind}", "hostname": node, "timestamp": at, **given, **fields}


def test_a_worker_is_what_it_says() -> None:
    known = Fleet()
    known.take(beat("w1@here", 100.0, processed=10), now=100.0)
    known.take(beat("w1@here", 104.0, processed=50), now=104.0)
    known.told("w1@here", "stats", STATS)
    known.told("w1@here", "active_queues", [{"name": "mail"}, {"name": "chat"}])

    row = known.row("w1@here", 105.0)

    assert row is not None
    assert (row.alive, row.pool, row.concurrency, row.autoscale) == (True, "prefork", 4, (8, 2))
    assert (row.active, row.reserved, row.processed, row.rate) == (2, 3, 50, 10.0)
    assert (row.queues, row.heartbeat_age, row.software) == (("chat", "mail"), 1.0, "amqptasks 0.1.0")
    assert (row.pid, row.uptime, row.memory, row.prefetch) == (4711, 90.0, 1024 * 1024, 16)
    assert known.started(105.0) == 10.0


def test_a_worker_of_celery_is_understood() -> None:
    known = Fleet()
    known.take(beat("c@here", 1.0, sw_ident="py-celery", sw_ver="5.5.0"), now=1.0)
    told = {
        "pool": {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 2},
        "rusage": {},
        "total": {},
    }
    known.told("c@here", "stats", told)

    row = known.row("c@here", 1.0)

    assert row is not None
    assert (row.pool, row.concurrency, row.reserved, row.software) == ("prefork", 2, None, "py-celery 5.5.0")


def test_a_worker_is_gone_when_it_says_so_or_is_silent() -> None:
    known = Fleet()
    known.take(beat("a@here", 1.0), now=1.0)
    known.take(beat("b@here", 1.0), now=1.0)
    known.take(beat("b@here", 2.0, "offline"), now=2.0)

    assert [row.alive for row in known.rows(2.5)] == [True, False]
    assert known.online(2.5) == 1
    assert [row.alive for row in known.rows(1.0 + 2.0 * fleet.MISSED)] == [False, False]
    assert known.started(60.0) is None


def test_one_that_answers_is_there_without_heartbeats() -> None:
    known = Fleet()
    known.told("quiet@here", "stats", STATS, now=5.0)

    row = known.row("quiet@here", 6.0)

    assert row is not None
    assert (row.alive, row.pool, row.active) == (True, "prefork", None)


def test_the_rate_begins_anew_with_the_worker() -> None:
    known = Fleet()
    for at, processed in ((1.0, 1000), (3.0, 2000), (5.0, 0), (7.0, 20)):
        known.take(beat("a@here", at, processed=processed), now=at)

    assert known.started(7.0) == 10.0


def test_odd_answers_do_not_matter() -> None:
    known = Fleet()
    known.take(beat("a@here", 1.0, freq="often", active="all", processed=None, loadavg=None), now=1.0)
    known.told("a@here", "stats", {"error": "no"})
    known.told("a@here", "stats", "no")
    known.told("a@here", "active_queues", ["mail", {"no": "name"}])
    known.take({"type": "worker-heartbeat"})
    known.take({"type": "worker-odd", "hostname": "x"})

    assert [(row.node, row.active, row.queues) for row in known.rows(1.0)] == [("a@here", None, ())]


def test_who_consumes_what() -> None:
    known = Fleet()
    for node, queues in (("b@here", ["mail"]), ("a@here", ["mail", "chat"]), ("gone@here", ["old"])):
        known.take(beat(node, 1.0, "offline" if node == "gone@here" else "heartbeat"), now=1.0)
        known.told(node, "active_queues", [{"name": name} for name in queues])

    consumed = known.consumed(1.0)

    assert {name: nodes for name, (nodes, _) in consumed.items()} == {
        "mail": ("a@here", "b@here"),
        "chat": ("a@here",),
    }


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(fleet, "MOST", 3)
    known = Fleet()
    for number in range(5):
        known.take(beat(f"w{number}@here", float(number)), now=float(number))

    assert [row.node for row in known.rows(5.0)] == ["w2@here", "w3@here", "w4@here"]
    known.forget_gone(4.0 + fleet.FORGOTTEN)
    assert len(known) == 1
