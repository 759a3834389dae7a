"""The app: settings, tasks, and the way to send them. The entry to everything; a program may have several.

Joins what the floors below offer; everything that costs time or a connection happens on first use.
Thread-safe.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, cast, overload

from amqptasks import builtin, django_apps, dotted, naming, registry, signals
from amqptasks import result as results
from amqptasks.annotating import Annotations
from amqptasks.commands import Commanding
from amqptasks.config import Config
from amqptasks.decorating import BoundDecorator, Decorator
from amqptasks.registry import AnyTask, Registrar, TaskRegistry, make_task, shared
from amqptasks.signatures import Signature, signature
from amqptasks.task import CoroutineTask
from amqptasks.task import Task as BaseTask
from amqptasks.task_checks import check_function
from amqptasks.waiting import home, running

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=AnyTask)


class _Default:
    """The settings decide; told apart from None, which means "no backend"."""

    def __repr__(self) -> str:
        return "the settings' own"


DEFAULT: Final = _Default()


class App(Commanding):
    """An application: its settings (`conf`), its tasks (`tasks`, `@app.task`), and what sends them.

    `main` stands for the module's name in tasks that are defined in `__main__`. `backend=None` means no
    results. Further keywords are settings. Use it as a context manager, or call `close()`, to end its
    connection early.
    """

    task_cls: type[AnyTask] | str = BaseTask
    """The class of tasks that name no `base`, or its dotted name, which is imported for the first of them."""

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | Sequence[str] | None = None,
        backend: str | _Default | None = DEFAULT,
        include: Sequence[str] | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        task_cls: type[AnyTask] | str | None = None,
        set_as_current: bool = True,
        autofinalize: bool = True,
        strict_typing: bool = True,
        **settings: Any,
    ) -> None:
        """Raises ImproperlyConfigured for a setting that does not exist or has the wrong type."""
        given = dict(settings)
        if broker is not None:
            given["broker_url"] = broker
        if not isinstance(backend, _Default):
            given["result_backend"] = backend
        if include is not None:
            given["include"] = tuple(include)
        super().__init__(Config(given), main)
        if config_source is not None:
            self.conf.config_from_object(config_source, namespace=namespace)
        self.strict_typing = strict_typing
        self.finalized = self._completed = False
        self._autofinalize = autofinalize
        self._registrar = Registrar()
        self._finalizing = threading.RLock()
        self._discovered: list[tuple[Any, str | None]] = []
        if task_cls is not None:
            self.task_cls = task_cls
        self._annotations = Annotations(None)
        shared.apps.add(self)
        if set_as_current:
            self.set_current()

    # --- tasks ----------------------------------------------------------------------------------------------

    @property
    def Task(self) -> type[AnyTask]:  # noqa: N802 (Celery's name)
        """The class of tasks that name no `base`. Raises ImproperlyConfigured if `task_cls` is none."""
        found = dotted.find_class(self.task_cls, BaseTask, "task_cls")
        self.task_cls = found
        return found

    @property
    def tasks(self) -> TaskRegistry:  # type: ignore[override]
        """The registered tasks by name, shared ones included."""
        # Another thread may be at it: `finalize` waits for it.
        if not self._completed and self._autofinalize:
            self.finalize()
        return self._registrar.tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> BaseTask[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: `@app.task`, or with options `@app.task(bind=True, acks_late=True)`.

        `name` replaces the automatic name, `base` is the class, `bind=True` passes the task as first
        argument; the other options are attributes of `Task`. Raises TypeError for an option that does not
        exist.
        """
        if function is None:
            return lambda function: self._task_from(function, options)
        return self._task_from(function, options)

    def _task_from(self, function: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
        given = dict(options)
        base = given.pop("base", None) or self.Task
        name, _ = given.pop("name", None), given.pop("shared", None)
        check_function(function, named=name is not None)
        if name is None:
            name = self.gen_task_name(function.__name__, function.__module__)
            naming.warn_of_hidden_name(function, name)
            return self._bind(make_task(function, name, base, given, self), named=False)
        return self._bind(make_task(function, name, base, given, self))

    def register_task(self, task: T | type[T]) -> T:
        """Register a task of one's own class, or an object of it, whose body is its method `run`.

        Raises ValueError for limits that contradict each other.
        """
        made = task() if isinstance(task, type) else task
        if not made.name:
            made.name = self.gen_task_name(type(made).__name__, type(made).__module__)
        made._app = self
        return cast(T, self._bind(registry.equipped(made)))

    def _bind(self, task: AnyTask, *, named: bool = True) -> AnyTask:
        registered = self._registrar.add(task, named=named)
        if registered is task:
            registry.annotate(task, self._annotations)
            task.on_bound(self)
        return registered

    def gen_task_name(self, name: str, module: str | None) -> str:
        """Return the automatic name of a task; override it to have others."""
        return naming.task_name(name, module, self.main)

    def finalize(self, auto: bool = False) -> None:
        """Complete the registry: shared tasks, annotations. Happens by itself when `tasks` is first read.

        Raises what is wrong with `task_annotations`, each time.
        """
        with self._finalizing:
            if self.finalized:
                return
            self.finalized = True
            try:
                self._complete()
            except BaseException:
                self.finalized = False
                raise
            self._completed = True
            self._completed_now()

    def _complete(self) -> None:
        for name, body in builtin.BODIES.items():
            self._registrar.add(make_task(body, name, BaseTask, builtin.options_of(name), self))
        # Only now: the settings may not have been complete before, and are read once.
        self._annotations = Annotations(self.conf.task_annotations)
        for task in list(self._registrar.tasks.values()):
            registry.annotate(task, self._annotations)
        for task in shared.all():
            self.adopt(task)

    def adopt(self, task: AnyTask) -> None:
        """Register a shared task here, once the app is finalized; a task of its own keeps its name."""
        if self.finalized and task.name not in self._registrar.tasks:
            self._bind(registry.copy_for(task, self, self.Task))

    # --- modules --------------------------------------------------------------------------------------------

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have `package.tasks` imported, for each package that has one, when a worker starts (`force`:
        now). Without packages they are Django's installed apps.
        """
        self._discovered.append((django_apps.packages if packages is None else packages, related_name))
        if force:
            self._discover()

    def import_modules(self) -> None:
        """Import what the worker must know: `imports`, `include`, and what autodiscovery found."""
        signals.import_modules.send(sender=self)
        is_django = django_apps.set_up()
        for module in dict.fromkeys((*self.conf.imports, *self.conf.include)):
            importlib.import_module(module)
        self._discover()
        if is_django:
            django_apps.close_connections()

    def _discover(self) -> None:
        for packages, related_name in self._discovered:
            for package in packages() if callable(packages) else packages:
                _import_related(package, related_name)

    # --- settings -------------------------------------------------------------------------------------------

    def config_from_object(
        self, source: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from a mapping, a module, a class or any object, or from its dotted name; see
        `Config`.
        """
        self.conf.config_from_object(source, namespace=namespace, silent=silent, force=force)

    def config_from_envvar(self, variable: str, silent: bool = False, force: bool = False) -> None:
        """Take settings from the module that an environment variable names."""
        self.conf.config_from_envvar(variable, silent=silent, force=force)

    # --- calls ----------------------------------------------------------------------------------------------

    def AsyncResult(self, task_id: str, task_name: str | None = None) -> results.AsyncResult[Any]:  # noqa: N802 (Celery's)
        """Return the handle on a call by its id."""
        return results.AsyncResult(task_id, self.backend, task_name, self)

    def GroupResult(self, id: str, members: Sequence[results.AsyncResult[Any]] = ()) -> results.GroupResult:  # noqa: N802
        return results.GroupResult(id, members, app=self)

    def signature(
        self,
        varies: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Signature:
        """Return a signature that this app sends; see `amqptasks.signature`."""
        return signature(varies, args, kwargs, options, self)

    @property
    def current_task(self) -> AnyTask | None:
        """The task that runs in this thread or coroutine."""
        request = running.get()
        return None if request is None else self.tasks.get(request.task)

    # --- life -----------------------------------------------------------------------------------------------

    def set_current(self) -> None:
        """Make this app the one that shared tasks, bare signatures and bare results use."""
        home.app = self

    def worker_main(self, argv: Sequence[str] | None = None) -> None:
        """Start a worker for the script that calls this: `python tasks.py` alone. Does not return.

        `argv` are a worker's options ("-c", "4"); a leading "worker" may stand before them.
        """
        if app_loading.active:
            raise WorkerMainReached(self)
        options = list(sys.argv[1:] if argv is None else argv)
        if options[:1] == ["worker"]:
            del options[0]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(  # noqa: S606 (no shell)
            sys.executable, [sys.executable, "-m", "amqptasks", "-A", _started_program(), "worker", *options]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"{self!r} cannot be pickled; pickle its tasks, which are found by name, and import the app"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"


def _started_program() -> str:
    """Return how `-A` names the program that runs: its script, or its module after `python -m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return str(spec.name)
    script = os.path.abspath(sys.argv[0])
    if not os.path.isfile(script):
        raise RuntimeError(
            "worker_main() starts a worker for the script that calls it, and this is none; write "
            "`amqptasks -A yourmodule worker` in a terminal"
        )
    return f"script:{script}"


class WorkerMainReached(BaseException):
    """`worker_main()` was reached while a worker loads the script: the app is complete. Not an error."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.app = app


class _Loading:
    """Set by who runs a script in order to get its app; then `worker_main` does not start a worker."""

    active = False


app_loading = _Loading()


def _import_related(package: str, related_name: str | None) -> None:
    """Import `package.related_name` if there is such a module; an error inside it is the user's to see."""
    module = importlib.import_module(package)
    if related_name is None or not hasattr(module, "__path__"):
        return
    if importlib.util.find_spec(f"{package}.{related_name}") is not None:
        importlib.import_module(f"{package}.{related_name}")


def current_app() -> App:
    """Return the app that was made last, or made current; without any, one with default settings."""
    return cast(App, home.find())


home.make = App
