"""A page of options, cut at its headings: each section runs alone, as it stands or without its option.

A section is a heading of the third level, which names options (`### `max_retries``) or none, and what follows it;
before it is typed what stands above the page's first such heading. Knows pages as text; runs nothing.
"""

from __future__ import annotations

import ast
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import ROOT, blocks

_HEADING = re.compile(r"^### (.+)$", re.MULTILINE)
_ANY = re.compile(r"^##+ ", re.MULTILINE)
_PYTHON = re.compile(r"(?<=^```python\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """What the page says of one option, of two that only make sense together, or of several."""

    title: str
    options: tuple[str, ...]
    before: str
    text: str

    def __str__(self) -> str:
        return re.sub(r"[^\w,]+", "-", self.title).strip("-")

    @property
    def needs_processes(self) -> bool:
        """Its worker is started by a command."""
        return "```console" in self.text

    def page(self, folder: Path, without: str | None = None) -> Path:
        """The section as a page of its own, in `folder`; `without` takes that option out of its code."""
        text = (
            self.text if without is None else _PYTHON.sub(lambda code: removed(code[0], without), self.text)
        )
        assert without is None or text != self.text, f"the example of {self} does not use {without}"
        path = folder / f"{self}.md"
        # Apps of one URL share a broker, and what an example leaves there is not the next one's business.
        path.write_text((self.before + text).replace('"memory://"', f'"memory://{uuid.uuid4()}"'))
        assert list(blocks(str(path)))
        return path


def sections(page: str) -> list[Section]:
    """The sections of a page, in order."""
    text = (ROOT / page).read_text()
    heads = list(_HEADING.finditer(text))
    before = "".join(f"```python\n{code}```\n" for code in _PYTHON.findall(text[: heads[0].start()]))
    found = []
    for head in heads:
        after = _ANY.search(text, head.end())
        options = tuple(re.findall(r"`(\w+)`", head[1]))
        found.append(Section(head[1], options, before, text[head.end() : after.start() if after else None]))
    return found


def removed(code: str, option: str) -> str:
    """`code` without the option: as a keyword of a task's decorator, and as an attribute of a class."""
    tree = ast.parse(code)
    taken = _Removing(option)
    changed = taken.visit(tree)
    return f"{ast.unparse(ast.fix_missing_locations(changed))}\n" if taken.count else code


class _Removing(ast.NodeTransformer):
    def __init__(self, option: str) -> None:
        self.option = option
        self.count = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = ast.unparse(node.func)
        if called.endswith(("app.task", "shared_task")):
            kept = [keyword for keyword in node.keywords if keyword.arg != self.option]
            self.count += len(node.keywords) - len(kept)
            node.keywords = kept
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        kept = [statement for statement in node.body if self.option not in _names(statement)]
        self.count += len(node.body) - len(kept)
        node.body = kept or [ast.Pass()]
        return self.generic_visit(node)


def _names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
    return set()
