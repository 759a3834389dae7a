"""What a worker says when it starts."""

from dataclasses import dataclass

from amqptasks.worker import banner
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import Manifest, TaskOptions, WorkerQueue


@dataclass
class Pool:
    name: str = "prefork"
    size: int = 4


MANIFEST = Manifest(
    app="shop:0x7f00",
    settings={
        "broker_url": "amqp://me:secret@broker//;amqp://me:hidden@other//",
        "worker_prefetch_multiplier": "auto",
    },
    queues=(
        WorkerQueue("short", exchange="amqptasks", routing_key="short"),
        WorkerQueue("news", exchange="news", exchange_type="topic", routing_key="news.#"),
    ),
    tasks={name: TaskOptions(name) for name in ("tasks.mul", "tasks.add")},
    results="redis://me:private@store/0",
)


def test_the_banner_shows_node_app_transport_results_concurrency_queues() -> None:
    lines = banner.render(MANIFEST, WorkerOptions(hostname="w1@web"), Pool()).splitlines()

    assert lines[0] == f"w1@web amqptasks {banner.installed('amqptasks')}"
    assert lines[2:] == [
        "",
        "[config]",
        ".> app:         shop:0x7f00",
        ".> transport:   amqp://me:**@broker:5672//; amqp://me:**@other:5672//",
        ".> results:     redis://me:**@store/0",
        ".> concurrency: 4 (prefork)",
        ".> prefetch:    auto",
        "",
        "[queues]",
        ".> short exchange=amqptasks(direct) key=short",
        ".> news  exchange=news(topic) key=news.#",
    ]


def test_a_pool_that_follows_its_work_shows_its_limits() -> None:
    lines = banner.render(MANIFEST, WorkerOptions(autoscale=(8, 2)), Pool())

    assert ".> concurrency: {min=2, max=8} (prefork)" in lines


def test_the_tasks_are_listed_from_info_on() -> None:
    quiet = banner.render(MANIFEST, WorkerOptions(loglevel="WARNING"), Pool())
    chatty = banner.render(MANIFEST, WorkerOptions(loglevel="INFO"), Pool())

    assert "[tasks]" not in quiet
    assert chatty.endswith("[tasks]\n  . tasks.add\n  . tasks.mul\n")


def test_no_password_is_shown() -> None:
    text = banner.render(MANIFEST, WorkerOptions(loglevel="DEBUG"), Pool())

    for password in ("secret", "hidden", "private"):
        assert password not in text


def test_without_results_it_says_so() -> None:
    manifest = Manifest(
        app="a", settings={"broker_url": "amqp://", "worker_prefetch_multiplier": 4}, queues=(), tasks={}
    )

    text = banner.render(manifest, WorkerOptions(), Pool())

    assert ".> results:     disabled" in text
    assert ".> prefetch:    4 per slot" in text


def test_ready_names_the_node() -> None:
    assert banner.ready_line("w1@web") == "w1@web ready."
