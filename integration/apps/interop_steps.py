"""The tasks that both kinds of worker have, registered alike on either kind of app.

Knows neither package: whatever it needs of them, the request and `retry` have under the same names in both.
"""

import os
import signal
import time
from datetime import datetime
from typing import Any


class CardRefused(Exception):
    """An exception of the application's own, importable on both sides."""

    def __init__(self, card: str, code: int) -> None:
        super().__init__(card, code)
        self.card = card
        self.code = code


def register(app: Any, side: str, **options: Any) -> None:
    """Give `app` every task here, named `interop.*`; `side` is what its workers answer when asked who they are.

    `options` go to every task.
    """
    for function in (add, echo, kinds, divide, refuse, hide, crash, sleep, note):
        app.task(name=f"interop.{function.__name__}", **options)(function)
    for function in (told, told_after, flaky, busy):
        app.task(name=f"interop.{function.__name__}", bind=True, max_retries=5, **options)(function)

    @app.task(name="interop.step", **options)
    def step(trail: list[str], mark: str = "") -> list[str]:
        return [*trail, f"{mark}{side}"]

    @app.task(name="interop.handed", bind=True, **options)
    def handed(self: Any, *queues: str) -> list[Any]:
        """Retried on each of the queues in turn; who ran it last, and which attempt that was."""
        if self.request.retries < len(queues):
            raise self.retry(queue=queues[self.request.retries], countdown=1)
        return [side, self.request.retries]

    @app.task(name="interop.effect", **options)
    def effect(path: str, number: int) -> None:
        append(path, f"{number} {side}")

    @app.task(name="interop.failed", **options)
    def failed(task_id: str, *, path: str) -> None:
        append(path, f"{side} {task_id}")

    @app.task(name="interop.blamed", **options)
    def blamed(request: Any, exc: BaseException, traceback: Any, *, path: str) -> None:
        append(path, f"{side} {request.id} {exc!r}")

    @app.task(name="interop.survive", acks_late=True, reject_on_worker_lost=True, **options)
    def survive(path: str) -> str:
        if not os.path.exists(path):
            append(path, side)
            crash()
        return "survived"


def append(path: str, line: str) -> None:
    """One write, so that lines of several processes never mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def add(x: Any, y: Any) -> Any:
    return x + y


def echo(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


def kinds(*values: Any) -> Any:
    return [[type(value).__name__ for value in values], list(values)]


def divide(x: float, y: float) -> float:
    return x / y


def refuse(card: str, code: int) -> None:
    raise CardRefused(card, code)


def hide(reason: str) -> None:
    class Hidden(Exception):
        """No other process can import it."""

    raise Hidden(reason)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def note(value: Any, path: str) -> None:
    append(path, repr(value))


def told(self: Any) -> dict[str, Any]:
    """What the worker was told of this call, and when it began."""
    request = self.request
    return {
        "began": time.time(),
        "priority": request.delivery_info["priority"],
        "retries": request.retries,
        "root": request.root_id,
        "parent": request.parent_id,
        "origin": request.origin,
        "limits": list(request.timelimit or ()),
        "headers": (request.headers or {}).get("tenant"),
        "expires": _text(request.expires),
    }


def told_after(self: Any, times: int, countdown: float = 0) -> dict[str, Any]:
    """As `told`, of attempt number `times`."""
    if self.request.retries < times:
        raise self.retry(exc=CardRefused("busy", self.request.retries), countdown=countdown)
    return told(self)


def flaky(self: Any, times: int, countdown: float = 0) -> int:
    """Succeed at attempt number `times`, counted from zero."""
    if self.request.retries < times:
        raise self.retry(exc=CardRefused("busy", self.request.retries), countdown=countdown)
    return int(self.request.retries)


def busy(self: Any, path: str) -> str:
    """Be retried for as long as the file is not there."""
    if not os.path.exists(path):
        raise self.retry(exc=CardRefused("busy", 5), countdown=1, max_retries=30)
    return "free"


def _text(moment: Any) -> Any:
    return moment.isoformat() if isinstance(moment, datetime) else moment
