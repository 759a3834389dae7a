"""The signatures that hold others: chain, group, chord. Their shape is Celery's, in memory and in messages.

Knows what they hold and how they read; `rules` knows `|`, `shaping` how they run, `sending` how they leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from amqptasks.canvas import eagerly, freezing, rules, sending, shaping
from amqptasks.client import Client
from amqptasks.composing import NOTHING
from amqptasks.result import AsyncResult, GroupResult
from amqptasks.signatures import KINDS, OPERATIONS, Signature, kind_of, signature


def _listed(tasks: tuple[Any, ...]) -> Iterable[Any]:
    """Return the members of `chain(a, b)` and of `chain([a, b])` alike."""
    if len(tasks) == 1 and not isinstance(tasks[0], Mapping) and isinstance(tasks[0], Iterable):
        return tasks[0]
    return tasks


def _signatures(tasks: Iterable[Any], app: Client | None) -> list[Signature]:
    return [signature(task, app=app) for task in tasks]


def _app_of(members: Iterable[Signature], app: Client | None) -> Client | None:
    return app or next((member._app for member in members if member._app is not None), None)


class Canvas(Signature):
    """What chains, groups and chords share."""

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> Any:
        """Publish it; return its result once the broker has every message. See `Task.apply_async`."""
        call = super().clone(args, kwargs, **options)  # what it holds is copied when it takes shape
        if self.app.conf.task_always_eager:
            return eagerly.apply(call)
        return sending.send(call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any) -> Any:
        """Run it here, task after task, without a broker."""
        return eagerly.apply(self.clone(args, kwargs, **options))

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any) -> Any:
        copy = super().clone(args, kwargs, **options)
        for key in ("tasks", "header"):
            if key in copy["kwargs"]:
                copy["kwargs"][key] = _cloned(copy["kwargs"][key])
        if copy["kwargs"].get("body") is not None:
            copy["kwargs"]["body"] = copy["kwargs"]["body"].clone()
        return copy

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give ids to every task now, and take the shape that runs; return the result that it will have."""
        given = {"task_id": _id, "group_id": group_id, "group_index": group_index, "chord": chord}
        for key, value in given.items():
            if value is not None:
                self.options.setdefault(key, value)
        run = shaping.shaped(self)
        result = freezing.Freezing(self.app, root_id).freeze(run)
        self._become(run)
        return result

    def _become(self, run: Signature) -> None:
        """Hold what `run` is, as a signature of this kind."""
        self["args"], self["options"] = (), dict(run.options)
        self["kwargs"] = run["kwargs"] if kind_of(run) == self["subtask_type"] else {"tasks": [run]}

    @property
    def type(self) -> Any:
        return self.app.tasks.get(self.task)


def _cloned(held: Any) -> Any:
    return held.clone() if isinstance(held, Signature) else [member.clone() for member in held]


class chain(Canvas):  # noqa: N801 (Celery's name)
    """Tasks one after the other: each is called with the value of the one before.

    `chain(a, b, c)` is `a | b | c`, whatever that is: a group that is followed makes a chord.
    """

    def __new__(cls, *tasks: Any, app: Client | None = None, **options: Any) -> Any:
        listed = _listed(tasks)
        if options or (listed is tasks and len(tasks) <= 1):
            return super().__new__(cls)
        members = _signatures(listed, app)
        return rules.fold(members, _app_of(members, app))

    def __init__(self, *tasks: Any, app: Client | None = None, **options: Any) -> None:
        if "task" in self:
            return  # made by __new__, from the rules
        members = _signatures(_listed(tasks), app)
        super().__init__(
            "celery.chain", (), {"tasks": members}, options, subtask_type="chain", app=_app_of(members, app)
        )

    @property
    def tasks(self) -> list[Signature]:
        return cast("list[Signature]", self["kwargs"]["tasks"])

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> AsyncResult[Any] | GroupResult | None:
        """Call the first task; the others travel with it. Return the result of the last, with its parents."""
        if not self.tasks:
            return None
        return cast("AsyncResult[Any] | GroupResult", super().apply_async(args, kwargs, **options))

    def unchain_tasks(self) -> list[Signature]:
        """Return copies of the steps, with the chain's callbacks on the last and its errbacks on all."""
        return rules.unchained(self)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


class group(Canvas):  # noqa: N801 (Celery's name)
    """Tasks side by side, published in one batch; their results come as one GroupResult, in order."""

    def __init__(self, *tasks: Any, app: Client | None = None, **options: Any) -> None:
        listed = _listed(tasks)
        if len(tasks) == 1 and isinstance(tasks[0], Signature) and kind_of(tasks[0]) == "group":
            listed = rules.members(tasks[0])
        members = _signatures(listed, app)
        super().__init__(
            "celery.group", (), {"tasks": members}, options, subtask_type="group", app=_app_of(members, app)
        )

    @property
    def tasks(self) -> list[Signature]:
        return cast("list[Signature]", self["kwargs"]["tasks"])

    def delay(self, *args: Any, **kwargs: Any) -> GroupResult:  # type: ignore[override]
        return self.apply_async(args, kwargs)

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> GroupResult:
        """Publish every member; return once all are confirmed. Options go to each, except `task_id`: the
        group's.
        """
        if options.get("link") or options.get("link_error"):
            raise TypeError("a group takes no link or link_error; give them to its tasks")
        options.pop("group_id", None)
        result: GroupResult = super().apply_async(args, kwargs, **options)
        if len(result) == 1 and isinstance(result[0], GroupResult):
            return result[0]  # Celery's: the group that the only member ends in
        return result

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Start the members one after the other: `start` seconds from now, each `step` later, up to `stop`."""
        for index, member in enumerate(self.tasks):
            delay = start + index * step
            member.set(countdown=delay if stop is None else min(delay, stop))
        return self

    def link(self, callback: Any) -> Any:
        """Call `callback`, without a value, once the first member succeeds (Celery's; a chord waits for all)."""
        linked = signature(callback, app=self._app).set(immutable=True)
        return self.tasks[0].link(linked) if self.tasks else linked

    def link_error(self, errback: Any) -> Any:
        """Call `errback` for each member that fails."""
        return tuple(member.link_error(signature(errback, app=self._app)) for member in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        for member in self.tasks:
            member.set_immutable(immutable)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


class chord(Canvas):  # noqa: N801 (Celery's name)
    """Tasks side by side (the header), and one that is called with the list of their values (the body)."""

    def __init__(
        self,
        header: Any,
        body: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Client | None = None,
        args: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        members = _header(header, app)
        called = None if body is None else signature(body, app=app)
        found = _app_of([*members, *([] if called is None else [called])], app)
        held = {"kwargs": dict(kwargs or {}), "header": members, "body": called}
        super().__init__("celery.chord", args, held, options, subtask_type="chord", app=found)

    @property
    def tasks(self) -> Sequence[Signature]:
        header = self["kwargs"]["header"]
        return rules.members(header) if isinstance(header, Signature) else header

    @property
    def body(self) -> Any:
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = body

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> Any:
        """Publish the header; return the body's result, whose topmost parent is the header's GroupResult."""
        body = options.pop("body", None) or dict(kwargs).pop("body", None)
        if body is not None:
            return self._with(body).apply_async(
                args, {k: v for k, v in kwargs.items() if k != "body"}, **options
            )
        return super().apply_async(args, kwargs, **options)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        return (self if body is None else self._with(body)).apply_async((), {}, **options)

    def _with(self, body: Any) -> chord:
        copy = self.clone()
        copy.body = signature(body, app=self._app)
        return cast(chord, copy)

    def link(self, callback: Any) -> Any:
        """Call `callback` with the body's value."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when the body fails, as it does when a member of the header fails.

        With `task_allow_error_cb_on_chord_header` it is also called, immutable, for each member that fails.
        """
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for member in self.tasks:
                member.link_error(signature(errback, app=self._app).set(immutable=True))
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Of the header alone."""
        for member in self.tasks:
            member.set_immutable(immutable)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"chord([{', '.join(map(repr, self.tasks))}], {self.body!r})"


def _header(header: Any, app: Client | None) -> list[Signature]:
    if isinstance(header, Mapping):
        one = signature(header, app=app)
        return list(rules.members(one)) if kind_of(one) == "group" else [one]
    return _signatures(header, app)


# --- from messages --------------------------------------------------------------------------------------------


def _restored(made: Signature, stored: Mapping[str, Any]) -> Signature:
    made["args"] = tuple(stored.get("args") or ())
    made["immutable"] = bool(stored.get("immutable"))
    return made


def _stored_chain(stored: Mapping[str, Any], app: Client | None) -> Signature:
    members = _signatures(stored["kwargs"]["tasks"], app)
    made = chain.__new__(chain)
    Signature.__init__(
        made,
        "celery.chain",
        (),
        {"tasks": members},
        stored.get("options"),
        subtask_type="chain",
        app=_app_of(members, app),
    )
    return _restored(made, stored)


def _stored_group(stored: Mapping[str, Any], app: Client | None) -> Signature:
    tasks = stored["kwargs"]["tasks"]
    if isinstance(tasks, Mapping):  # Celery's: a group that was made of a group
        tasks = tasks["kwargs"]["tasks"]
    return _restored(group(list(tasks), app=app, **stored.get("options") or {}), stored)


def _stored_chord(stored: Mapping[str, Any], app: Client | None) -> Signature:
    held = stored["kwargs"]
    made = chord(held["header"], held.get("body"), held.get("kwargs"), app, **stored.get("options") or {})
    header = held["header"]
    if isinstance(header, Mapping) and (header.get("options") or {}).get("task_id"):
        # Frozen: the group's id is the chord's name on the broker.
        made["kwargs"]["header"] = signature(header, app=app)
    return _restored(made, stored)


KINDS.update(chain=_stored_chain, group=_stored_group, chord=_stored_chord)
OPERATIONS.update(join=rules.joined)
