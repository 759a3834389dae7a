"""Many workers beside each other: what each of them costs does not depend on how many there are."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import App

from .conftest import ROOT, PrivateNode

FEW, MANY = 4, 16


@pytest.fixture(scope="module")
def fleet(broker_url: str) -> Iterator[dict[int, dict[str, float]]]:
    """What was counted at each size; the larger one stays."""
    command = [sys.executable, "benchmarks/fleet.py", "2.5", str(FEW), str(MANY)]
    env = os.environ | {"AMQPTASKS_BROKER_URL": broker_url, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            yield {line["workers"]: line for line in lines}
            process.stdin.close()
            process.wait(30)
        finally:
            process.kill()


def test_nobody_listens_to_the_heartbeats_of_the_others(fleet: Any, node: PrivateNode, vhost: str) -> None:
    listed = node.ctl("list_bindings", "-p", vhost, "source_name", "destination_name", "--silent")
    # The default exchange has no name.
    bound = [line.strip().rpartition("\t")[::2] for line in listed.splitlines()]

    assert [source for source, _ in bound if source == "celeryev"] == []
    assert len({queue for source, queue in bound if source == "celery.pidbox"}) == MANY
    assert fleet[FEW]["delivered"] == fleet[MANY]["delivered"] == 0


def test_a_worker_sends_as_much_among_many_as_among_few(fleet: Any) -> None:
    # A window in which the machine stood still is longer, and nobody has sent more in it.
    each = {size: fleet[size]["published"] * fleet[size]["seconds"] / size for size in (FEW, MANY)}

    assert each[FEW] > 0
    # One heartbeat in two seconds: in a window of two and a half each has sent one or two; if it were more among
    # more, it would be four times as much.
    assert each[MANY] < 3 * each[FEW]


def test_all_of_them_answer_one_command(fleet: Any, broker_url: str) -> None:
    names = [f"w{number}@fleet" for number in range(MANY)]
    with App("asking", broker=broker_url) as app:
        replies = app.control.inspect(names, timeout=60.0).ping()

        assert replies == {name: {"ok": "pong"} for name in names}
        assert app.control.inspect(limit=MANY, timeout=60.0).ping() == replies
