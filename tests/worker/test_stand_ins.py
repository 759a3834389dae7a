"""Exceptions that cannot be pickled, encoded or made again arrive all the same: by name, arguments and traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from amqptasks import App, states
from amqptasks.errors import RemoteError
from amqptasks.shown import shown
from tests.working import Work


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class ByKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Holding(Exception):
    """Holds what no serializer writes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class NotReduced(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


def local(words: str) -> Exception:
    class Local(Exception):
        pass

    return Local(words)


CASES: dict[str, tuple[Callable[[], BaseException], str, tuple[str, ...]]] = {
    "two arguments": (lambda: TwoArguments(4, "lost"), "TwoArguments", ("4: lost",)),
    "by keyword": (lambda: ByKeyword(code=5), "ByKeyword", ("code 5",)),
    "a lock inside": (lambda: Holding("held"), "Holding", ("held",)),
    "an object as argument": (lambda: Holding("held", NoRepr()), "Holding", ("held", "NoRepr")),
    "not pickled": (lambda: NotReduced("x"), "NotReduced", ("x",)),
    "a class inside a function": (lambda: local("here"), "Local", ("here",)),
    "a group": (
        lambda: ExceptionGroup("two", [KeyError("k"), ValueError("v")]),
        "ExceptionGroup",
        ("two", "KeyError"),
    ),
}


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
@pytest.mark.parametrize("case", CASES)
def test_any_exception_arrives(app: App, work: Work, case: str, serializer: str) -> None:
    make, name, words = CASES[case]
    app.conf.result_serializer = serializer
    app.conf.accept_content = ("json", serializer)

    @app.task(name="proj.fail")
    def fail() -> None:
        raise make()

    result = fail.delay()
    work(1)
    error = result.get(timeout=60, propagate=False)

    assert result.state == states.FAILURE
    assert type(error).__name__ == name
    assert isinstance(error, BaseException)
    said = " ".join(map(shown, error.args))
    assert all(word in said for word in words)
    assert "raise make()" in (result.traceback or "")
    assert name in (result.traceback or "")
    with pytest.raises(Exception) as raised:
        result.get()
    assert raised.type.__name__ == name


def test_where_the_class_can_be_found_it_is_that_class(app: App, work: Work) -> None:
    """`except` finds it; without its class, `RemoteError` does."""
    found, missing = CASES["two arguments"][0], CASES["a class inside a function"][0]
    results = []
    for make in (found, missing):
        # A worker raises; the two differ by what the caller's process knows.
        def fail(make: Callable[[], BaseException] = make) -> None:
            raise make()

        results.append(app.task(name=f"proj.fail{len(results)}", typing=False)(fail).delay())
    work(2)

    first, second = [each.get(timeout=60, propagate=False) for each in results]
    assert type(first) is TwoArguments
    assert isinstance(second, RemoteError)
