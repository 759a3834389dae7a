"""Beats in the hands of an operator: no beat, no broker, a leader that hangs, processes in the background, the guide."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.support import WorkerProcess, wait_until
from integration.support.beats import APP, Start, beat, effects, patient, schedule
from integration.support.processes import ROOT, Process
from tests.support.pages import TYPED, blocks, commands

__all__ = ["beat"]

GUIDE = "docs/guide/scheduling.md"

pytestmark = pytest.mark.timeout(300)


def test_what_is_said_while_no_beat_runs_outlives_the_broker_s_restart_and_is_done_then(
    node: PrivateNode, fresh_vhost: str, beat: Start
) -> None:
    url = node.url(fresh_vhost)
    first = beat(entries=2, every=3600)
    first.wait_log("beat: leads")
    assert schedule(url, "add", "mine", f"{APP}.tick", "--every", "3600", "-a", '["mine"]').returncode == 0
    assert first.stop() == 0
    late = schedule(url, "pause", "e0", patience=5.0)
    assert late.returncode == 69
    assert "the next one to lead will do as you said" in late.stderr
    node.kill()
    second = beat(entries=2, every=3600)  # waits for a broker
    second.wait_log("beat: .*refused|beat: .*cannot be reached|beat: .*connect")
    node.start()
    second.wait_log("beat: leads", 60)
    rows = {row["name"]: row for row in json.loads(schedule(url, "list", "--json").stdout)}

    assert {name: (row["paused"], row["added"]) for name, row in rows.items()} == {
        "e0": (True, False),
        "e1": (False, False),
        "mine": (False, True),
    }


def test_a_leader_that_hung_sends_nothing_of_what_the_next_one_sent(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, beat: Start, worker: Callable[..., WorkerProcess]
) -> None:
    env = {"BEAT_EFFECTS": str(tmp_path / "effects"), "BEAT_ENTRIES": "20", "BEAT_EVERY": "1"}
    working = worker(
        APP, "-c", "1", "-l", "INFO", broker_url=node.url(fresh_vhost), env=env, ready=r" ready\."
    )
    stale = beat(entries=20, every=1, AMQPTASKS_BROKER_HEARTBEAT="2")
    stale.wait_log("beat: leads")
    fresh = beat(entries=20, every=1)
    wait_until(lambda: len(effects(tmp_path)) >= 40, 30, "two bursts")
    stale.signal(signal.SIGSTOP)
    led = stale.log().count("beat: leads")  # more than once, if the machine stood still
    try:
        fresh.wait_log("beat: leads", 60)
        done = len(effects(tmp_path))
        wait_until(lambda: len(effects(tmp_path)) >= done + 40, 30, "two bursts of the next leader")
    finally:
        stale.signal(signal.SIGCONT)
    stale.wait_log("beat: (?!leads)", 30)
    done = len(effects(tmp_path))
    wait_until(lambda: len(effects(tmp_path)) >= done + 40, 30, "two more bursts")
    assert stale.log().count("beat: leads") == led
    assert fresh.stop() == 0
    wait_until(lambda: stale.log().count("beat: leads") > led, 30, "the old leader leads again")
    runs = effects(tmp_path)
    dropped = working.log().count("dropped a redelivery of") + working.log().count(
        "came again and is not run twice"
    )
    dues = sorted({due for _, entry, due in runs if entry == "e0"})
    gap = max(later - earlier for earlier, later in pairwise(dues))
    print(f"runs={len(runs)} doubles_dropped={dropped} longest_gap={gap}")

    assert max(Counter((entry, due) for _, entry, due in runs).values()) == 1
    assert gap == timedelta(seconds=1)


def test_the_commands_of_the_guide(node: PrivateNode, fresh_vhost: str, tmp_path: Path) -> None:
    """Each is typed as it stands, in its order; what the page says that it prints, it prints."""
    text = "\n".join(block.text for block in blocks(GUIDE) if block.language == "python")
    (tmp_path / "shop.py").write_text(text)
    environment = {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    pid = tmp_path / "run/beat.pid"
    first: Process | None = None
    typed = []
    try:
        for block in (block for block in blocks(GUIDE) if block.language == TYPED):
            for command in commands(block):
                words = shlex.split(command.words)
                typed.append(words)
                line = patient(*words[1:]) if "schedule" in words else [sys.executable, "-m", *words]
                if "beat" in words and "-D" not in words:
                    first = Process(line, env=environment, cwd=tmp_path, log=tmp_path / "beat.log").start()
                    first.wait_log("beat: leads")
                    continue
                ran = subprocess.run(
                    line,
                    cwd=tmp_path,
                    env=os.environ | environment,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert ran.returncode == 0, f"{command.words}: {ran.stdout}{ran.stderr}"
                assert command.output.strip() in ("", ran.stdout.strip()), command.words
        second = int(pid.read_text())
        again = [sys.executable, "-m", *typed[-1]]
        twice = subprocess.run(
            again, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=120
        )
        assert twice.returncode != 0
        assert f"process {second} has the pid file" in twice.stderr
        assert first is not None
        assert first.stop() == 0
        log = tmp_path / "run/beat.log"
        wait_until(lambda: "beat: leads shop" in log.read_text(), 30, "the one in the background leads")
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: not pid.exists(), 20, "its pid file is gone")
    finally:
        if first is not None:
            first.end()
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)

    assert {words[words.index("schedule") + 1] for words in typed if "schedule" in words} == {
        "list", "add", "pause", "resume", "run", "remove",
    }  # fmt: skip
