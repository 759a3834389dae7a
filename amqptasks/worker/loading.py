"""Finding the app that `-A` names: a module, an attribute, a factory, a script. Imports the user's code.

Runs where the app lives, in the pool's processes and in client commands, never in a worker's parent. Knows
nothing of settings or pools.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from amqptasks.app import App, WorkerMainReached, app_loading
from amqptasks.errors import AppImportFailed, AppNotFound, ImproperlyConfigured

R = TypeVar("R")

NAMES = ("app", "amqptasks", "celery")
SUBMODULES = (*NAMES, "tasks")
SCRIPT = "script:"


def find_app(spec: str, workdir: str | os.PathLike[str] | None = None) -> App:
    """Return the app that `spec` names, with `workdir` (default: the current folder) on the path.

    `pkg`, `pkg.mod`, `pkg.mod:attr`, `pkg.mod:factory`, or `script:path` for a file that ends in
    `app.worker_main()`. Raises AppNotFound, and AppImportFailed when the user's code raised.
    """
    folder = Path(workdir or Path.cwd()).resolve()
    _put_on_path(folder)
    app_loading.active = True
    try:
        return _find(spec, folder)
    except WorkerMainReached as reached:
        # Also without `if __name__ == "__main__"` around it: the module's end is its app.
        return reached.app
    finally:
        app_loading.active = False


def import_tasks(
    app: App, modules: Iterable[str] = (), workdir: str | os.PathLike[str] | None = None
) -> None:
    """Import `modules` (those of `-I`) and what the settings name, so that all tasks are registered.

    Raises AppImportFailed when a module is missing or the user's code raised.
    """
    folder = Path(workdir or Path.cwd()).resolve()
    for module in modules:
        _guarded(partial(importlib.import_module, module), f"importing {module} (-I)", folder)
    _guarded(app.import_modules, "importing what `include` and `imports` name", folder)


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _find(spec: str, folder: Path) -> App:
    if spec.startswith(SCRIPT):
        return _from_script(Path(folder, spec.removeprefix(SCRIPT)))
    if spec.endswith(".py") or "/" in spec:
        raise AppNotFound(f"-A {spec} is a file; name the module: -A {_module_of(spec)}")
    module_name, colon, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppNotFound(f"-A {spec!r} is no module name; write -A package.module or -A package.module:app")
    if colon:
        return _attribute(_import(module_name, folder), attribute, folder)
    return _search(module_name, folder)


def _module_of(path: str) -> str:
    return ".".join(part for part in Path(path).with_suffix("").parts if part not in ("", ".", "..", "/"))


# --- `pkg.mod:attr` --------------------------------------------------------------------------------------


def _attribute(module: ModuleType, path: str, folder: Path) -> App:
    found: Any = module
    for part in path.removesuffix("()").split("."):
        if not hasattr(found, part):
            raise AppNotFound(_no_attribute(module, found, part))
        found = getattr(found, part)
    if isinstance(found, App):
        return found
    if isinstance(found, ModuleType) or not callable(found):
        raise AppNotFound(
            f"{module.__name__}:{path} is {_described(found)}; "
            "name an amqptasks.App, or a function that returns one"
        )
    made = _guarded(found, f"calling {module.__name__}:{path}", folder)
    if not isinstance(made, App):
        raise AppNotFound(
            f"{module.__name__}:{path}() returned {_described(made)}; it must return an amqptasks.App"
        )
    return made


def _no_attribute(module: ModuleType, found: Any, part: str) -> str:
    apps = list(_apps(module))
    near = difflib.get_close_matches(
        part, [*apps, *(name for name in vars(found) if not name.startswith("_"))], n=1
    )
    if near:
        cure = f"did you mean {near[0]!r}?"
    elif apps:
        cure = f"its apps are {', '.join(apps)}"
    else:
        cure = "it holds no amqptasks.App"
    return f"the module {module.__name__!r} was found, but has no attribute {part!r}; {cure}"


def _described(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    kind = type(value)
    foreign = kind.__module__.split(".")[0] == "celery"
    return "a Celery app, not one of amqptasks" if foreign else f"an object of type {kind.__name__}"


# --- `pkg`, `pkg.mod` ------------------------------------------------------------------------------------


def _search(name: str, folder: Path) -> App:
    """Look in the module, then in its submodules; a last part that is no module may be an attribute."""
    parent, _, last = name.rpartition(".")
    if parent and not _exists(name, folder) and hasattr(_import(parent, folder), last):
        return _attribute(_import(parent, folder), last, folder)

    module = _import(name, folder)
    found = _named(module)
    if found is not None:
        return found
    submodules = list(_submodules(module, folder))
    for one in submodules:
        found = _named(one)
        if found is not None:
            return found
    for one in (module, *submodules):
        apps = _apps(one)
        if len(set(map(id, apps.values()))) == 1:
            return next(iter(apps.values()))
    raise AppNotFound(_nothing(module, submodules))


def _named(module: ModuleType) -> App | None:
    found = (getattr(module, name, None) for name in NAMES)
    return next((one for one in found if isinstance(one, App)), None)


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _submodules(module: ModuleType, folder: Path) -> Iterator[ModuleType]:
    if not hasattr(module, "__path__"):
        return
    for name in SUBMODULES:
        if _exists(f"{module.__name__}.{name}", folder):
            yield _import(f"{module.__name__}.{name}", folder)


def _nothing(module: ModuleType, submodules: list[ModuleType]) -> str:
    for one in (module, *submodules):
        apps = _apps(one)
        if apps:
            written = " or ".join(f"-A {one.__name__}:{name}" for name in apps)
            return f"the module {one.__name__!r} holds several apps; write {written}"
    name, place = module.__name__, getattr(module, "__file__", None) or "a namespace package"
    foreign = [key for key, value in vars(module).items() if type(value).__module__.startswith("celery.app")]
    if foreign:
        return f"{name}:{foreign[0]} is a Celery app, not one of amqptasks; make it an amqptasks.App"
    return (
        f"the module {name!r} ({place}) was found, but holds no amqptasks.App; "
        f"write app = App({name!r}) in it, or name another: -A package.module:attribute"
    )


# --- importing -------------------------------------------------------------------------------------------


def _exists(name: str, folder: Path) -> bool:
    """Whether there is such a module; imports the packages above it."""
    parent = name.rpartition(".")[0]
    if parent and not hasattr(_import(parent, folder), "__path__"):
        return False
    return importlib.util.find_spec(name) is not None


def _import(name: str, folder: Path) -> ModuleType:
    def importing() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                raise AppNotFound(_no_module(name, error.name, folder)) from None
            raise

    return _guarded(importing, f"importing {name}", folder)


def _no_module(name: str, missing: str, folder: Path) -> str:
    parent, _, last = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", ()) if parent else (folder,)
    siblings = sorted({stem for place in places for stem in _modules_in(Path(place))})
    near = difflib.get_close_matches(last, siblings, n=1)
    prefix = f"{parent}." if parent else ""
    place = f"in the package {parent!r}" if parent else f"in {folder} nor elsewhere on the path"
    if near:
        return f"there is no module {missing!r} {place}; did you mean -A {prefix}{near[0]}?"
    return f"there is no module {missing!r} {place}; start in the project's folder, or name it by --workdir"


def _modules_in(folder: Path) -> Iterator[str]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.suffix == ".py" and entry.stem.isidentifier() and entry.stem != "__init__":
            yield entry.stem
        elif entry.is_dir() and entry.name.isidentifier() and any(entry.glob("*.py")):
            yield entry.name


def _from_script(path: Path) -> App:
    """Run the file as `__main__`, as `python path` does, until it calls `app.worker_main()`."""
    if not path.is_file():
        raise AppNotFound(f"there is no file {path}")
    _put_on_path(path.parent)
    module = ModuleType("__main__")
    module.__file__ = str(path)
    # It stays: what the script defines is pickled by the name `__main__`.
    sys.modules["__main__"] = module
    _guarded(lambda: _run(path, module), f"running {path.name}", path.parent)
    raise AppNotFound(f"{path} ended without calling app.worker_main()")


def _run(path: Path, module: ModuleType) -> None:
    exec(compile(path.read_bytes(), path, "exec"), vars(module))  # noqa: S102 (running it is what -A asks for)


# --- errors of the user's code ---------------------------------------------------------------------------


def _guarded(call: Callable[[], R], doing: str, folder: Path) -> R:
    try:
        return call()
    except AppNotFound:
        raise
    except (Exception, SystemExit) as error:
        frames = _users_frames(error.__traceback__)
        place = _place(error, frames, folder)
        if isinstance(error, ImproperlyConfigured):
            # Its sentence has the cure already; what is missing is where.
            raise ImproperlyConfigured(f"{error}{place}") from error
        raise AppImportFailed(
            f"{doing} raised {_line(error)}{place}; correct it, or see --traceback", _text(error, frames)
        ) from error


def _users_frames(start: TracebackType | None) -> traceback.StackSummary:
    """Return the frames of the user's code: neither ours nor the import machinery's."""
    ours = str(Path(__file__).parents[1])  # a setting may be read long after the line that named it
    machinery = ("<frozen ", str(importlib.__file__), f"{ours}{os.sep}")
    frames = [frame for frame in traceback.extract_tb(start) if not frame.filename.startswith(machinery)]
    return traceback.StackSummary.from_list(frames)


def _place(error: BaseException, frames: traceback.StackSummary, folder: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        name, line = error.filename, error.lineno
    else:
        # The user wants his own line, not that of the library which he called.
        own = [frame for frame in frames if frame.filename.startswith(str(folder))] or list(frames)
        if not own:
            return ""
        name, line = own[-1].filename, own[-1].lineno
    return f" ({os.path.relpath(name, folder) if name.startswith(str(folder)) else name}, line {line})"


def _line(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = text.strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _text(error: BaseException, frames: traceback.StackSummary) -> str:
    lines = ["Traceback (most recent call last):\n", *frames.format()] if frames else []
    return "".join([*lines, *traceback.format_exception_only(error)])
