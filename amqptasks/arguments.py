"""Checks a call's arguments against the function's signature, in the process that calls. Pure.

Most calls are decided by comparing numbers and names; `inspect` is asked only for the words of a refusal and
for unusual signatures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqptasks.options import NAMES

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Arguments:
    """What one function accepts."""

    __slots__ = ("_least", "_most", "_name", "_plain", "signature")

    def __init__(self, function: Callable[..., Any], name: str, *, bound: bool) -> None:
        """`bound`: the first parameter is the task itself and not the caller's business."""
        self._name = name
        self.signature = _signature(function, bound)
        parameters = list(self.signature.parameters.values())
        positional = [each for each in parameters if each.kind in _POSITIONAL]
        self._most: float = len(positional)
        if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
            self._most = float("inf")
        self._least = sum(each.default is inspect.Parameter.empty for each in positional)
        # A call with positional arguments alone is right if their number is, unless a keyword is required.
        self._plain = not any(
            each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is inspect.Parameter.empty
            for each in parameters
        )

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, by_delay: bool = False) -> None:
        """Raise TypeError, naming task and signature, if the function would not take these arguments.

        `by_delay`: a refused keyword that is an option of `apply_async` is told where it belongs.
        """
        if self._plain and not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(self._refusal(str(error), kwargs, by_delay)) from None

    def _refusal(self, reason: str, kwargs: Mapping[str, Any], by_delay: bool) -> str:
        options = [key for key in kwargs if key in NAMES and key not in self.signature.parameters]
        text = f"{self._name}{self.signature}: {reason}"
        if by_delay and options:
            shown = ", ".join(f"{key}=..." for key in options)
            text += (
                f"; {options[0]!r} is an option: delay() takes none, write apply_async(args, kwargs, {shown})"
            )
        return text


def _anything(*args: Any, **kwargs: Any) -> None: ...


def _signature(function: Callable[..., Any], bound: bool) -> inspect.Signature:
    try:
        signature = inspect.signature(function)
    except ValueError:  # one of C's that does not say what it takes
        signature = inspect.signature(_anything)
    if not bound:
        return signature
    parameters = list(signature.parameters.values())
    # `def task(*args)` takes the task itself among its positional arguments.
    if parameters and parameters[0].kind not in _VARIABLE:
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)
