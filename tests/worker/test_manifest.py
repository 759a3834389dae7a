"""What has no effect yet is named when a worker starts, not swallowed."""

from __future__ import annotations

import pytest

from amqptasks import App, signals
from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker import manifest


def warnings(app: App) -> str:
    app.finalize()
    return "\n".join(manifest.build(app, queues=(), exclude=()).warnings)


def test_a_setting_that_nothing_reads_yet_is_named(app: App) -> None:
    app.conf.task_remote_tracebacks = True

    assert "task_remote_tracebacks has no effect in this version" in warnings(app)


def test_an_ordinary_app_is_told_nothing(app: App) -> None:
    app.conf.task_acks_late = True
    app.task(name="proj.add", acks_late=True)(lambda x, y: x + y)

    assert warnings(app) == ""


def test_in_the_asyncio_pool_limits_are_kept_for_coroutines_alone(app: App) -> None:
    @app.task(time_limit=1)
    async def waits() -> None: ...

    @app.task(time_limit=1)
    def blocks() -> None: ...

    app.conf.worker_pool = "asyncio"

    assert (
        f"time limits are not kept by the asyncio pool, which cannot stop a thread; use prefork for {blocks.name}"
        in (warnings(app).splitlines())
    )


def test_a_child_of_many_tasks_is_not_replaced_after_one(app: App) -> None:
    app.conf.worker_max_tasks_per_child = 10
    assert warnings(app) == ""

    app.conf.worker_pool = "asyncio"
    assert "no effect in the asyncio pool" in warnings(app)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("result_serializer", "pickel", "no serializer is named 'pickel'; did you mean 'pickle'"),
        ("task_serializer", "jsn", "no serializer is named 'jsn'; did you mean 'json'"),
        ("task_compression", "gz", "no compression is named 'gz'"),
        ("result_compression", "gz", "no compression is named 'gz'"),
    ],
)
def test_what_nothing_can_write_ends_the_start_not_every_task(
    app: App, setting: str, value: str, said: str
) -> None:
    setattr(app.conf, setting, value)

    with pytest.raises(ImproperlyConfigured, match=f"{setting}.*{said}"):
        warnings(app)


def test_a_serializer_that_the_receiver_would_refuse_is_named(app: App) -> None:
    app.conf.update(task_serializer="pickle", result_serializer="yaml")

    assert warnings(app).splitlines() == [
        "task_serializer is 'pickle', which accept_content lets nobody read; add it there",
        "result_serializer is 'yaml', which accept_content lets nobody read; add it there",
    ]
    app.conf.update(accept_content=["json", "application/x-python-serialize"], result_accept_content=["yaml"])
    assert warnings(app) == ""


@pytest.mark.parametrize(("setting", "limit"), [(None, None), (10, 10)])
def test_a_limit_of_no_seconds_is_none(app: App, setting: float | None, limit: float | None) -> None:
    """As in Celery: 0 says nothing, so the setting counts."""
    app.conf.update(task_time_limit=setting, task_soft_time_limit=setting)

    @app.task(time_limit=0, soft_time_limit=0)
    def free() -> None: ...

    @app.task(time_limit=0, soft_time_limit=5)
    def soft() -> None: ...

    read = manifest.options_of(free, app.conf)
    assert (read.time_limit, read.soft_time_limit) == (limit, limit)
    assert manifest.options_of(soft, app.conf).soft_time_limit == 5


def test_a_setting_of_no_seconds_is_no_limit(app: App) -> None:
    app.conf.update(task_time_limit=0, task_soft_time_limit=0)

    @app.task
    def free() -> None: ...

    read = manifest.options_of(free, app.conf)
    assert (read.time_limit, read.soft_time_limit) == (None, None)


def test_a_signal_that_is_never_sent_is_named(app: App) -> None:
    def receiver(**_: object) -> None: ...

    signals.heartbeat_sent.connect(receiver)
    try:
        assert "the signal heartbeat_sent has receivers, and is not sent" in warnings(app)
    finally:
        signals.heartbeat_sent.disconnect(receiver)
