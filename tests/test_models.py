"""`pydantic=True`: models in, plain data on the wire, models in the body, plain data back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator

from amqptasks import App, Task, protocol, states
from amqptasks.errors import EncodeError, ImproperlyConfigured, RemoteError
from amqptasks.transport import codec
from tests.working import Work


class Order(BaseModel):
    id: int
    lines: list[str] = []


class Express(Order):
    hours: int = 24


class Bill(BaseModel):
    order: int
    total: float


class Judged(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def _known(cls, word: str, info: ValidationInfo) -> str:
        assert info.context is not None
        return f"{word} {info.context['tone']} {info.context['celery_task_name']} {info.context['celery_app'].main}"


@pytest.fixture
def sent(app: App) -> Callable[[], protocol.TaskMessage]:
    def take() -> protocol.TaskMessage:
        delivery = app.connection.get("amqptasks")
        assert delivery is not None
        accept = frozenset({"application/json", "application/x-python-serialize"})
        return protocol.decode(codec.unpack(delivery), accept=accept, limit=1 << 20)

    return take


def test_arguments_are_made_and_checked_and_a_model_returned_is_plain_data(app: App, work: Work) -> None:
    seen: list[Any] = []

    @app.task(name="proj.bill", pydantic=True)
    def bill(order: Order, factor: float = 1, gift: Order | None = None) -> Bill:
        seen.append((order, factor, gift))
        return Bill(order=order.id, total=factor * len(order.lines))

    result = bill.delay({"id": "7", "lines": ["a", "b"]}, factor=2.5, gift=None)
    work(1)

    assert seen == [(Order(id=7, lines=["a", "b"]), 2.5, None)]
    assert result.get(timeout=60) == {"order": 7, "total": 5.0}


def test_what_is_no_such_model_fails_before_the_body_with_the_reason(app: App, work: Work) -> None:
    ran: list[int] = []

    @app.task(name="proj.bill", pydantic=True)
    def bill(order: Order) -> None:
        ran.append(1)

    result = bill.delay({"id": "seven"})
    work(1)

    assert ran == []
    with pytest.raises(RemoteError, match="unable to parse string as an integer") as raised:
        result.get(timeout=60)
    assert type(raised.value).__name__ == "ValidationError"
    assert result.state == states.FAILURE


def test_none_is_refused_where_the_annotation_does_not_allow_it(app: App) -> None:
    @app.task(name="proj.bill", pydantic=True)
    def bill(order: Order, gift: Order | None) -> Any:
        return gift

    assert bill({"id": 1}, None) is None
    with pytest.raises(ValidationError):
        bill(None, None)


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_model_that_the_caller_passes_is_sent_as_plain_data(
    app: App, sent: Callable[[], protocol.TaskMessage], by_keyword: bool
) -> None:
    @app.task(name="proj.bill", pydantic=True, bind=True)
    def bill(self: Task[..., Any], order: Order, *rest: Any) -> None: ...

    order = Order(id=1, lines=["a"])
    bill.delay(order=order) if by_keyword else bill.delay(order, 2, 3)
    message = sent()

    plain = {"id": 1, "lines": ["a"]}
    assert (list(message.args), dict(message.kwargs)) == (
        ([], {"order": plain}) if by_keyword else ([plain, 2, 3], {})
    )


def test_pickle_carries_the_model_itself(app: App, sent: Callable[[], protocol.TaskMessage]) -> None:
    @app.task(name="proj.bill", pydantic=True, serializer="pickle")
    def bill(order: Order) -> None: ...

    bill.delay(Order(id=1))

    assert sent().args[0] == Order(id=1)


def test_a_model_of_which_the_worker_would_make_another_is_not_sent(app: App) -> None:
    @app.task(name="proj.bill", pydantic=True)
    def bill(order: Order) -> None: ...

    with pytest.raises(EncodeError):
        bill.delay(Express(id=1, hours=2))


def test_without_the_option_a_model_is_not_sent(app: App) -> None:
    @app.task(name="proj.bill")
    def bill(order: Order) -> None: ...

    with pytest.raises(EncodeError):
        bill.delay(Order(id=1))


def test_strict_context_and_dump_arguments_are_passed_on(app: App, work: Work) -> None:
    @app.task(name="proj.strict", pydantic=True, pydantic_strict=True)
    def strict(order: Order) -> None: ...

    @app.task(name="proj.judge", pydantic=True, pydantic_context={"tone": "gladly"})
    def judge(given: Judged) -> str:
        return given.word

    @app.task(name="proj.lean", pydantic=True, pydantic_dump_kwargs={"exclude_defaults": True})
    def lean(order: Order) -> Order:
        return order

    with pytest.raises(ValidationError, match="valid integer"):
        strict({"id": "1"})
    assert judge({"word": "yes"}) == "yes gladly proj.judge proj"
    assert lean({"id": 1}) == {"id": 1}


def test_async_and_class_based_tasks_have_models_too(app: App, work: Work) -> None:
    @app.task(name="proj.slow", pydantic=True)
    async def slow(order: Order) -> Order:
        return Order(id=order.id + 1)

    class Count(Task[..., Any]):
        name = "proj.count"
        pydantic = True

        def run(self, order: Order) -> int:
            return order.id

    count = app.register_task(Count)
    first, second = slow.delay(Order(id=1)), count.delay(Order(id=5))
    work(2)

    assert first.get(timeout=60) == {"id": 2, "lines": []}
    assert second.get(timeout=60) == 5


def test_retries_and_annotations_work_with_it(app: App, work: Work) -> None:
    app.conf.task_annotations = {"proj.fail": {"pydantic": True}}
    seen: list[Any] = []

    @app.task(name="proj.fail", autoretry_for=(KeyError,), retry_kwargs={"countdown": 0})
    def fail(order: Order) -> None:
        seen.append(order)
        raise KeyError(order.id)

    fail.delay({"id": 3})
    work(1)

    assert seen == [Order(id=3)]
    assert work.outcomes[0].state == states.RETRY


def test_without_pydantic_the_task_says_what_to_install(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    with pytest.raises(ImproperlyConfigured, match=r"install amqptasks\[pydantic\]"):
        app.task(name="proj.bill", pydantic=True)(lambda order: None)
