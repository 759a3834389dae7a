"""Arguments and results of tasks that are pydantic models: `@app.task(pydantic=True)`, with the extra `pydantic`.

A parameter that is annotated with a model gets one, made and checked of what the message holds; a model that the
function returns leaves as plain data. Pure; knows a task by its options and its body.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from amqptasks.errors import ImproperlyConfigured

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ABSENT = object()


class Modelled(Protocol):
    """What this needs of a task."""

    name: str
    pydantic_strict: bool
    pydantic_context: Mapping[str, Any] | None
    pydantic_dump_kwargs: Mapping[str, Any] | None

    @property
    def app(self) -> Any: ...


class Models:
    """The models in the signature of one task's body."""

    def __init__(self, task: Modelled, body: Callable[..., Any]) -> None:
        """Raises ImproperlyConfigured where pydantic is not installed."""
        try:
            from pydantic import BaseModel  # noqa: PLC0415 (optional: the extra pydantic)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"task {task.name} has pydantic=True, but pydantic is not installed; "
                "install amqptasks[pydantic]"
            ) from error
        self._base = BaseModel
        self._task = task
        self._body = body
        self._signature = inspect.signature(body)
        self._found: tuple[dict[str, Any], Any, frozenset[str]] | None = None

    def of_parameters(self) -> Mapping[str, Any]:
        """Return the model of each parameter that has one."""
        return self._models()[0]

    def _models(self) -> tuple[dict[str, Any], Any, frozenset[str]]:
        # On first use: an annotation may be of a class that stands further down in its module.
        if self._found is None:
            hints = _hints(self._body, self._signature)
            parameters = {
                each.name: model
                for each in self._signature.parameters.values()
                if each.kind not in _VARIABLE and (model := self._model(hints.get(each.name))) is not None
            }
            nullable = frozenset(name for name in parameters if type(None) in typing.get_args(hints[name]))
            self._found = parameters, self._model(hints.get("return")), nullable
        return self._found

    def _model(self, annotation: Any) -> Any:
        """Return the model that an annotation names; `Model | None` counts as the model."""
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            members = [each for each in typing.get_args(annotation) if each is not type(None)]
            annotation = members[0] if len(members) == 1 else None
        is_model = isinstance(annotation, type) and issubclass(annotation, self._base)
        return annotation if is_model else None

    def validated(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return the arguments with their models made. Raises TypeError, and pydantic's ValidationError."""
        bound = self._signature.bind(*args, **kwargs)
        models, _, nullable = self._models()
        for name, model in models.items():
            value = bound.arguments.get(name, _ABSENT)
            if value is _ABSENT or (value is None and name in nullable):
                continue
            bound.arguments[name] = self._validate(model, value)
        return bound

    def _validate(self, model: Any, value: Any) -> Any:
        task = self._task
        context = {**(task.pydantic_context or {}), "celery_app": task.app, "celery_task_name": task.name}
        return model.model_validate(value, strict=task.pydantic_strict, context=context)

    def dumped(self, value: Any) -> Any:
        """Return what a call returned, a model of the annotated class as plain data."""
        model = self._models()[1]
        return self._dump(value) if model is not None and isinstance(value, model) else value

    def _dump(self, value: Any) -> Any:
        return value.model_dump(**{"mode": "json", **(self._task.pydantic_dump_kwargs or {})})

    def sendable(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return a call's arguments with each model as plain data from which the worker makes an equal one.

        A model of which it would not, or for a parameter that wants none, stays: the serializer refuses it.
        """
        if not any(isinstance(value, self._base) for value in (*args, *kwargs.values())):
            return args, kwargs
        names = [
            each.name
            for each in self._signature.parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        sent = [self._sent(name, value) for name, value in zip(names, args, strict=False)]
        return (
            (*sent, *args[len(sent) :]),
            {name: self._sent(name, value) for name, value in kwargs.items()},
        )

    def _sent(self, name: str, value: Any) -> Any:
        model = self.of_parameters().get(name)
        if model is None or not isinstance(value, self._base):
            return value
        try:
            dumped = self._dump(value)
            # Equality includes the class: of a subclass the worker would make less than was given.
            return dumped if self._validate(model, dumped) == value else value
        except Exception:  # the model's own code, which may need what only a worker has
            return value


def modelled(models: Models, body: Callable[..., Any]) -> Callable[..., Any]:
    """Return `body` such that it gets models for what was sent, and returns plain data for a model."""
    if inspect.iscoroutinefunction(body):

        @functools.wraps(body)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            bound = models.validated(args, kwargs)
            return models.dumped(await body(*bound.args, **bound.kwargs))

        return run_async

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = models.validated(args, kwargs)
        return models.dumped(body(*bound.args, **bound.kwargs))

    return run


def _hints(body: Callable[..., Any], signature: inspect.Signature) -> Mapping[str, Any]:
    """Return the annotations, those written as text resolved where that is possible."""
    function = inspect.unwrap(getattr(body, "__func__", body))
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        plain = {name: each.annotation for name, each in signature.parameters.items()}
        return {**plain, "return": signature.return_annotation}
