"""Two queues, for short tasks and for long ones, and one that is due every minute."""

import time

from amqptasks import App

app = App("proj")
app.conf.task_routes = {"proj.tasks.render": {"queue": "long"}}
app.conf.task_default_queue = "short"
# After SIGQUIT, or a second SIGTERM, what runs has so many seconds.
app.conf.worker_soft_shutdown_timeout = 20


@app.task
def mail(address: str) -> str:
    return f"sent to {address}"


@app.task(acks_late=True, reject_on_worker_lost=True)
def render(pages: int) -> int:
    time.sleep(pages)
    return pages


app.add_periodic_task(60.0, mail.s("ops@example.org"), name="every minute")
