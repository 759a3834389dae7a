"""What there is to compute: reading a module of the standard library, squeezing a package. No queue in here."""

from __future__ import annotations

import ast
import lzma
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = Path(sysconfig.get_path("stdlib"))
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
BRANCHES = (
    ast.If,
    ast.For,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.BoolOp,
    ast.comprehension,
    ast.match_case,
)


def modules() -> list[str]:
    """Every module of the standard library, as a path relative to it."""
    return sorted(str(path.relative_to(LIBRARY)) for path in _sources(LIBRARY))


def packages() -> list[str]:
    """Every top-level package of the standard library."""
    return sorted(
        path.parent.name for path in LIBRARY.glob("*/__init__.py") if path.parent.name not in SKIPPED
    )


def measure_module(name: str) -> dict[str, Any]:
    """Parse one module: lines, definitions, imports, and its three most complex functions."""
    text = (LIBRARY / name).read_text(encoding="utf-8", errors="replace")
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    complex_first = sorted(((_complexity(node), node.name) for node in functions), reverse=True)
    return {
        "module": name,
        "lines": text.count("\n"),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        "imports": sum(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)),
        "most_complex": [[score, function] for score, function in complex_first[:3]],
    }


def squeeze_package(name: str) -> dict[str, Any]:
    """Compress all sources of one package with lzma: bytes before and after."""
    compressor = lzma.LZMACompressor(preset=4)
    before = after = 0
    for path in sorted(_sources(LIBRARY / name)):
        source = path.read_bytes()
        before += len(source)
        after += len(compressor.compress(source))
    after += len(compressor.flush())
    return {"package": name, "bytes": before, "compressed": after}


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in SKIPPED:
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _complexity(function: ast.AST) -> int:
    return 1 + sum(isinstance(node, BRANCHES) for node in ast.walk(function))
