"""The worker's command line as the value that it hands over. No worker runs here, and no app is imported."""

import subprocess
import sys

import pytest

from amqptasks.cli import worker as module
from amqptasks.worker.options import WorkerOptions


@pytest.fixture
def handed(cli, monkeypatch):
    """Run `worker` with words and return the options that the worker gets."""
    seen = []

    def run_worker(options: WorkerOptions) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(module, "run_worker", run_worker)

    def run(*words: str) -> WorkerOptions:
        ran = cli(*words)
        assert (ran.code, ran.err) == (0, "")
        return seen[-1]

    return run


def test_without_options_the_settings_decide(cli, handed) -> None:
    options = handed("-A", "tasks", "worker")

    assert options == WorkerOptions(app="tasks", workdir=str(cli.folder))


def test_options_arrive_typed(handed) -> None:
    options = handed(
        "-A", "proj", "-b", "amqp://me:pw@host/v", "worker", "-Q", "short, long", "-X", "slow", "-c", "3", "-P", "threads",
        "-l", "info", "-n", "w1@%h", "-I", "a.tasks,b.tasks", "--prefetch-multiplier", "auto",
        "--max-tasks-per-child", "100", "--max-memory-per-child", "200000", "--time-limit", "2.5",
        "--soft-time-limit", "2", "--discard", "-C", "-q", "-f", "%n%I.log",
    )  # fmt: skip

    assert options.queues == ("short", "long")
    assert options.exclude_queues == ("slow",)
    assert options.include == ("a.tasks", "b.tasks")
    assert options.loglevel == "INFO"
    assert options.node.startswith("w1@")
    assert (options.purge, options.quiet, options.colour) == (True, True, False)
    assert options.settings == {
        "broker_url": "amqp://me:pw@host/v",
        "worker_concurrency": 3,
        "worker_pool": "threads",
        "worker_prefetch_multiplier": "auto",
        "worker_max_tasks_per_child": 100,
        "worker_max_memory_per_child": 200000,
        "task_time_limit": 2.5,
        "task_soft_time_limit": 2.0,
    }


def test_settings_after_two_dashes_are_read_as_their_types(handed) -> None:
    options = handed("worker", "-A", "tasks", "--", "broker_heartbeat=30", "task_acks_late=true")

    assert options.overrides == {"broker_heartbeat": 30.0, "task_acks_late": True}


@pytest.mark.parametrize("words", ["-Ofair", "-O fair", "-O default", "--without-gossip --without-mingle"])
def test_what_celery_can_turn_off_is_accepted_and_changes_nothing(handed, words) -> None:
    assert handed("-A", "tasks", "worker", *words.split()) == handed("-A", "tasks", "worker")


def test_events_are_turned_on_and_heartbeats_off(handed) -> None:
    options = handed("-A", "tasks", "worker", "-E", "--without-heartbeat")

    assert options.settings["worker_send_task_events"] is True
    assert options.heartbeats is False
    assert handed("-A", "tasks", "worker").heartbeats is True
    assert "worker_send_task_events" not in handed("-A", "tasks", "worker").settings


def test_autoscaling_is_read_as_celery_writes_it(handed) -> None:
    options = handed("-A", "tasks", "worker", "--autoscale=10,3", "-c", "7")

    assert options.autoscale == (10, 3)
    assert options.slots == 3


@pytest.mark.parametrize(
    ("limits", "said"), [("2,5", "MAX comes first"), ("many", "is not MAX,MIN"), ("3;1", "such as 10,2")]
)
def test_limits_that_make_no_sense_are_mistakes(cli, limits: str, said: str) -> None:
    ran = cli("-A", "tasks", "worker", "--autoscale", limits)

    assert ran.code == 2
    assert said in ran.err


def test_options_come_from_the_environment(handed, monkeypatch) -> None:
    monkeypatch.setenv("AMQPTASKS_APP", "proj")
    monkeypatch.setenv("AMQPTASKS_WORKER_QUEUES", "short,long")
    monkeypatch.setenv("AMQPTASKS_WORKER_CONCURRENCY", "auto")

    options = handed("worker")

    assert (options.app, options.queues, options.concurrency) == ("proj", ("short", "long"), 0)


def test_the_command_imports_no_app(handed, cli) -> None:
    cli.write("tasks.py", "raise RuntimeError('imported')\n")

    assert handed("-A", "tasks", "worker").app == "tasks"


def test_the_exit_code_is_the_workers(cli, monkeypatch) -> None:
    monkeypatch.setattr(module, "run_worker", lambda options: 73)

    assert cli("-A", "tasks", "worker").code == 73


def test_the_parent_loads_no_part_of_the_app_floor() -> None:
    code = "import sys, amqptasks.cli.worker; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not set(ran.stdout.split()) & {"amqptasks.app", "amqptasks.task", "amqptasks.canvas"}


@pytest.mark.parametrize("option", sorted({*module.ABSENT, *module._SAME}))
def test_an_option_that_is_not_offered_says_what_to_do_instead(cli, option) -> None:
    ran = cli("-A", "tasks", "worker", option)

    assert ran.code == 2
    assert ran.err.startswith(f"error: there is no option {option}; ")
