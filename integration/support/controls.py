"""What pages offered to press and to fill in, and what of it was used: a button that nobody presses is not tested.

    controls = Controls(kind=lambda path: path, bar="header")
    with tab(browser, base, controls=controls) as made: ...
    assert not controls.unused()

Knows no page of ours, and sees nothing of a page that runs no scripts.
"""

from collections.abc import Callable
from typing import NamedTuple

from playwright.sync_api import BrowserContext

SCRIPT = """(() => {
  const CONTROLS = "button, summary, a.button, a[href^='#'], input:not([type=hidden]), select, textarea";
  const FIELDS = "input, select, textarea";
  const path = (address) => new URL(address, location.href).pathname;
  const words = (each) => [...each.childNodes].filter((part) => part.nodeType === Node.TEXT_NODE)
    .map((part) => part.data).join(" ").replace(/\\d+/g, "N").replace(/\\s+/g, " ").trim();
  const name = (each) => each.matches(FIELDS) ? each.name || each.id : words(each) || each.id;
  const target = (each) => {
    if (!each.form) return "";
    const own = each.type === "submit" ? each.getAttribute("formaction") : null;
    return path(own ?? each.form.getAttribute("action") ?? "");
  };
  const told = new Set();
  const tell = (used, each) => {
    const said = [used, location.pathname, each.closest("BAR") !== null, each.localName, name(each), target(each)];
    if (told.has(said.join())) return;
    told.add(said.join());
    tellOfControl(...said);
  };
  const look = () => document.querySelectorAll(CONTROLS)
    .forEach((each) => each.checkVisibility() && tell(false, each));
  document.addEventListener("DOMContentLoaded", () => {
    look();
    const changes = { childList: true, subtree: true, attributeFilter: ["hidden", "open"] };
    new MutationObserver(look).observe(document.documentElement, changes);
  });
  for (const event of ["click", "change"]) {
    document.addEventListener(event, ({ target }) => {
      const used = target.closest?.(CONTROLS);
      if (used && used.matches(FIELDS) === (event === "change")) tell(true, used);
    }, true);
  }
})()"""


class Control(NamedTuple):
    """Numbers in names are N, so that rows of a table share theirs."""

    page: str
    """The page's kind; empty for what all pages have."""
    element: str
    name: str
    target: str
    """Where its form is sent; empty without a form."""

    def __str__(self) -> str:
        where = f"on {self.page}" if self.page else "on every page"
        return f"{self.element} {self.name!r}{' to ' + self.target if self.target else ''} {where}"


class Controls:
    """Those of all the tabs that were opened with it."""

    def __init__(self, kind: Callable[[str], str], bar: str) -> None:
        """`kind` is what pages with a path like this one are counted as; what lies in the selector `bar` is of all."""
        self.shown: set[Control] = set()
        self.used: set[Control] = set()
        self.pages: set[str] = set()
        """The kinds of pages that were opened."""
        self._kind, self._bar = kind, bar

    def watch(self, context: BrowserContext) -> None:
        """Before its first page is opened."""

        def tell(_source: object, used: bool, path: str, of_all: bool, *said: str) -> None:
            page = self._kind(path)
            self.pages.add(page)
            (self.used if used else self.shown).add(Control("" if of_all else page, *said))

        context.expose_binding("tellOfControl", tell)
        context.add_init_script(SCRIPT.replace("BAR", self._bar))

    def unused(self, mine: Callable[[Control], bool] = lambda _control: True) -> list[str]:
        """Which of them were shown, and never used."""
        return sorted(str(each) for each in self.shown - self.used if mine(each))
