# ruff: noqa: INP001, T201 (user code: it is checked, not run)
"""User code as mypy must understand it: `mypy --strict typing/api.py` is part of `make check`. Never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from amqptasks import (
    App,
    AsyncResult,
    GroupResult,
    Queue,
    Signature,
    Task,
    chain,
    current_app,
    get_task_logger,
    group,
    shared_task,
    signature,
)
from amqptasks.commands import CommandState, inspect_command
from amqptasks.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded, Unroutable

app = App("proj", broker="amqp://guest@localhost//", backend="rpc://", timezone="Europe/London")
app.conf.update(enable_utc=True, task_queues=[Queue("long"), Queue("short")])
logger = get_task_logger(__name__)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True, acks_late=True, max_retries=5)
def fetch(self: Task[..., Any], url: str) -> bytes:
    try:
        logger.info("%s %s", self.request.id, self.request.retries)
        return url.encode()
    except SoftTimeLimitExceeded:
        raise Reject("too slow", requeue=False) from None
    except OSError as error:
        raise self.retry(exc=error, countdown=10) from error


@app.task
async def greet(name: str) -> str:
    return name


@app.task(name="proj.nothing")
def nothing() -> None:
    raise Ignore


@shared_task
def library(x: float) -> float:
    return x


class Logging(Task[..., Any]):
    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        print(task_id, exc)


class Auditing(Task[..., Any]):
    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        print(task_id, retval)


class Doubling(Task[[int], int]):
    def run(self, x: int) -> int:
        return 2 * x


doubling = app.register_task(Doubling)
assert_type(doubling, Doubling)
assert_type(app.register_task(Doubling()), Doubling)
assert_type(doubling.delay(1).get(), int)


@app.task(base=Logging)
def watched(x: int) -> list[int]:
    return [x]


def calls() -> None:
    assert_type(add(2, 2), int)
    assert_type(add.delay(2, y=2), AsyncResult[int])
    assert_type(add.delay(2, 2).get(timeout=1), int)
    assert_type(add.apply_async((2, 2), queue="lopri", countdown=10), AsyncResult[int])
    assert_type(fetch.delay("http://localhost"), AsyncResult[bytes])
    assert_type(fetch("http://localhost"), bytes)
    assert_type(greet.delay("you"), AsyncResult[str])
    assert_type(nothing.delay().get(), None)
    assert_type(library.delay(1.0).get(), float)
    assert_type(watched.delay(1).get(), list[int])
    assert_type(add.retry(), Retry)
    assert_type(add.s(2, 2), Signature[int])
    assert_type(add.s(2).delay(2), AsyncResult[int])
    assert_type(add.si(2, 2).set(queue="q").apply_async().get(timeout=1), int)
    assert_type(~fetch.s("http://localhost"), bytes)
    assert_type(add.map([1, 2]).delay(), AsyncResult[list[int]])
    assert_type(group(add.s(1), add.s(2)).delay(), GroupResult)
    assert_type(group(add.s(1), add.s(2)).apply_async(), GroupResult)
    assert_type(signature("proj.add", (2, 2)), Signature)
    assert_type(current_app(), App)
    chain(add.s(2, 2), add.s(4)).apply_async()
    add.apply_async((1, 2), expires=datetime.now(UTC), retry_policy={"max_retries": 2}, ignore_result=True)


async def waits() -> None:
    assert_type(await greet("you"), str)
    assert_type(await add.adelay(2, y=2), AsyncResult[int])
    assert_type(await (await add.adelay(2, 2)).aget(timeout=1), int)
    assert_type(await add.aapply_async((2, 2), queue="lopri", countdown=10), AsyncResult[int])
    assert_type(await greet.adelay("you"), AsyncResult[str])
    assert_type(await app.asend_task("proj.add", (2, 2)), AsyncResult[Any])
    grouped = group(add.s(1), add.s(2)).apply_async()
    assert_type(await grouped.aget(timeout=1), list[Any])
    async for result in grouped:
        assert_type(result, AsyncResult[Any])
    async with app as entered, app.abatch() as batch:
        assert_type(entered, App)
        assert_type(batch.published, int)


@app.control_command(args=[("n", int)], signature="[N]")
def increase(state: CommandState, n: int = 1) -> dict[str, str]:
    return {"ok": f"{state.hostname} {n}"}


@inspect_command
def look(state: CommandState) -> str:
    return state.hostname


def own_commands(state: CommandState) -> None:
    assert_type(increase(state, 2), dict[str, str])
    assert_type(look(state), str)


def mistakes() -> None:
    add.delay("2", 2)  # type: ignore[arg-type]
    add.adelay("2", 2)  # type: ignore[arg-type,unused-coroutine]
    add.aapply_async((2, 2), countdwn=10)  # type: ignore[call-arg,unused-coroutine]
    add.delay(2, 2, 2)  # type: ignore[call-arg]
    add.delay(2, z=2)  # type: ignore[call-arg]
    fetch.delay()  # type: ignore[call-arg]
    add.apply_async((2, 2), countdwn=10)  # type: ignore[call-arg]
    add.apply_async((2, 2), countdown="soon")  # type: ignore[arg-type]
    greet.delay(3)  # type: ignore[arg-type]


def errors() -> None:
    try:
        add.delay(2, 2)
    except Unroutable as error:
        print(error.envelopes)
    with app.batch() as batch:
        assert_type(batch.published, int)
