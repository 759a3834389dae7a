"""Chains and groups: signatures that hold other signatures.

A chain travels as its first task, the rest in the message's body; a group is published as one pipelined
batch. Knows signatures and how an app sends; knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from amqptasks.client import Client
from amqptasks.composing import NOTHING
from amqptasks.ids import new_id
from amqptasks.options import as_list
from amqptasks.result import AsyncResult, GroupResult
from amqptasks.signatures import KINDS, Signature, signature
from amqptasks.waiting import running

LATER = "is not supported by this version of amqptasks"


def _flat(tasks: tuple[Any, ...]) -> Iterable[Any]:
    """Return the members of `chain(a, b)` and of `chain([a, b])` alike."""
    if len(tasks) == 1 and not isinstance(tasks[0], Mapping) and isinstance(tasks[0], Iterable):
        return tasks[0]
    return tasks


def _first_app(members: Sequence[Signature], app: Client | None) -> Client | None:
    return app or next((member._app for member in members if member._app is not None), None)


def _refuse_nesting(members: Sequence[Signature], kind: str) -> None:
    for member in members:
        if member.get("subtask_type"):
            raise NotImplementedError(
                f"{member!r} inside a {kind} {LATER}: a {kind} holds tasks, not a {member['subtask_type']}"
            )


class chain(Signature):  # noqa: N801 (Celery's name)
    """Tasks one after the other: each is called with the value of the one before."""

    def __init__(self, *tasks: Any, app: Client | None = None, **options: Any) -> None:
        members: list[Signature] = []
        for task in _flat(tasks):
            member = signature(task, app=app)
            members.extend(member.tasks if isinstance(member, chain) else [member])
        _refuse_nesting(members, "chain")
        super().__init__(
            "celery.chain",
            (),
            {"tasks": members},
            options,
            subtask_type="chain",
            app=_first_app(members, app),
        )

    @property
    def tasks(self) -> list[Signature]:
        return cast("list[Signature]", self["kwargs"]["tasks"])

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> AsyncResult[Any] | None:
        """Call the first task; the others travel with it. Return the result of the last, with its parents."""
        if not self.tasks:
            return None
        steps, last = self.prepared(options)
        given = {**self.options, **options}
        rest = [dict(step) for step in reversed(steps[1:])]
        ends = ("link", "link_error", "task_id", "group_id", "group_index", "chord")
        first = steps[0].set(**{key: value for key, value in given.items() if key not in ends})
        answer = first.apply_async(args, kwargs, chain=rest or None)
        # The last result is the frozen one, whose parents are linked; a chain of one has the call's own.
        return last if len(steps) > 1 else cast("AsyncResult[Any]", answer)

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[Any] | None:
        return self.apply_async(args, kwargs)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> AsyncResult[Any] | None:
        """Run the steps in place, each with the value of the one before; return the last one's result."""
        result: AsyncResult[Any] | None = None
        for step in self.tasks:
            result = step.apply(args, kwargs) if result is None else step.apply((result.get(),))
        return result

    def prepared(self, options: Mapping[str, Any]) -> tuple[list[Signature], AsyncResult[Any]]:
        """Return copies of the steps with ids, and the result of the last one."""
        given = {**self.options, **options}
        steps = [step.clone() for step in self.tasks]
        errbacks = as_list(given.get("link_error"))
        reply_to, parent = None if running.get() is not None else self.app.backend.reply_to(), running.get()
        root_id = given.get("root_id") or (parent.root_id or parent.id if parent is not None else None)
        above: AsyncResult[Any] | None = None
        for step in steps:
            for errback in errbacks:
                step.link_error(errback)
            is_last = step is steps[-1]
            result = step.freeze(given.get("task_id") if is_last else None, root_id=root_id)
            root_id = root_id or result.id
            if reply_to is not None:
                step.options.setdefault("reply_to", reply_to)
                result.claim = self.app.backend.expect(result.id)
            result.parent = above
            above = result
        for callback in as_list(given.get("link")):
            steps[-1].link(callback)
        assert above is not None
        return steps, above

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


class group(Signature):  # noqa: N801 (Celery's name)
    """Tasks side by side, published in one batch; their results come as one GroupResult, in order."""

    def __init__(self, *tasks: Any, app: Client | None = None, **options: Any) -> None:
        members = [signature(task, app=app) for task in _flat(tasks)]
        _refuse_nesting(members, "group")
        super().__init__(
            "celery.group",
            (),
            {"tasks": members},
            options,
            subtask_type="group",
            app=_first_app(members, app),
        )

    @property
    def tasks(self) -> list[Signature]:
        return cast("list[Signature]", self["kwargs"]["tasks"])

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> GroupResult:
        """Publish every member; return once all are confirmed. Options go to each, except `task_id`: the
        group's.
        """
        given = {**self.options, **options}
        if given.get("link") or given.get("link_error"):
            raise TypeError("a group takes no link or link_error; give them to its tasks")
        group_id = given.pop("task_id", None) or new_id()
        given.pop("group_id", None)
        results: list[AsyncResult[Any]] = []
        if self.tasks:
            with self.app.batch():
                for index, member in enumerate(self.tasks):
                    one = member.clone(args, kwargs, **given)
                    results.append(one.set(group_id=group_id, group_index=index).apply_async())
        return GroupResult(group_id, results, app=self.app)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NOTHING, **options: Any
    ) -> GroupResult:
        """Run every member in place, one after the other."""
        return GroupResult(
            self.id or new_id(),
            [task.apply(args, kwargs, **options) for task in self.tasks],
            app=self.app,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult:
        return self.apply_async(args, kwargs)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


def chord(*args: Any, **kwargs: Any) -> Signature:
    """Raise NotImplementedError: a callback for a whole group belongs to a later version."""
    raise NotImplementedError(
        f"chord {LATER}; collect the group's results where it was called: group(...).get()"
    )


def chunks(task: Any, it: Iterable[Any], n: int, *, app: Client | None = None) -> group:
    """Return a group of calls that each take up to `n` lists of arguments: fewer messages for many small
    tasks.
    """
    called = signature(task, app=app)
    elements = list(it)
    parts = [elements[start : start + n] for start in range(0, len(elements), n)]
    return group([_over("celery.starmap", called, part) for part in parts], app=called.app)


def _over(name: str, called: Signature, it: Iterable[Any]) -> Signature:
    """Return one call that runs `called` for each element."""
    return Signature(name, (), {"task": called, "it": list(it)}, immutable=True, app=called.app)


def xmap(task: Any, it: Iterable[Any], *, app: Client | None = None) -> Signature:
    """Return one call that runs the task for each element, one after the other."""
    return _over("celery.map", signature(task, app=app), it)


def xstarmap(task: Any, it: Iterable[Any], *, app: Client | None = None) -> Signature:
    """As `xmap`, where each element is a list of arguments."""
    return _over("celery.starmap", signature(task, app=app), it)


def _refuse_chord(stored: Mapping[str, Any], app: Client | None) -> Signature:
    return chord(stored)


def _stored_chain(stored: Mapping[str, Any], app: Client | None) -> Signature:
    return chain(*stored["kwargs"]["tasks"], app=app, **stored.get("options") or {})


def _stored_group(stored: Mapping[str, Any], app: Client | None) -> Signature:
    return group(*stored["kwargs"]["tasks"], app=app, **stored.get("options") or {})


KINDS.update(chain=_stored_chain, group=_stored_group, chord=_refuse_chord)
