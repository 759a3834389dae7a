"""What has no effect yet is named when a worker starts, not swallowed."""

from __future__ import annotations

from amqptasks import App
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
