"""The real Flower beside two workers of ours: each endpoint of its HTTP API, and what it changes in the worker.

| endpoint | what is asserted in our worker |
|---|---|
| /api/workers (refresh, status, workername) | both nodes; the keys that its pages read; alive |
| /api/tasks (workername, taskname, state, sort_by, limit, search) | the right calls, in the right order |
| /api/task/info | a success, a failure with its traceback, a retried, a revoked, a rejected call, a workflow's ids |
| /api/task/types | the names of what was run |
| /api/task/apply, async-apply, send-task | the call is run, its result comes |
| /api/task/result | our result, from the store |
| /api/task/abort | our running task sees it |
| /api/task/revoke | a waiting call never runs; with terminate a running one is killed |
| /api/task/rate-limit, timeout | the limits that the worker tells, and keeps |
| /api/worker/pool/grow, shrink, restart, autoscale | the processes of the pool |
| /api/worker/queue/add-consumer, cancel-consumer | what the worker consumes: a call there is run, or waits |
| /api/worker/shutdown | the worker exits by itself with code 0; back again, it is online |
| /api/queues/length | the depth of our queues |
| /metrics, /healthcheck | counts of events by task, the workers' state |

Flower has the broker's URL (and that of the management API) alone; where it insists on knowing tasks by name or the
store of results (apply, result, abort, rate limits, time limits), a second Flower has a Celery app that names them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode

from integration.support import flower as watching
from integration.support import wait_until
from integration.support.flower import APP, FIRST, OTHER, SECOND, Flower, Watched
from integration.support.peers import printed_queues


@pytest.fixture(scope="module")
def watched(managed: tuple[PrivateNode, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching.watched(*managed, "flower", tmp_path_factory.mktemp("flower")) as both:
        yield both


@pytest.fixture(scope="module")
def flower(watched: Watched) -> Flower:
    """With a broker's URL alone."""
    started = watched.flower()
    started.online(FIRST, SECOND)
    return started


@pytest.fixture(scope="module")
def knowing(watched: Watched) -> Flower:
    """With a Celery app that names the tasks, and the store of results."""
    queues = printed_queues(watched.url, watched.folder, APP)
    started = watched.flower(
        "-A", watching.NAMES, "--result-backend", watched.store, env={"FLOWER_QUEUES": queues}
    )
    started.online(FIRST, SECOND)
    return started


def test_it_works_as_celery_starts_it(watched: Watched) -> None:
    """The others are given more patience with a busy machine than `celery flower` has; this one is asked again."""
    started = watched.flower(program=watching.STOCK)
    started.online(FIRST, SECOND)

    def grown() -> bool:
        return started.post(f"/api/worker/pool/grow/{FIRST}", n=1).status == 200

    before = started.worker(FIRST)["stats"]["pool"]["max-concurrency"]
    wait_until(grown, 20)
    after = watched.ask("stats")["pool"]["max-concurrency"]
    assert after > before == 2
    watched.app.control.pool_shrink(after - before, destination=[FIRST], reply=True, timeout=60)
    wait_until(lambda: len(watched.ask("stats")["pool"]["processes"]) == before, 10)
    call = watched.send("add", 3, 4)
    assert started.task(call.id, "SUCCESS")["result"] == "7"


# --- workers ---------------------------------------------------------------------------------------------


def test_workers_are_listed_with_what_the_pages_read(flower: Flower, watched: Watched) -> None:
    found = flower.get("/api/workers", refresh="true").json

    assert found.keys() == {FIRST, SECOND}
    first, second = flower.worker(FIRST), flower.worker(SECOND)
    kept = {"stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf"}
    assert first.keys() == second.keys() == kept | {"timestamp"}
    assert first["stats"]["pool"]["max-concurrency"] == 2
    assert first["stats"]["pid"] == watched.ask("stats")["pid"]
    assert [queue["name"] for queue in second["active_queues"]] == [OTHER]
    for worker in (first, second):
        [queue] = worker["active_queues"]
        assert (queue["queue_arguments"]["x-queue-type"], queue["exchange"]["name"]) == (
            "quorum",
            "amqptasks",
        )
    assert f"{APP}.add" in first["registered"]
    assert "***" not in str(first["conf"])
    alive = {FIRST: True, SECOND: True}
    wait_until(lambda: flower.get("/api/workers", status="true").json == alive, 10, "a heartbeat of each")
    assert flower.get("/api/workers", refresh="true", workername="nobody@here").status == 404


def test_the_pool_grows_shrinks_and_restarts(flower: Flower, watched: Watched) -> None:
    before = watched.ask("stats")["pool"]["processes"]

    assert "Growing" in flower.said(f"/api/worker/pool/grow/{FIRST}", n=2)
    assert watched.ask("stats")["pool"]["max-concurrency"] == 4
    wait_until(lambda: len(watched.ask("stats")["pool"]["processes"]) == 4, 10)
    assert "Shrinking" in flower.said(f"/api/worker/pool/shrink/{FIRST}", n=2)
    wait_until(lambda: len(watched.ask("stats")["pool"]["processes"]) == 2, 10)
    assert flower.post(f"/api/worker/pool/shrink/{FIRST}", n=2).status == 403

    assert "Restarting" in flower.said(f"/api/worker/pool/restart/{FIRST}")
    wait_until(lambda: not set(before) & set(watched.ask("stats")["pool"]["processes"]), 15)
    assert watched.send("add", 1, 2).get(timeout=30) == 3


def test_autoscale_is_changed(flower: Flower, watched: Watched) -> None:
    scaled = "scaled@here"
    worker = watched.worker(scaled, "--autoscale", "2,1", "-Q", "scaled")
    flower.online(scaled)
    flower.worker(scaled)

    assert "min=2, max=3" in flower.said(f"/api/worker/pool/autoscale/{scaled}", min=2, max=3)
    wait_until(lambda: watched.ask("stats", scaled)["pool"]["max-concurrency"] == 2, 10)
    told = flower.worker(scaled)["stats"]["autoscaler"]
    assert (told["min"], told["max"]) == (2, 3)
    refused = flower.post(f"/api/worker/pool/autoscale/{FIRST}", min=1, max=3)
    assert (refused.status, "Autoscale not enabled" in refused.text) == (403, True)

    worker.stop()
    wait_until(lambda: flower.get("/api/workers", status="true").json[scaled] is False, 10)


def test_consumers_are_added_and_cancelled(flower: Flower, watched: Watched) -> None:
    assert flower.said(f"/api/worker/queue/add-consumer/{FIRST}", queue="extra") == "add consumer extra"
    assert watched.send("add", 2, 2, queue="extra").get(timeout=30) == 4

    cancelled = flower.said(f"/api/worker/queue/cancel-consumer/{FIRST}", queue="extra")

    assert cancelled == "no longer consuming from extra"
    assert "extra" not in [queue["name"] for queue in watched.ask("active_queues")]
    waiting = watched.send("add", 3, 3, queue="extra")
    assert "extra" not in [queue["name"] for queue in flower.worker(FIRST)["active_queues"]]
    flower.said(f"/api/worker/queue/add-consumer/{SECOND}", queue="extra")
    assert waiting.get(timeout=30) == 6
    flower.said(f"/api/worker/queue/cancel-consumer/{SECOND}", queue="extra")


# --- tasks -----------------------------------------------------------------------------------------------


def test_every_end_of_a_call_is_shown(flower: Flower, watched: Watched) -> None:
    good, bad = watched.send("add", 1, 1), watched.send("fail", "no reason")
    retried, refused = watched.send("flaky", 1), watched.send("refuse")

    done = flower.task(good.id, "SUCCESS")
    assert (done["name"], done["args"], done["kwargs"], done["result"]) == (f"{APP}.add", "(1, 1)", "{}", "2")
    assert done["received"] <= done["started"] <= done["succeeded"]
    assert (done["worker"], done["runtime"] < 60, done["root_id"]) == (FIRST, True, good.id)

    failed = flower.task(bad.id, "FAILURE")
    assert failed["exception"] == "ValueError('no reason')"
    assert re.search(r'File ".*flower_tasks.py", line \d+, in fail', failed["traceback"])

    again = flower.task(retried.id, "SUCCESS")
    assert (again["retried"] > 0, again["result"], again["retries"]) == (True, "1", 1)
    assert again["exception"] == "OSError('not yet')"
    # As with a worker of Celery's: its State ranks REJECTED below STARTED, and keeps what it has.
    assert flower.task(refused.id, "STARTED")["started"] > 0
    wait_until(lambda: flower.get(f"/api/task/info/{refused.id}").json["rejected"], 10)


def test_a_call_that_tells_of_its_sending_is_shown_with_its_way(flower: Flower, watched: Watched) -> None:
    watched.app.conf.task_send_sent_event = True
    try:
        call = watched.send("add", 1, 1)
    finally:
        watched.app.conf.task_send_sent_event = False

    flower.task(call.id, "SUCCESS")
    told = wait_until(lambda: (found := flower.task(call.id, "SUCCESS"))["sent"] and found, 10)
    assert (told["exchange"], told["routing_key"]) == ("amqptasks", "amqptasks")
    # Who sends is no worker.
    assert flower.get("/api/workers", status="true").json.keys() >= {FIRST, SECOND}
    assert not any(name.startswith("gen") for name in flower.get("/api/workers", status="true").json)


def test_a_workflow_is_shown_with_its_ids(flower: Flower, watched: Watched) -> None:
    app = watched.app
    add = app.signature(f"{APP}.add", (1, 1))
    chained = (add | app.signature(f"{APP}.add", (5,))).apply_async()
    assert chained.get(timeout=30) == 7
    first = chained.parent.id

    second = flower.task(chained.id, "SUCCESS")
    assert (second["root_id"], second["parent_id"]) == (first, first)
    assert flower.task(first, "SUCCESS")["children"] == [chained.id]

    from amqptasks import chord

    total = chord([add.clone(), add.clone()], app.signature(f"{APP}.total")).apply_async()
    assert total.get(timeout=30) == 4
    body = flower.task(total.id, "SUCCESS")
    assert body["args"] == "([2, 2],)"
    members = [flower.task(member.id, "SUCCESS") for member in total.parent.results]
    assert body["parent_id"] in {member["uuid"] for member in members}
    assert len({member["uuid"] for member in members}) == 2


def test_tasks_are_filtered_sorted_and_cut(flower: Flower, watched: Watched) -> None:
    calls = [watched.send("add", number, 0, queue=OTHER) for number in (700_101, 700_102, 700_103)]
    for call in calls:
        flower.task(call.id, "SUCCESS")

    def ids(**query: Any) -> list[str]:
        return list(flower.get("/api/tasks", **query).json)

    assert set(ids(workername=SECOND)) >= {call.id for call in calls}
    assert all(task["worker"] == SECOND for task in flower.get("/api/tasks", workername=SECOND).json.values())
    newest = ids(workername=SECOND, taskname=f"{APP}.add", sort_by="-received", limit=3)
    assert newest == [call.id for call in reversed(calls)]
    assert ids(search="state:FAILURE", limit=1, taskname=f"{APP}.add") == []
    assert ids(search="args:700102") == [calls[1].id], "a bare word is looked for in the ids too"
    failed = watched.send("fail", "listed")
    flower.task(failed.id, "FAILURE")
    assert failed.id in ids(state="FAILURE")
    assert {f"{APP}.add", f"{APP}.fail"} <= set(flower.get("/api/task/types").json["task-types"])


def test_flower_sends_calls_that_we_run(flower: Flower, watched: Watched) -> None:
    """Without a Celery app the exchange is named: a queue of ours it would declare in another way."""
    where = {"exchange": "amqptasks", "routing_key": "amqptasks"}
    answer = flower.post(f"/api/task/send-task/{APP}.add", {"args": [20, 22], **where})

    assert answer.status == 200, answer
    assert watched.app.AsyncResult(answer.json["task-id"]).get(timeout=30) == 42
    assert flower.task(answer.json["task-id"], "SUCCESS")["result"] == "42"


def test_a_flower_that_knows_the_tasks_calls_them_and_reads_results(
    knowing: Flower, watched: Watched
) -> None:
    applied = knowing.post(f"/api/task/apply/{APP}.add", {"args": [1, 2], "timeout": 15})
    assert (applied.json["result"], applied.json["state"]) == (3, "SUCCESS")

    sent = knowing.post(f"/api/task/async-apply/{APP}.add", {"args": [3, 4], "countdown": 0.2}).json
    assert watched.app.AsyncResult(sent["task-id"]).get(timeout=30) == 7
    assert knowing.get(f"/api/task/result/{sent['task-id']}").json["result"] == 7

    by_name = knowing.post(f"/api/task/send-task/{APP}.fail", {"args": ["told"]}).json
    knowing.task(by_name["task-id"], "FAILURE")
    read = knowing.get(f"/api/task/result/{by_name['task-id']}", timeout=10).json
    assert (read["state"], read["result"]) == ("FAILURE", "ValueError('told')")
    assert "raise ValueError(why)" in read["traceback"]


def test_abort_reaches_a_task_that_runs(knowing: Flower, watched: Watched) -> None:
    call = watched.send("patient")
    knowing.task(call.id, "STARTED")

    assert knowing.said(f"/api/task/abort/{call.id}") == f"Aborted '{call.id}'"
    assert call.get(timeout=30) == "aborted"


def test_revoke_keeps_a_call_from_running_and_terminate_ends_it(
    flower: Flower, watched: Watched, tmp_path: Path
) -> None:
    later = watched.send("add", 1, 1, queue="later")
    assert flower.said(f"/api/task/revoke/{later.id}") == f"Revoked '{later.id}'"
    wait_until(lambda: later.id in watched.ask("revoked"), 10)
    flower.said(f"/api/worker/queue/add-consumer/{FIRST}", queue="later")
    assert flower.task(later.id, "REVOKED")["started"] is None
    flower.said(f"/api/worker/queue/cancel-consumer/{FIRST}", queue="later")

    running = watched.send("held", str(tmp_path / "never"))
    flower.task(running.id, "STARTED")
    flower.said(f"/api/task/revoke/{running.id}", terminate="true", signal="SIGKILL")
    assert flower.task(running.id, "REVOKED")["revoked"] > 0
    wait_until(running.ready, 10)
    assert running.state == "REVOKED"
    assert {later.id, running.id} <= set(flower.worker(FIRST)["revoked"])


def test_limits_are_set_by_a_flower_that_knows_the_tasks(
    flower: Flower, knowing: Flower, watched: Watched, tmp_path: Path
) -> None:
    name = f"{APP}.held"
    assert flower.post(f"/api/task/rate-limit/{name}", workername=FIRST, ratelimit=7).status == 404

    said = knowing.said(f"/api/task/rate-limit/{name}", workername=FIRST, ratelimit=7)
    assert said == "new rate limit set successfully"
    assert f"{name} [rate_limit=7]" in watched.ask("registered")
    assert f"{name} [rate_limit=7]" in knowing.worker(FIRST)["registered"]
    assert name in watched.ask("registered", SECOND)
    knowing.said(f"/api/task/rate-limit/{name}", workername=FIRST, ratelimit=0)
    assert name in watched.ask("registered")

    assert "set" in knowing.said(f"/api/task/timeout/{name}", workername=FIRST, hard=1)
    killed = watched.send("held", str(tmp_path / "never"))
    failed = knowing.task(killed.id, "FAILURE")
    assert failed["exception"] == "TimeLimitExceeded(1)"
    knowing.said(f"/api/task/timeout/{name}", workername=FIRST, hard=0)
    assert knowing.post(f"/api/task/timeout/{name}", workername="nobody@here", soft=1).status == 404


# --- queues, metrics -------------------------------------------------------------------------------------


def test_queues_are_counted(flower: Flower, watched: Watched) -> None:
    """By RabbitMQ's management API, for the queues that our workers say they consume."""
    flower.said(f"/api/worker/queue/cancel-consumer/{SECOND}", queue=OTHER)
    calls = [watched.send("add", number, 0, queue=OTHER) for number in range(3)]

    def lengths() -> dict[str, int]:
        found = flower.get("/api/queues/length").json["active_queues"]
        return {queue["name"]: queue.get("messages", -1) for queue in found}

    try:
        wanted = {OTHER: 3, "amqptasks": 0}
        wait_until(lambda: lengths().items() >= wanted.items(), 20, lambda: str(lengths()), 0.2)
    finally:
        flower.said(f"/api/worker/queue/add-consumer/{SECOND}", queue=OTHER)
    assert [call.get(timeout=30) for call in calls] == [0, 1, 2]


def test_metrics_count_what_our_workers_did(flower: Flower, watched: Watched) -> None:
    assert flower.get("/healthcheck").text == "OK"
    name = f"{APP}.total"

    def counted(kind: str) -> float:
        wanted = f'flower_events_total{{task="{name}",type="{kind}",worker="{SECOND}"}} '
        lines = flower.get("/metrics").text.splitlines()
        return float(next((line for line in lines if line.startswith(wanted)), "0").rpartition(" ")[2])

    before = counted("task-succeeded")
    calls = [watched.send("total", [number], queue=OTHER) for number in range(5)]
    for call in calls:
        flower.task(call.id, "SUCCESS")

    for kind in ("task-received", "task-started", "task-succeeded"):
        assert counted(kind) == before + 5
    metrics = flower.get("/metrics").text
    assert f'flower_worker_online{{worker="{SECOND}"}} 1.0' in metrics
    assert f'flower_task_runtime_seconds_count{{task="{name}",worker="{SECOND}"}}' in metrics
    assert f'flower_worker_prefetched_tasks{{task="{name}",worker="{SECOND}"}} 0.0' in metrics


# --- the end of a worker ---------------------------------------------------------------------------------


def test_shutdown_ends_a_worker_and_a_restarted_one_is_seen(flower: Flower, watched: Watched) -> None:
    ending = "ending@here"
    worker = watched.worker(ending, "-c", "1", "-Q", "ending")
    flower.online(ending)
    pid = flower.worker(ending)["stats"]["pid"]

    assert flower.said(f"/api/worker/shutdown/{ending}") == "Shutting down!"
    assert worker.wait(15) == 0
    worker.assert_gone()
    wait_until(lambda: flower.get("/api/workers", status="true").json[ending] is False, 10)

    again = watched.worker(ending, "-c", "1", "-Q", "ending", events=False)
    flower.online(ending)
    assert flower.worker(ending)["stats"]["pid"] == again.pid != pid

    calls = []

    def told() -> bool:
        calls.append(watched.send("add", 1, 1, queue="ending"))
        assert calls[-1].get(timeout=30) == 2
        return any(flower.get(f"/api/task/info/{call.id}").status == 200 for call in calls)

    # It was not told to send events; Flower tells it, every five seconds.
    wait_until(told, 20, interval=0.2)
    again.stop()
