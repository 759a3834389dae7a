"""Commands of remote control of one's own: how they are declared, and how they are called with what was sent.

`@app.control_command(...)` and `@app.inspect_command(...)`, or the functions of these names for every app, with
Celery's options. Knows neither the wire nor the worker, which has them carried out in a process beside its tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from amqptasks.config import Config
from amqptasks.errors import ImproperlyConfigured
from amqptasks.periodic import Periodic

if TYPE_CHECKING:
    from amqptasks.app import App

F = TypeVar("F", bound=Callable[..., Any])

Kind = Literal["control", "inspect"]
Args = tuple[tuple[str, Callable[[str], Any]], ...]

TIME_LIMIT = 10.0
"""Seconds after which a command that says nothing else is ended."""

BUILT_IN = frozenset(
    (
        "active", "active_queues", "add_consumer", "autoscale", "cancel_consumer", "clock", "conf",
        "disable_events", "dump_active", "dump_conf", "dump_reserved", "dump_revoked", "dump_schedule",
        "dump_tasks", "election", "enable_events", "heartbeat", "hello", "memdump", "memsample", "ping",
        "pool_grow", "pool_restart", "pool_shrink", "query_task", "rate_limit", "registered", "report",
        "reserved", "revoke", "revoke_by_stamped_headers", "revoked", "scheduled", "shutdown", "stats",
        "terminate", "time_limit",
    )
)  # fmt: skip
"""Names that workers answer to themselves."""


@dataclass(frozen=True, slots=True)
class CommandState:
    """The first argument of a command: whose worker was asked, and its app."""

    app: App
    hostname: str
    """The worker's node name."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a command has no state.{name}: it runs beside the worker, not in it; what the worker does "
            "state.app.control.inspect([state.hostname]) tells, and state.app.control changes it"
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A function, and how its arguments are written on a command line."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    args: Args = ()
    """Names and types of the words after the command."""
    variadic: str = ""
    """The name of the list of all further words."""
    signature: str = ""
    help: str = ""
    alias: str = ""
    visible: bool = True
    default_timeout: float = 1.0
    """Seconds that the command line waits for answers."""
    time_limit: float = TIME_LIMIT
    """Seconds that a worker gives it."""

    def call(self, state: CommandState, arguments: Mapping[str, Any]) -> Any:
        """Call it; text is made what the declaration says. Raises what it raises, TypeError and ValueError."""
        given = dict(arguments)
        for name, kind in self.args:
            if isinstance(given.get(name), str):
                given[name] = reader(kind)(given[name])
        return self.function(state, **given)

    @property
    def required(self) -> int:
        """How many words there must be: those of parameters without a default."""
        parameters = inspect.signature(self.function).parameters
        wanted = [
            name in parameters and parameters[name].default is inspect.Parameter.empty
            for name, _ in self.args
        ]
        return len(wanted) - wanted[::-1].index(True) if True in wanted else 0


def reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """What makes a value of a word: the type itself, but `bool` reads yes and no."""
    return truth if kind is bool else kind


def truth(word: str) -> bool:
    """Raises ValueError for what is neither yes nor no."""
    if word.lower() in ("1", "true", "yes", "on"):
        return True
    if word.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{word!r} is neither true nor false")


class Commands(dict[str, Command]):
    """Commands by name; in `find` by alias too."""

    def declare(self, function: Callable[..., Any], kind: Kind, options: Mapping[str, Any]) -> None:
        """Raises ImproperlyConfigured for options that make no sense, and for a name that is taken."""
        command = _command(function, kind, **options)
        for name in filter(None, (command.name, command.alias)):
            if name in BUILT_IN:
                raise ImproperlyConfigured(
                    f"workers have a command {name!r} already; give this one another name"
                )
            known = self.find(name)
            if known is not None and _place(known.function) != _place(function):
                raise ImproperlyConfigured(
                    f"{_place(known.function)} is the command {name!r}; {_place(function)} needs another name"
                )
        self[command.name] = command

    def find(self, name: str) -> Command | None:
        """The command of this name, or of this alias."""
        return self.get(name) or next((each for each in self.values() if each.alias == name), None)


def _place(function: Callable[..., Any]) -> str:
    """Where it is defined: a module that is loaded anew declares the same commands again."""
    return f"{function.__module__}.{function.__qualname__}"


def _command(
    function: Callable[..., Any],
    kind: Kind,
    *,
    name: str | None = None,
    alias: str | None = None,
    args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
    variadic: str | None = None,
    signature: str | None = None,
    help: str | None = None,
    visible: bool = True,
    default_timeout: float = 1.0,
    time_limit: float = TIME_LIMIT,
) -> Command:
    typed = tuple((str(word), kind_of) for word, kind_of in args or ())
    if not time_limit > 0 or not default_timeout > 0:
        raise ImproperlyConfigured(f"the times of the command {function.__name__} are seconds above 0")
    made = Command(
        name or function.__name__,
        function,
        kind,
        typed,
        variadic or "",
        signature or "",
        help or (function.__doc__ or "").strip().partition("\n")[0],
        alias or "",
        visible,
        default_timeout,
        time_limit,
    )
    return made if signature is not None else _with_signature(made)


def _with_signature(command: Command) -> Command:
    words = [
        name.upper() if place < command.required else f"[{name.upper()}]"
        for place, (name, _) in enumerate(command.args)
    ]
    if command.variadic:
        words.append(f"[{command.variadic.upper()}...]")
    return replace(command, signature=" ".join(words))


SHARED = Commands()
"""Those of every app in this process."""


@overload
def control_command(function: F, /) -> F: ...
@overload
def control_command(**options: Any) -> Callable[[F], F]: ...
def control_command(function: Any = None, /, **options: Any) -> Any:
    """As `app.control_command`, for every app of the program."""
    return _declaring(SHARED, "control", function, options)


@overload
def inspect_command(function: F, /) -> F: ...
@overload
def inspect_command(**options: Any) -> Callable[[F], F]: ...
def inspect_command(function: Any = None, /, **options: Any) -> Any:
    """As `app.inspect_command`, for every app of the program."""
    return _declaring(SHARED, "inspect", function, options)


def _declaring(into: Commands, kind: Kind, function: Any, options: Mapping[str, Any]) -> Any:
    def declare(function: F) -> F:
        into.declare(function, kind, options)
        return function

    return declare if function is None else declare(function)


class Commanding(Periodic):
    """The part of an app that has commands of its own."""

    def __init__(self, conf: Config, main: str | None) -> None:
        super().__init__(conf, main)
        self._own = Commands()

    @property
    def commands(self) -> Commands:
        """The commands of this app, those of every app included."""
        return Commands({**SHARED, **self._own})

    @overload
    def control_command(self, function: F, /) -> F: ...
    @overload
    def control_command(self, /, **options: Any) -> Callable[[F], F]: ...
    def control_command(self, function: Any = None, /, **options: Any) -> Any:
        """Have workers answer to a function's name, with what it returns: for a command that changes something.

        It is called as `function(state, **arguments)` in a process beside the tasks, one command at a time. `args`
        names the words of its command line with their types, `[("n", int)]`, `variadic` the list of the others;
        `signature` and `help` are shown; `name`, `alias`, `visible`; `default_timeout`: seconds that the command line
        waits for answers; `time_limit`: seconds after which it is ended. Raises ImproperlyConfigured for a name that is
        taken.
        """
        return _declaring(self._own, "control", function, options)

    @overload
    def inspect_command(self, function: F, /) -> F: ...
    @overload
    def inspect_command(self, /, **options: Any) -> Callable[[F], F]: ...
    def inspect_command(self, function: Any = None, /, **options: Any) -> Any:
        """As `control_command`, for a command that only looks: it is listed by `inspect`."""
        return _declaring(self._own, "inspect", function, options)
