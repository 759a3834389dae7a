"""`quick`: frozen dataclasses whose constructor costs a third.

A frozen dataclass sets each field through `object.__setattr__`; its slots' own setters do the same in a fifth of the
time, and a task's way through client, parent and child makes a dozen values of a hundred fields. Knows no value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def quick(cls: C) -> C:
    """Give a dataclass that is frozen and has slots a constructor of the same signature that is quicker.

    Raises TypeError for fields that are no parameters (`init=False`), which it does not know.
    """
    declared = fields(cls)
    if not all(field.init and field.name in cls.__dict__ for field in declared):
        raise TypeError(f"{cls.__name__}: each field must be a parameter and a slot of the class itself")
    names: dict[str, Any] = {"_MISSING": MISSING}
    parameters = [_parameter(field, names) for field in declared if not field.kw_only]
    keywords = [_parameter(field, names) for field in declared if field.kw_only]
    if keywords:
        parameters += ["*", *keywords]
    lines = [_line(field, cls, names) for field in declared]
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    source = "\n ".join([f"def __init__(self, {', '.join(parameters)}):", *lines])
    exec(source, names)  # noqa: S102  (as dataclasses makes its own: of names that Python has checked)
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    before = cls.__dict__["__init__"]
    made.__annotations__ = before.__annotations__
    made.__signature__ = inspect.signature(before)  # type: ignore[attr-defined]
    type.__setattr__(cls, "__init__", made)
    return cls


def _parameter(field: Field[Any], names: dict[str, Any]) -> str:
    if field.default is not MISSING:
        names[f"_default_{field.name}"] = field.default
        return f"{field.name}=_default_{field.name}"
    if field.default_factory is not MISSING:
        names[f"_factory_{field.name}"] = field.default_factory
        return f"{field.name}=_MISSING"
    return field.name


def _line(field: Field[Any], cls: type, names: dict[str, Any]) -> str:
    setter = f"_set_{field.name}"
    names[setter] = cls.__dict__[field.name].__set__
    if field.default_factory is not MISSING:
        made = f"_factory_{field.name}() if {field.name} is _MISSING else {field.name}"
        return f"{setter}(self, {made})"
    return f"{setter}(self, {field.name})"
