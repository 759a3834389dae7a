"""The shape of the package: imports run only downward, drivers stay at the rim, files and functions stay small."""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "amqptasks"

FLOORS = (  # from the ground up: name, top-level modules
    ("ground", "errors einfo states amqp signals backoff bounded masking ids values schedules"),
    (
        "wire",
        "serialization protocol config settings worker_settings coercion foreign_settings sources topology entities "
        "task_routes routing delay compression json_body shown dotted wire_fields wire_errors wire_results pidbox revokes event_wire",
    ),
    ("transport", "transport"),
    ("backends", "backends waiting reading result result_sets result_graph"),
    (
        "app",
        "options arguments request resources declarations composing batch awaited awaited_calls client signatures canvas retrying eager task "
        "task_options annotating models naming builtin registry decorating events control inspecting gathered event_state snapshots log app sharing "
        "dead deaths late_parts visiting periodic commands django_apps task_checks",
    ),
    ("public names", "__init__"),
    ("worker", "worker beat"),
    ("monitor", "monitor"),
    ("dashboard", "dashboard"),
    ("cli", "cli testing contrib __main__"),
)

DRIVERS = {  # a foreign package -> the only part of ours that may import it
    "pika": "transport",
    "aio_pika": "transport",
    "aiormq": "transport",
    "pamqp": "transport",
    "click": "cli",
    "starlette": "dashboard",
    "uvicorn": "dashboard",
    "jinja2": "dashboard",
    "markupsafe": "dashboard",
    "sqlalchemy": "backends.database",
    "redis": "backends.redis",
    "celery": "nowhere: it is a peer of the tests",
    "kombu": "nowhere: it is a peer of the tests",
}

LATE = {  # (part of ours, what it imports inside a function) -> the reason
    ("", "msgspec"): "optional: the extra msgpack",
    ("", "yaml"): "optional: the extra yaml",
    ("", "backports"): "optional: the extra zstd",
    ("", "compression"): "zstd of the standard library, from Python 3.14",
    ("", "setproctitle"): "optional: the extra setproctitle",
    ("", "uvloop"): "optional: the extra uvloop",
    ("worker.metrics", "prometheus_client"): "optional: the extra prometheus",
    ("schedules", "ephem"): "optional: the extra solar",
    ("", "pydantic"): "optional: the extra pydantic",
    ("cli", ""): "--version and completion do not pay for what a command needs",
    ("contrib", ""): "each integration needs a framework that may be absent",
    ("backends", "amqptasks.backends"): "the one `match` that picks a backend imports its driver",
    ("transport", "amqptasks.transport"): "the one `match` that picks a transport imports its driver",
    ("testing", "pytest"): "optional: the fixtures are for those who have it",
}

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "managers", "handlers"}
FILE_LINES = 350
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Import:
    line: int
    target: str  # the module, absolute; of ours as deep as a module goes
    late: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING`


@dataclass(frozen=True)
class Module:
    name: str  # dotted, without "amqptasks."; "__init__" for the package itself
    path: Path
    source: str
    tree: ast.Module
    imports: tuple[Import, ...]

    def at(self, line: int) -> str:
        return (
            f"amqptasks/{self.path.relative_to(PACKAGE).as_posix()}:{line}"
            if self.path.is_relative_to(PACKAGE)
            else f"{self.name}:{line}"
        )


def read(root: Path) -> dict[str, Module]:
    paths = {_name(root, path): path for path in sorted(root.rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        source = path.read_text()
        tree = ast.parse(source)
        imports = tuple(_imports(tree, name, path.name == "__init__.py", set(paths)))
        modules[name] = Module(name, path, source, tree, imports)
    return modules


def _name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def _imports(tree: ast.Module, name: str, is_package: bool, ours: set[str]) -> Iterator[Import]:
    here = ["amqptasks", *([] if name == "__init__" else name.split("."))]
    here = here if is_package else here[:-1]

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        outer = here[: len(here) - node.level + 1] if node.level else []
        base = ".".join([*outer, *filter(None, [node.module])])
        for alias in node.names:  # `from .a import b` means the module a.b where there is one
            member = f"{base}.{alias.name}"
            yield member if member.removeprefix("amqptasks.") in ours else base

    def walk(nodes: Iterable[ast.AST], late: bool, typing: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (Import(node.lineno, target, late, typing) for target in targets(node))
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.body, late, True)
                yield from walk(node.orelse, late, typing)
            else:
                function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(ast.iter_child_nodes(node), late or function, typing)

    yield from walk(tree.body, False, False)


def floor(name: str) -> int | None:
    top = name.partition(".")[0]
    return next((number for number, (_, names) in enumerate(FLOORS) if top in names.split()), None)


def inner(target: str) -> str | None:
    """The module of ours that an import names, or None for a foreign one."""
    if target == "amqptasks":
        return "__init__"
    return target.removeprefix("amqptasks.") if target.startswith("amqptasks.") else None


def within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(part + ".")


# --- the rules: each answers with sentences ---


def unplaced(modules: dict[str, Module]) -> Iterator[str]:
    for name in modules:
        if floor(name) is None:
            yield f"{name} has no floor: put it into a module of FLOORS, or name it there"


def upward(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        here = floor(module.name)
        for found in module.imports:
            target = inner(found.target)
            there = floor(target) if target else None
            if here is None or there is None or found.typing or there <= here:
                continue
            where = f"{module.at(found.line)}: {module.name} (floor {here}, {FLOORS[here][0]}) imports"
            if target == "__init__":
                yield f"{where} from `amqptasks` a name that is no module of it: import it where it is defined"
            else:
                yield f"{where} {target} (floor {there}, {FLOORS[there][0]}): move what it needs down, or pass it in"


def cycles(modules: dict[str, Module]) -> Iterator[str]:
    graph = {
        name: {
            target
            for found in module.imports
            if not found.typing
            and (target := inner(found.target)) in modules
            and target not in (name, "__init__")
        }
        for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        yield "import cycle: " + " <- ".join(exc.args[1])


def late(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for found in module.imports:
            if (
                found.late
                and not found.typing
                and not any(within(module.name, part) and within(found.target, what) for part, what in LATE)
            ):
                yield f"{module.at(found.line)}: imports {found.target} inside a function: to the top, or a reason into LATE"


def strayed(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for found in module.imports:
            home = DRIVERS.get(found.target.split(".")[0])
            if home is not None and not within(module.name, home):
                yield f"{module.at(found.line)}: imports {found.target}, which belongs to {home} alone"


def foreign_to_the_install(modules: dict[str, Module]) -> Iterator[str]:
    """A hard import of what pyproject.toml does not list breaks a plain install."""
    listed = {"aio_pika", "aiormq", "pamqp", "click", "orjson", "pika", "amqptasks"}
    for module in modules.values():
        guarded = {
            line
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Try)
            for part in node.body
            for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
        }
        for found in module.imports:
            top = found.target.split(".")[0]
            home = within(module.name, "contrib") or within(module.name, DRIVERS.get(top, "nowhere"))
            if (
                top in sys.stdlib_module_names | listed
                or found.late
                or found.typing
                or home
                or found.line in guarded
            ):
                continue
            yield f"{module.at(found.line)}: imports {top}, which is no dependency: guard it by try, or list it"


def too_long(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        lines = len(module.source.splitlines())
        if lines > FILE_LINES:
            yield f"{module.at(1)}: {lines} lines, at most {FILE_LINES}: two things live here"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # A docstring is not what makes a function long.
                documented = ast.get_docstring(node) is not None and len(node.body) > 1
                first = node.body[1].lineno if documented else node.lineno
                length = (node.end_lineno or first) - first + 1
                if length > FUNCTION_LINES:
                    yield f"{module.at(node.lineno)}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def undocumented(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            yield f"{module.at(1)}: opens without saying what it is"


def vague(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if VAGUE & set(module.name.split(".")):
            yield f"{module.name}: a name that says nothing; name it after what it does"


RULES = [unplaced, upward, cycles, late, strayed, foreign_to_the_install, too_long, undocumented, vague]


@cache
def package() -> dict[str, Module]:
    return read(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule) -> None:
    broken = list(rule(package()))

    assert not broken, "\n" + "\n".join(broken)


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


DOC = '"""x"""\n'


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (unplaced, {"stuff.py": DOC}),
        (upward, {"protocol.py": DOC + "from .app import App", "app.py": DOC}),
        (
            upward,
            {
                "transport/__init__.py": DOC,
                "transport/base.py": DOC + "from .. import worker",
                "worker/__init__.py": DOC,
            },
        ),
        (upward, {"errors.py": DOC + "def f():\n    import amqptasks.app", "app.py": DOC}),
        (upward, {"errors.py": DOC + "import amqptasks"}),
        (cycles, {"app.py": DOC + "from . import task", "task.py": DOC + "from .app import App"}),
        (late, {"app.py": DOC + "def f():\n    import json"}),
        (strayed, {"app.py": DOC + "import pika.exceptions"}),
        (strayed, {"backends/rpc.py": DOC + "from redis import Redis"}),
        (foreign_to_the_install, {"serialization.py": DOC + "import msgspec"}),
        (too_long, {"app.py": DOC + "x = 1\n" * FILE_LINES}),
        (too_long, {"app.py": DOC + "def f():\n" + "    x = 1\n" * FUNCTION_LINES}),
        (undocumented, {"app.py": "x = 1"}),
        (vague, {"worker/utils.py": DOC}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "+".join(value),
)
def test_each_rule_can_break(rule, files, tmp_path) -> None:
    assert len(list(rule(_tree(tmp_path, files)))) == 1


def test_type_checking_imports_are_free(tmp_path) -> None:
    code = DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .app import App"
    modules = _tree(tmp_path, {"errors.py": code, "app.py": DOC + "from . import errors"})

    assert [broken for rule in (upward, cycles, late) for broken in rule(modules)] == []


def _tree(root: Path, files: dict[str, str]) -> dict[str, Module]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(root)
