"""Sphinx: MyST pages by Diataxis; `make docs` builds them with warnings as errors."""

import logging
import re
import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import settings_table

project = "amqptasks"
author = "the amqptasks authors"
copyright = f"2026, {author}"
release = metadata.version("amqptasks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"amqptasks {release}"
html_theme_options = {"navigation_with_keys": True}


def setup(app: Sphinx) -> None:
    # An empty section is no mistake while its first page is being written. By a filter: Sphinx gives this
    # warning a subtype without a type, which `suppress_warnings` cannot name.
    directives = logging.getLogger("sphinx.sphinx.directives.other")
    directives.addFilter(lambda record: getattr(record, "subtype", "") != "empty_glob")
    app.connect("autodoc-process-docstring", drawings_are_literal)
    app.connect("source-read", settings_are_generated)


def settings_are_generated(app: Sphinx, docname: str, source: list[str]) -> None:
    """The page of the settings is its introduction, and below it what the code declares."""
    if docname == "reference/settings":
        source[0] += settings_table.render()


def drawings_are_literal(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """A drawing in a module's docstring (the tree of the errors) is indented for a reader of the source."""
    if what == "module":
        text = re.sub(r"\n\n(?=    )", "\n\n::\n\n", "\n".join(lines), count=1)
        lines[:] = text.splitlines()
