"""A task's calls for coroutines: `await task.adelay(2, 2)`. The work is the blocking twins' and `Awaited`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast

from amqptasks.options import SendOptions
from amqptasks.result import AsyncResult

if TYPE_CHECKING:
    from amqptasks.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class AwaitedCalls(Generic[P, R]):
    """The awaited twins of `delay` and `apply_async`."""

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `delay`, awaited: nothing blocks the event loop. Many at once share their confirms' round trip."""
        task = cast("Task[P, R]", self)
        return await task.app.asend(lambda: task.delay(*args, **kwargs))

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]:
        """As `apply_async`, awaited. Raises the same."""
        task = cast("Task[P, R]", self)
        return await task.app.asend(lambda: task.apply_async(args, kwargs, **options), options)
