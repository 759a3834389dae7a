"""A dashboard of a system that does not exist."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from amqptasks.dashboard import Access, Dashboard
from tests.support.browsing import Browser
from tests.support.observing import FakeObserver


@pytest.fixture
def observer() -> FakeObserver:
    return FakeObserver()


@pytest.fixture
def open_dashboard(observer: FakeObserver) -> Iterator[Callable[..., Browser]]:
    """`open_dashboard(user="ann", password="x")`: a browser on this machine before a dashboard with this access."""
    with ExitStack() as opened:

        def open_(
            *,
            client: str = "127.0.0.1",
            host: str = "localhost",
            secret: bytes = b"",
            poll: float = 2.0,
            **given: Any,
        ) -> Browser:
            dashboard = Dashboard(observer, Access(**given), secret=secret, title="shop", poll=poll)
            return opened.enter_context(
                Browser(
                    dashboard, base_url=f"http://{host}", client=(client, 5000), raise_server_exceptions=False
                )
            )

        yield open_


@pytest.fixture
def browser(open_dashboard: Callable[..., Browser]) -> Browser:
    """On this machine, before a dashboard without a login."""
    return open_dashboard()
