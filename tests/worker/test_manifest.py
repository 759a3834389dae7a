"""What has no effect yet is named when a worker starts, not swallowed."""

from __future__ import annotations

from amqptasks import App
from amqptasks.worker import manifest


def warnings(app: App) -> str:
    app.finalize()
    return "\n".join(manifest.build(app, queues=(), exclude=()).warnings)


def test_a_setting_that_nothing_reads_yet_is_named(app: App) -> None:
    app.conf.task_retry_on_worker_lost = True

    assert "task_retry_on_worker_lost has no effect in this version" in warnings(app)


def test_a_task_whose_rate_limit_is_not_kept_is_named(app: App) -> None:
    app.task(name="proj.slow", rate_limit="10/m")(lambda: None)

    assert "rate_limit of proj.slow has no effect in this version" in warnings(app)


def test_an_ordinary_app_is_told_nothing(app: App) -> None:
    app.conf.task_acks_late = True
    app.task(name="proj.add", acks_late=True)(lambda x, y: x + y)

    assert warnings(app) == ""
