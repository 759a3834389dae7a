"""What the project set out to be, as far as it is advice: what a reader must know before he chooses stands in the guide.

Each case is named after its row. The snippets of the pages are run by `test_docs`.
"""

from __future__ import annotations

import pytest

from tests.test_seeds import ROOT

ACKNOWLEDGEMENT = {
    **{
        f"row 71, {page}": (f"guide/{page}.md", "# ")
        for page in ("tasks", "names", "logging", "retrying", "data", "granularity", "performance")
    },
    "row 75, idempotent tasks": ("guide/idempotency.md", "acks_late"),
    "row 79": ("guide/idempotency.md", "## Retry or `acks_late`?"),
    "row 85": ("guide/acknowledgement.md", "it kills its child each time it runs"),
    "rows 87-88": ("guide/timeouts.md", "requests.get(url, timeout=("),
    "row 90": ("guide/timeouts.md", "## Time limits are the net"),
    "row 92": ("explanation/prefetch.md", "prefetch"),
    "row 93": ("guide/performance.md", "## Long and short tasks apart"),
    "row 94": ("guide/timeouts.md", "## A worker that seems to hang"),
}
PRODUCTION = {
    "row 180, -c N": ("guide/performance.md", "As many as processors for tasks that compute"),
    "row 184": ("guide/daemons.md", "In production a supervisor keeps workers running"),
    "row 189": ("guide/daemons.md", "| `stop` | signal each and return at once"),
    "row 190": ("guide/daemons.md", "return when the last running task has finished"),
    **{
        f"row 191, {words}": ("guide/calling.md", words)
        for words in ("delay(", "apply_async(", "## Options of one call")
    },
    "row 192, Flower": ("guide/monitoring.md", "## Flower and other monitors"),
    "row 193, optimisation": ("guide/performance.md", "# Performance"),
    "row 194, small tasks cost": ("guide/granularity.md", "## What a task costs"),
    "row 194, too small ones": ("guide/granularity.md", "## Many small ones in one"),
    "row 195, locality": ("guide/data.md", "## Run the worker close to the data"),
    "row 195, caches": ("guide/data.md", "memcached"),
    "row 195, preload": ("guide/data.md", "loaded once a process"),
    "row 196": ("guide/data.md", "## Pass ids, not database objects"),
    "row 197": ("guide/data.md", "transaction.on_commit("),
    "row 198": ("guide/data.md", "## An example: comments and a spam filter"),
}
ADVICE = ACKNOWLEDGEMENT | PRODUCTION


@pytest.mark.parametrize(("page", "words"), ADVICE.values(), ids=ADVICE)
def test_advice_has_its_place_in_the_guide(page: str, words: str) -> None:
    assert words in (ROOT / "docs" / page).read_text()
