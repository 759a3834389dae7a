"""A task: a function that can be called elsewhere, with its options, its handlers and its view of the running
call.

Knows how an app sends (`client`), what a running call is (`request`) and signatures; knows nothing of
workers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Token
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, Unpack, cast

from amqptasks import canvas, eager, retrying
from amqptasks import request as requests
from amqptasks import result as results
from amqptasks.arguments import Arguments
from amqptasks.awaited_calls import AwaitedCalls
from amqptasks.backends.base import Backend, Meta
from amqptasks.canvas.replacing import Replaceable
from amqptasks.client import Client
from amqptasks.composing import NOTHING
from amqptasks.errors import MaxRetriesExceeded, Retry, TransportError
from amqptasks.models import Models
from amqptasks.options import SendOptions, check_names
from amqptasks.request import Request
from amqptasks.signatures import Signature
from amqptasks.task_options import SENDING, TaskOptions
from amqptasks.waiting import home, running

P = ParamSpec("P")
R = TypeVar("R")


class Task(AwaitedCalls[P, R], Replaceable, TaskOptions, Generic[P, R]):
    """What `@app.task` makes. Calling it runs the function here; `delay` and `apply_async` run it in a
    worker.

    Subclasses may override the handlers, `__call__` and any option; give them by `@app.task(base=...)`. None
    means that the setting of the same meaning decides.
    """

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceeded]] = MaxRetriesExceeded
    OperationalError: ClassVar[type[TransportError]] = TransportError

    _app: Client | None = None
    _preset: Mapping[str, Any] | None = None
    _arguments: Arguments | None = None
    _models: Models | None = None
    adapted: bool = False
    """Its app made more of it than it says itself, by the settings `task_annotations` or by `task_cls`."""

    # --- what it is -----------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body: the decorated function, or what a subclass defines."""
        raise NotImplementedError(f"task {self.name} has no body; define run() in {type(self).__name__}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as if it were not a task."""
        return cast(R, self.run(*args, **kwargs))

    @property
    def app(self) -> Client:
        """The app that registered it; a shared task's is the current one."""
        if self._app is None:
            return cast(Client, home.find())
        return self._app

    @property
    def backend(self) -> Backend:
        return self.app.backend

    @property
    def request(self) -> Request:
        """The call that runs here and now; outside a run, one whose `called_directly` is True."""
        request = running.get()
        return request if request is not None and request.task == self.name else Request(task=self.name)

    @property
    def arguments(self) -> Arguments:
        """What the body accepts."""
        if self._arguments is None:
            function = getattr(self, "__wrapped__", None)
            # A method `run` of a subclass is bound already; a decorated function with bind=True is not.
            body, bound = (self.run, False) if function is None else (function, self.bind)
            self._arguments = Arguments(body, self.name, bound=bound)
        return self._arguments

    @property
    def preset(self) -> Mapping[str, Any]:
        """The options of this task that are defaults of its calls."""
        if self._preset is None:
            # The first call completes the registry: what the settings say of this task is a default as well.
            _ = self.app.tasks
            found = {key: getattr(self, key) for key in SENDING}
            self._preset = {key: value for key, value in found.items() if value is not None}
        return self._preset

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in SENDING:
            object.__setattr__(self, "_preset", None)

    # --- calling it -----------------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> results.AsyncResult[R]:
        """Call it with these arguments. `apply_async` without options; see there."""
        return self._send(args, kwargs, NOTHING, by_delay=True)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> results.AsyncResult[R]:
        """Call it in a worker; return its result once the broker has the message in a queue.

        Blocks, at most `timeout` seconds. Raises TypeError for arguments that the function does not take and
        for unknown options, Unroutable, Nacked, TooLarge, BrokerBlocked, PublishTimeout, BrokerUnavailable.
        """
        if options:
            check_names(options, self.name)
        return self._send(_sequence(args, self.name), kwargs or {}, options, by_delay=False)

    def _send(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], *, by_delay: bool
    ) -> results.AsyncResult[R]:
        app, preset = self.app, self.preset
        if self._app is None and (own := app.tasks.get(self.name)) is not None and own.adapted:
            return cast(Task[P, R], own)._send(args, kwargs, options, by_delay=by_delay)
        if self.typing if self.typing is not None else app.strict_typing:
            self.arguments.check(args, kwargs, by_delay=by_delay)
        if self._models is not None and _serializer(app, options, preset) != "pickle":
            args, kwargs = self._models.sendable(args, kwargs)
        if app.conf.task_always_eager:
            named = {**options, "serializer": _serializer(app, options, preset)}
            return self.apply(args, kwargs, **cast(SendOptions, named))
        shadow = (
            None if type(self).shadow_name is Task.shadow_name else self.shadow_name(args, kwargs, options)
        )
        if shadow is not None:
            options = {**options, "shadow": shadow}
        return app.send(self.name, args, kwargs, options, preset)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[SendOptions],
    ) -> results.AsyncResult[R]:
        """Run it here, with a request and its handlers, and return the result; no message is sent.

        With `throw` (default: the setting `task_eager_propagates`) what it raises is raised here. With `serializer`
        the arguments are written and read as in a message; raises EncodeError then.
        """
        return eager.apply(self, args or (), kwargs or {}, {**self.preset, **options}, throw)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature: this call as a value."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return an immutable signature, which takes no value from the step before."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[SendOptions],
    ) -> Signature[R]:
        return Signature(self, args, kwargs, options, immutable=immutable)

    subtask = signature

    def map(self, it: Iterable[Any]) -> Signature[list[R]]:
        """Return one call that runs this task for each element, one after the other."""
        return canvas.xmap(self.s(), it)

    def starmap(self, it: Iterable[Any]) -> Signature[list[R]]:
        """As `map`, where each element is a list of arguments."""
        return canvas.xstarmap(self.s(), it)

    def chunks(self, it: Iterable[Any], n: int) -> canvas.group:
        """Return a group of calls that each run this task for up to `n` lists of arguments."""
        return canvas.chunks(self.s(), it, n)

    def AsyncResult(self, task_id: str) -> results.AsyncResult[R]:  # noqa: N802 (Celery's name)
        """Return the handle on a call of this task by its id."""
        return results.AsyncResult(task_id, self.backend, self.name, self.app)

    # --- inside a run ---------------------------------------------------------------------------------------

    def retry(  # noqa: PLR0917 (Celery's signature)
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this call again later: same id, same queue, one retry more. Raises Retry, or returns it if not
        `throw`.

        The next message leaves together with this run's outcome. Raises `exc`, or MaxRetriesExceeded, when
        there were `max_retries` already; called outside a run it raises `exc` at once. Raises TypeError for
        unknown options, EncodeError and TooLarge for arguments that cannot be sent.
        """
        return retrying.retry(
            self,
            args,
            kwargs,
            exc,
            throw,
            retrying.When(eta, countdown, max_retries),
            options,
        )

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Report a state of one's own ("PROGRESS") at once. Blocks until it is published."""
        request = self.request
        own = task_id is None or task_id == request.id
        app = self.app
        said = (request.ignore_result, self.ignore_result, app.conf.task_ignore_result)
        if own and next((each for each in said if each is not None), False):
            return
        app.backend.store(
            Meta(
                task_id=task_id or request.id or "",
                status=state or "",
                result=meta,
                reply_to=request.reply_to if own else None,
                correlation_id=request.correlation_id if own else task_id,
            ),
            lambda envelope: app.connection.publish([envelope]),
        )

    def add_trail(self, result: results.AsyncResult[Any]) -> results.AsyncResult[Any]:
        """Count a call among this run's children, unless `trail` is off; return its result."""
        if self.trail:
            self.request.children.append(result)
        return result

    def push_request(self, request: Request | None = None, **attributes: Any) -> Token[Any]:
        """Make a request the current one, for tests of bound tasks; `pop_request` undoes it."""
        return requests.push(request or Request(task=self.name, **attributes))

    def pop_request(self, token: Token[Any]) -> None:
        requests.pop(token)

    # --- handlers, to be overridden; they may be `async def` --------------------------------------------

    def before_start(
        self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Awaitable[None] | None:
        """Called before the body."""

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Awaitable[None] | None:
        """Called after the body returned."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> Awaitable[None] | None:
        """Called after the body raised. `einfo` prints as the traceback."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> Awaitable[None] | None:
        """Called when the call will be run again."""

    def after_return(  # noqa: PLR0917 (Celery's signature)
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: Any,
    ) -> Awaitable[None] | None:
        """Called last, after success and failure."""

    def shadow_name(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> str | None:
        """Return a name for logs and monitors, from the arguments."""
        return None

    @classmethod
    def on_bound(cls, app: Client) -> None:
        """Called when an app registers a task of this class."""

    # --- how it looks -----------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.name, getattr(self, "__module__", None))

    def __repr__(self) -> str:
        app = self._app
        if app is None:
            return f"<@task: {self.name} (shared)>"
        return f"<@task: {self.name} of {app.main or '__main__'} at {id(app):#x}>"


class CoroutineTask(Task[P, R]):
    """A task whose body is `async def`: called in place it returns the coroutine, elsewhere it is awaited."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        return cast("Coroutine[Any, Any, R]", self.run(*args, **kwargs))


def _sequence(args: Sequence[Any] | None, name: str) -> Sequence[Any]:
    if args is None:
        return ()
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise TypeError(
            f"apply_async() of {name}: args must be a list or tuple, not {args!r}; for one argument write "
            f"({args!r},)"
        )
    return args


def _serializer(app: Client, options: Mapping[str, Any], preset: Mapping[str, Any]) -> str:
    return options.get("serializer") or preset.get("serializer") or app.conf.task_serializer


def _by_name(name: str, module: str | None) -> Any:
    """Find a task in the process that unpickles it; its module is imported if need be."""
    if module and module not in sys.modules:
        importlib.import_module(module)
    app = home.find()
    return cast(Client, app).tasks[name]
