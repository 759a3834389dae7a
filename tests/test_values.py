"""Quick values: the same values as their dataclass makes, as frozen as before."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from amqptasks.values import quick


@dataclass(frozen=True, slots=True)
class Plain:
    name: str
    size: int = 1
    parts: list[str] = field(default_factory=list)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    name: str
    size: int = 1
    parts: list[str] = field(default_factory=list)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")


def test_it_is_made_and_shown_as_the_dataclass_would():
    for arguments in (("a",), ("a", 2), ("a", 2, ["x"])):
        value, plain = Quick(*arguments), Plain(*arguments)

        assert repr(value) == repr(plain).replace("Plain", "Quick")
        assert value == Quick(*arguments)
    assert Quick("a").parts is not Quick("a").parts


def test_it_stays_frozen():
    value = Quick("a")

    with pytest.raises(FrozenInstanceError):
        value.size = 2  # type: ignore[misc]


def test_it_is_copied_replaced_and_pickled():
    value = Quick("a", 2, ["x"])

    again = [copy.copy(value), pickle.loads(pickle.dumps(value)), replace(value)]

    assert again == [value] * 3
    assert replace(value, size=3) == Quick("a", 3, ["x"])


def test_wrong_arguments_are_refused_and_the_signature_is_told():
    with pytest.raises(TypeError, match="name"):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Named("a")  # type: ignore[misc]

    assert list(inspect.signature(Quick).parameters) == ["name", "size", "parts"]


def test_what_the_class_checks_is_checked():
    assert Named(name="a").size == 1

    with pytest.raises(ValueError, match="negative"):
        Named(name="a", size=-1)


def test_fields_that_are_no_parameters_are_refused():
    @dataclass(frozen=True, slots=True)
    class Counted:
        size: int = field(init=False, default=0)

    with pytest.raises(TypeError, match="parameter"):
        quick(Counted)
