"""Tasks that die until they are mended: while the file DEAD_MENDED names is not there."""

import os
import signal

from amqptasks import App
from amqptasks.errors import Reject
from integration.apps.fault_effects import Effects

app = App("dead")
effects = Effects(os.environ["FAULT_EFFECTS"])


def mended() -> bool:
    return os.path.exists(os.environ["DEAD_MENDED"])


@app.task(acks_late=True)
def rejects(number: int) -> None:
    if not mended():
        raise Reject("not before it is mended", requeue=False)
    effects.add("F", number)


@app.task(acks_late=True, reject_on_worker_lost=True)
def crashes(number: int) -> None:
    if not mended():
        os.kill(os.getpid(), signal.SIGKILL)
    effects.add("F", number)


if mended():

    @app.task
    def unknown(number: int) -> None:
        effects.add("F", number)
