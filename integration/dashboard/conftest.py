"""One system and its dashboard for a module of these tests, and tabs that complain when anything goes wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser

from integration.support import shop as shops
from integration.support.browser import Tab, tab
from integration.support.controls import Controls
from integration.support.shop import Open, Shop


@pytest.fixture(scope="module")
def shop(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shops.running(broker_url, tmp_path_factory.mktemp("shop")) as found:
        yield found


@pytest.fixture(scope="module")
def calls(shop: Shop) -> dict[str, str]:
    """A call of each kind, by the state that it has come to."""
    return shops.calls(shop)


@pytest.fixture(scope="module")
def controls() -> Controls:
    """Every button and field that the module's tests were shown, and those that they used."""
    return Controls(shops.kind, shops.BAR)


@pytest.fixture
def opened(browser: Browser, shop: Shop, controls: Controls) -> Open:
    """`opened(path)`: a tab there, which complains at the end if anything went wrong."""

    @contextmanager
    def open_(path: str = "/", *, base: str = "", quiet: bool = True, **options: Any) -> Iterator[Tab]:
        with tab(browser, base or shop.base, controls=controls, **options) as made:
            made.open(path)
            yield made
            if quiet:
                made.assert_quiet()

    return open_


@pytest.fixture(scope="module")
def ran() -> set[str]:
    """The module's tests that have ended well so far."""
    return set()


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, ran: set[str]) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        ran.add(request.function.__name__)


@pytest.fixture
def whole(request: pytest.FixtureRequest, ran: set[str]) -> None:
    """For a judgement of the whole module: skipped where only a part of it was run, or a part of it failed."""
    tests = {name for name in vars(request.module) if name.startswith("test_")}
    if missing := tests - ran - {request.function.__name__}:
        pytest.skip(f"only after all tests of the module: {', '.join(sorted(missing))}")
