"""The worker's options as a value: node names, log paths, concurrency, and which of them are settings."""

import pytest

from amqptasks.worker import options as module
from amqptasks.worker.options import WorkerOptions, expand, node_name


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("", "amqptasks@web1.example.com"),
        ("w1@%h", "w1@web1.example.com"),
        ("w1@", "w1@web1.example.com"),
        ("@other", "amqptasks@other"),
        ("other", "amqptasks@other"),
        ("w1@%n", "w1@web1"),
        ("w1@%n.%d", "w1@web1.example.com"),
        ("%n-a@%h", "web1-a@web1.example.com"),
        ("50%%@%h", "50%@web1.example.com"),
    ],
)
def test_a_node_name_is_completed_as_celery_completes_it(pattern, name) -> None:
    assert node_name(pattern, "web1.example.com") == name


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("%n%I.log", "w1.log"),
        ("/var/log/%h/%p.%i.log", "/var/log/web.example/w1@web.example.0.log"),
        ("100%.log", "100%.log"),
        ("%x", "%x"),
    ],
)
def test_a_log_path_is_made_of_the_nodes_name(pattern, path) -> None:
    assert expand(pattern, "w1@web.example") == path


def test_auto_concurrency_reaches_the_settings_as_a_number(monkeypatch) -> None:
    monkeypatch.setattr(module.cpus, "available", lambda: 7)

    assert WorkerOptions(concurrency=0).settings == {"worker_concurrency": 7}


def test_what_was_not_said_is_no_setting() -> None:
    assert WorkerOptions(overrides={"broker_url": "amqp://"}).settings == {"broker_url": "amqp://"}


def test_autoscaling_begins_with_the_least_whatever_the_concurrency_says() -> None:
    options = WorkerOptions(concurrency=0, autoscale=(9, 3))

    assert options.slots == 3
    assert options.settings == {"worker_concurrency": 3}
