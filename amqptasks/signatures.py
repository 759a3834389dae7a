"""Signatures: calls as values that can be stored, sent, partially applied and joined by `|`.

A signature is a dictionary of Celery's exact shape, so it travels in messages as it is. Knows how an app
sends; knows nothing of task classes. The kinds that hold other signatures register themselves in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from amqptasks.client import Client
from amqptasks.composing import NOTHING
from amqptasks.ids import new_id
from amqptasks.options import as_list, sendable
from amqptasks.result import AsyncResult
from amqptasks.waiting import home

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    R = TypeVar("R")

KINDS: dict[str, Callable[[Mapping[str, Any], Client | None], Signature]] = {}
"""`subtask_type` -> what makes that signature from its dictionary."""
OPERATIONS: dict[str, Callable[..., Any]] = {}
"""What needs to know every kind of signature: `join` is what `|` does, `stamp` what `stamp()` does."""
_MAPS = frozenset({"celery.map", "celery.starmap"})


def kind_of(sig: Mapping[str, Any]) -> str:
    """Return "chain", "group" or "chord"; "task" for a call of one task."""
    return sig.get("subtask_type") or "task"


class Signature(dict[str, Any], Generic[R]):
    """One call of one task that returns R: name, arguments and options, with `|` and partial application.

    Further arguments given to `apply_async` are put before those it has, unless it is `immutable`.
    """

    _app: Client | None = None

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Client | None = None,
        **extra: Any,
    ) -> None:
        if isinstance(task, Mapping):
            super().__init__(_complete(task))
        else:
            super().__init__(
                task=getattr(task, "name", task),
                args=tuple(args or ()),
                kwargs=dict(kwargs or {}),
                options={**(options or {}), **extra},
                subtask_type=subtask_type,
                immutable=immutable,
            )
        self._app = app if app is not None else getattr(task, "app", None)

    # --- what it says ---------------------------------------------------------------------------------------

    @property
    def app(self) -> Client:
        if self._app is None:
            self._app = cast(Client, home.find())
        return self._app

    @app.setter
    def app(self, app: Client) -> None:
        self._app = app

    @property
    def task(self) -> str:
        return cast(str, self["task"])

    @property
    def name(self) -> str:
        return self.task

    @property
    def args(self) -> Sequence[Any]:
        return cast("Sequence[Any]", self["args"])

    @property
    def kwargs(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self["kwargs"])

    @property
    def options(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self["options"])

    @property
    def immutable(self) -> bool:
        return bool(self.get("immutable"))

    @property
    def id(self) -> str | None:
        return self.options.get("task_id")

    @property
    def type(self) -> Any:
        """The registered task, or None when this app does not know it."""
        return self.app.tasks.get(self.task)

    def _merged(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        own = self.options
        given = {key: value for key, value in options.items() if value is not None}
        if given and ("group_id" in own or "stamped_headers" in own):
            fixed = {"group_id", "stamped_headers", *(own.get("stamped_headers") or ())} & own.keys()
            given = {key: value for key, value in given.items() if key not in fixed}
        if self.immutable:
            return tuple(self.args), dict(self.kwargs), {**own, **given}
        return (*args, *self.args), {**self.kwargs, **kwargs}, {**own, **given}

    # --- changing it ----------------------------------------------------------------------------------------

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any) -> Self:
        """Return a copy, with further arguments and options as `apply_async` would add them."""
        merged_args, merged_kwargs, merged_options = self._merged(args, kwargs, options)
        for key in ("link", "link_error"):
            if key in merged_options:
                merged_options[key] = list(as_list(merged_options[key]))
        copy = type(self).__new__(type(self))
        dict.__init__(copy, self)
        copy.update(args=merged_args, kwargs=merged_kwargs, options=merged_options)
        copy._app = self._app
        return copy

    partial = clone

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options in place; return itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature:
        """Return a copy in which what is given stands in place of what was there."""
        copy = self.clone()
        for key, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                copy[key] = value
        return copy

    def link(self, callback: Any) -> Any:
        """Call `callback` with the value once this task succeeds; return `callback`."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` once this task fails; return `errback`."""
        return self._append("link_error", errback)

    def flatten_links(self) -> list[Any]:
        """Return this signature, its callbacks, and theirs."""
        linked = [signature(callback, app=self._app) for callback in as_list(self.options.get("link"))]
        return [self, *(one for callback in linked for one in callback.flatten_links())]

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on this and all that hangs on it, in place: `headers`, and what a `StampingVisitor` says.

        A stamp is a header of one's own that its task's messages carry, through retries and replacements. One
        that is there already stays, unless `append_stamps`.
        """
        return OPERATIONS["stamp"](self, visitor, append_stamps, headers)

    def on_error(self, errback: Any) -> Self:
        """As `link_error`, but returns itself, for writing in one line."""
        self.link_error(errback)
        return self

    def _append(self, key: str, callback: Any) -> Any:
        if not isinstance(callback, Mapping):
            raise TypeError(f"{callback!r} is no signature to {key}; write task.s(...)")
        linked = as_list(self.options.get(key))
        if callback not in linked:
            linked.append(callback)
        self.options[key] = linked
        return callback

    # --- calling it -----------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> AsyncResult[R]:
        """Call the task; see `Task.apply_async`."""
        merged_args, merged_kwargs, merged_options = self._merged(args or (), kwargs or {}, options)
        ready = sendable(merged_options)
        if self["task"] in _MAPS and merged_kwargs.get("task"):
            ready.setdefault("route_name", merged_kwargs["task"]["task"])
        task = self.type
        if task is not None:
            return cast("AsyncResult[R]", task.apply_async(merged_args, merged_kwargs, **ready))
        return self.app.send_task(self.task, merged_args, merged_kwargs, **ready)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> Any:
        """As `apply_async`, awaited: one wait for all the messages that it takes."""
        return await self.app.asend(
            lambda: self.apply_async(args, kwargs, **options),
            options,
            composes_long=self.get("subtask_type") is not None,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Run the task in place."""
        merged_args, merged_kwargs, _ = self._merged(args, kwargs, {})
        return cast(R, self.type(*merged_args, **merged_kwargs))

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any) -> Any:
        """Run the task in place, with a request; return an EagerResult."""
        merged_args, merged_kwargs, merged_options = self._merged(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged_options)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Give it its id now; return the result that the call will have."""
        options = self.options
        task_id = options.setdefault("task_id", _id or new_id())
        for key, value in (("root_id", root_id), ("parent_id", parent_id), ("group_index", group_index)):
            if value is not None:
                options[key] = value
        if group_id and "group_id" not in options:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        return AsyncResult(task_id, self.app.backend, self.task, self.app)

    def __invert__(self) -> R:
        return self.apply_async().get()

    def __or__(self, other: Any) -> Any:
        if isinstance(other, Mapping) and not isinstance(other, Signature):
            other = signature(other, app=self._app)
        if not isinstance(other, Signature):
            return NotImplemented
        return OPERATIONS["join"](self, other)

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def __deepcopy__(self, memo: Any) -> Self:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __repr__(self) -> str:
        return self.reprcall()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return how a call with further arguments reads."""
        if args or kwargs:
            return self.clone(args, kwargs).reprcall()
        inside = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{self.task}({', '.join(inside)})"


def signature(
    varies: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    app: Client | None = None,
    **extra: Any,
) -> Signature:
    """Return a signature of a task, of a task's name, or of a dictionary that came in a message."""
    if isinstance(varies, Signature):
        return varies.clone()
    if not isinstance(varies, Mapping):
        if not isinstance(getattr(varies, "name", varies), str):
            raise TypeError(f"{varies!r} is no signature, task or name of a task; write task.s(...)")
        return Signature(varies, args, kwargs, options, app=app, **extra)
    if any(isinstance(key, bytes) for key in varies):
        varies = _texts(varies)
    kind = KINDS.get(varies.get("subtask_type") or "")
    return kind(varies, app) if kind is not None else Signature(varies, app=app)


def _complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored signature with every key, and its inner mappings copied: it may be changed."""
    return {
        "task": stored["task"],
        "args": stored.get("args") or (),
        "kwargs": dict(stored.get("kwargs") or {}),
        "options": dict(stored.get("options") or {}),
        "subtask_type": stored.get("subtask_type"),
        "immutable": bool(stored.get("immutable")),
    }


def _texts(value: Any) -> Any:
    """Return a mapping whose keys some serializer has left as bytes, and all in it, with texts for keys."""
    if isinstance(value, Mapping):
        return {
            key.decode() if isinstance(key, bytes) else key: _texts(inner) for key, inner in value.items()
        }
    return [_texts(inner) for inner in value] if isinstance(value, list | tuple) else value


subtask = signature
"""The old name of `signature`."""


def maybe_signature(value: Any, app: Client | None = None) -> Signature | None:
    """Return the signature that `value` is or describes; None for None."""
    if value is None or isinstance(value, Signature):
        return value
    return signature(value, app=app)
