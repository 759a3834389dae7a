"""The documentation as a program: its snippets, and a reader who types them in order.

A page's `python` and `pycon` blocks run one after another in one module, as a reader would go on typing. Comments in
the page, which its reader does not see, say what else he does:

    <!-- file: tasks.py -->     the next block is saved under this name, and imported
    <!-- run: worker -->        a worker of `app` is started
    <!-- run: close -->         the page's app is closed, its worker stopped: what follows is another program
    <!-- shows: NAME -->        the next block is not code but what something printed; the test NAME checks it

A page that a test does not know, and a block that nobody ran, fail.
"""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUN = ("python", "pycon")
TYPED = "console"
SHOWN = ("text", "toml", "ini", "yaml", "json", "{toctree}", "{include}", "{eval-rst}", "{literalinclude}")
"""Blocks that are looked at, not run."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\s`]*)[^\n]*\n(?P<text>.*?)^ *(?P=fence)\s*$",
    re.DOTALL | re.MULTILINE,
)
_DIRECTIVE = re.compile(r"<!-- (?P<verb>file|run|shows): (?P<what>.+?) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, or a directive between two."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language})"


def pages() -> dict[str, Path]:
    """Every page, by its path from the checkout's root."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path for path in found if "_build" not in path.parts}


def blocks(name: str) -> Iterator[Block]:
    """Blocks and directives of a page, in order."""
    text = (ROOT / name).read_text()
    fences = list(_FENCE.finditer(text))
    inside = [range(fence.start(), fence.end()) for fence in fences]
    directives = [one for one in _DIRECTIVE.finditer(text) if not any(one.start() in span for span in inside)]
    for match in sorted([*fences, *directives], key=lambda one: one.start()):
        line = text.count("\n", 0, match.start()) + 1
        if match.re is _FENCE:
            yield Block(name, line, match["language"], textwrap.dedent(match["text"]))
        else:
            yield Block(name, line, f"<{match['verb']}>", match["what"])


def without_blocks(name: str) -> str:
    """The sentences of a page."""
    return _FENCE.sub("", (ROOT / name).read_text())


@dataclass(frozen=True, slots=True)
class Command:
    """A line after `$`, and what the page says it prints."""

    block: Block
    words: str
    output: str


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `console` block, without their comments."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    for part in parts:
        typed, _, output = part.replace("\\\n", " ").partition("\n")
        yield Command(block, typed.partition(" #")[0].strip(), output)


def patient(code: str) -> str:
    """Have code wait for longer where it waits for seconds: the machine that a page was written for is not busy."""
    return re.sub(r"\b(get|aget|join|collect)\(timeout=(3|5|10|20|30)\b", r"\1(timeout=100", code)


class Reader:
    """Types a page's code into one module, `tasks`. Use it in a `with` block: it forgets what it imported."""

    def __init__(
        self,
        page: str,
        folder: Path,
        work: Callable[[Any], AbstractContextManager[Any]],
        typing: Callable[[Block], None] | None = None,
    ) -> None:
        """`work(app)` is a running worker; `typing` gets the console blocks, which are else passed over."""
        self.page, self.folder = page, folder
        self.ran: list[Block] = []
        self._work, self._typing = work, typing
        self._open = ExitStack()
        self._before = set(sys.modules)
        self._module = ModuleType("tasks")
        self._saved: str | None = None
        self._shown = False

    def __enter__(self) -> Reader:
        sys.modules["tasks"] = self._module
        sys.path.insert(0, str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._open.close()
            self._close()
        finally:
            sys.path.remove(str(self.folder))
            for name in set(sys.modules) - self._before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if name == "tasks" or file.startswith(str(self.folder)):
                    del sys.modules[name]

    def read(self) -> list[Block]:
        """Run everything in order; return the blocks that were run."""
        for block in blocks(self.page):
            self._take(block)
        return self.ran

    def _take(self, block: Block) -> None:
        match block.language:
            case "<file>":
                self._saved = block.text
            case "<shows>":
                self._shown = True
            case "<run>":
                self._do(block)
            case "python" if self._saved:
                self._save(block, self._saved)
                self._saved = None
            case "python":
                self._run(block)
            case "pycon":
                self._converse(block)
            case "console" if self._shown:
                self._shown = False
            case "console" if self._typing is not None:
                self._typing(block)
                self.ran.append(block)

    def _do(self, block: Block) -> None:
        if block.text == "worker":
            self._open.enter_context(self._work(self._module.__dict__["app"]))
        elif block.text == "close":
            self._open.close()
            self._close()
        else:
            raise AssertionError(f"{block}: nobody can do {block.text!r}")

    def _close(self) -> None:
        app = self._module.__dict__.get("app")
        if app is not None:
            app.close()

    def _save(self, block: Block, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(patient(block.text))
        module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        importlib.invalidate_caches()
        if module == "tasks":
            self._run(block)
        else:
            importlib.import_module(module)
            self.ran.append(block)

    def _run(self, block: Block) -> None:
        # Padded, so that a traceback names the page's own line.
        text = "\n" * block.line + patient(block.text)
        code = compile(text, str(ROOT / block.page), "exec", dont_inherit=True)
        exec(code, self._module.__dict__)
        self.ran.append(block)

    def _converse(self, block: Block) -> None:
        session = doctest.DocTestParser().get_doctest(
            patient(block.text), self._module.__dict__, str(block), block.page, block.line
        )
        said: list[str] = []
        runner = doctest.DocTestRunner(
            optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False
        )
        runner.run(session, out=said.append, clear_globs=False)
        assert session.examples, f"{block} holds no >>> line"
        assert not runner.failures, "".join(said)
        self._module.__dict__.update(session.globs)
        self.ran.append(block)
