"""The settings as Markdown, from their own declarations: name, type, default and docstring of every field."""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from amqptasks.settings import DEFAULTS, Settings

WORDS = {
    "Seconds": "seconds",
    "Count": "int > 0",
    "Natural": "int >= 0",
    "Priority": "0 to 255",
    "Strings": "list of str",
    "Mapping[str, Any]": "dict",
    "Sequence[Any]": "list",
}


def render() -> str:
    """One section a group of settings, one definition a setting."""
    return "\n".join(line for group in Settings.__bases__ for line in _section(group))


def _section(group: type) -> Iterator[str]:
    yield f"\n## {(group.__doc__ or group.__name__).strip().splitlines()[0].rstrip('.')}\n"
    for name, annotation, text in _fields(group):
        default = DEFAULTS[name]
        shown = repr(dict(default)) if hasattr(default, "items") else repr(default)
        yield f"(setting-{name.replace('_', '-')})="
        yield f"`{name}`\n: {text}\n\n  {_type(annotation)}; default `{shown}`\n"


def _fields(group: type) -> Iterator[tuple[str, ast.expr, str]]:
    """Each field with the docstring below it."""
    tree = ast.parse(inspect.getsource(group)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, f"{group.__name__}.{field.target.id} has no docstring"
            text: Any = below.value.value  # type: ignore[union-attr]
            yield field.target.id, field.annotation, inspect.cleandoc(text)


def _type(annotation: ast.expr) -> str:
    text = ast.unparse(annotation)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        text = ast.unparse(annotation.slice.elts[0])
    for word, meaning in WORDS.items():
        text = text.replace(word, meaning)
    if text.startswith("Literal["):
        text = text.removeprefix("Literal[").rstrip("]").replace(", ", " or ")
    return f"`{text.replace('Literal[', '').replace(']', '').replace(' | ', '` or `')}`"
