"""What the project set out to be, statement by statement: canvas. Code stands as a user types it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from amqptasks import App, chain, chord, group
from amqptasks.errors import NotRegistered, ResultIgnored
from amqptasks.testing import running_worker
from amqptasks.waiting import home


@pytest.fixture(scope="module")
def src() -> Iterator[Any]:
    """The tasks of the notes' project `src`, and a worker."""
    before = home.app
    with App("src", broker=f"memory://{uuid.uuid4()}", task_unknown_retries=0) as app:

        @app.task(name="src.tasks.add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="src.tasks.mul")
        def mul(x: int, y: int) -> int:
            return x * y

        @app.task(name="src.tasks.xsum")
        def xsum(numbers: list[int]) -> int:
            return sum(numbers)

        with running_worker(app):
            yield SimpleNamespace(app=app, add=add, mul=mul, xsum=xsum)
    home.app = before


def test_signature_of_a_task_with_options(src: Any) -> None:
    """`add.signature((2, 2), countdown=10)`; its repr is `src.tasks.add(2, 2)`."""
    add = src.add

    sig = add.signature((2, 2), countdown=10)

    assert repr(sig) == "src.tasks.add(2, 2)"
    assert sig.options == {"countdown": 10}


def test_the_shortcut_s(src: Any) -> None:
    """`add.s(2, 2)` is the same without options."""
    assert src.add.s(2, 2) == src.add.signature((2, 2))


def test_signatures_are_called_like_tasks(src: Any) -> None:
    """Signatures have delay and apply_async."""
    s1 = src.add.s(2, 2)

    res = s1.delay()

    assert res.get(timeout=60) == 4
    assert s1.apply_async().get(timeout=60) == 4


def test_partial_signatures(src: Any) -> None:
    """An incomplete signature is completed by the call: add(8, 2)."""
    s2 = src.add.s(2)

    assert s2.delay(8).get(timeout=60) == 10


def test_groups_keep_the_order(src: Any) -> None:
    """A group runs a list of tasks in parallel; its results come in order."""
    add = src.add

    assert group(add.s(i, i) for i in range(10))().get(timeout=60) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


def test_partial_groups(src: Any) -> None:
    """The argument of the call goes to every member."""
    add = src.add

    g = group(add.s(i) for i in range(10))

    assert g(10).get(timeout=60) == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_chains(src: Any) -> None:
    """(4 + 4) * 8, written in two ways."""
    add, mul = src.add, src.mul

    assert chain(add.s(4, 4) | mul.s(8))().get(timeout=60) == 64
    assert (add.s(4, 4) | mul.s(8))().get(timeout=60) == 64


def test_partial_chains(src: Any) -> None:
    """(? + 4) * 8."""
    add, mul = src.add, src.mul

    g = chain(add.s(4) | mul.s(8))

    assert g(4).get(timeout=60) == 64


def test_chords_over_the_default_backend(src: Any) -> None:
    """A chord is a group with a callback; a group that is chained to a task is one."""
    add, xsum = src.add, src.xsum

    assert src.app.conf.result_backend == "rpc://"
    assert chord((add.s(i, i) for i in range(10)), xsum.s())().get(timeout=60) == 90
    assert (group(add.s(i, i) for i in range(10)) | xsum.s())().get(timeout=60) == 90


def test_the_caller_of_an_unknown_name_learns_of_it(src: Any) -> None:
    """Instead of waiting for ever."""
    with pytest.raises(NotRegistered):
        src.app.send_task("src.tasks.missing", (1,)).get(timeout=60)


def test_a_chain_instead_of_synchronous_subtasks(src: Any) -> None:
    """fetch | parse | store, where the last one stores and returns nothing: `ignore_result`."""
    stored: list[str] = []

    @src.app.task(name="src.tasks.fetch_page")
    def fetch_page(url: str) -> str:
        return f"<{url}>"

    @src.app.task(name="src.tasks.parse_page")
    def parse_page(page: str) -> str:
        return page.upper()

    @src.app.task(name="src.tasks.store_page_info", ignore_result=True)
    def store_page_info(info: str, url: str) -> None:
        stored.append(f"{url}: {info}")

    url = "a.html"
    result = (fetch_page.s(url) | parse_page.s() | store_page_info.s(url))()

    assert result.parent.get(timeout=60) == "<A.HTML>"
    with pytest.raises(ResultIgnored):
        result.get(timeout=60)
    after = src.add.delay(1, 1)
    after.get(timeout=60)
    assert stored == ["a.html: <A.HTML>"]
