"""Clients in the test's own process: the apps of `integration.apps`, and one that asks a worker what it holds."""

from collections.abc import Iterator

from amqptasks import App


def on_broker(app: App, url: str) -> Iterator[App]:
    """For a fixture: the app, on this broker as long as the test runs."""
    app.conf.update(broker_url=url)
    yield app
    app.close()


def holds_nothing(url: str, node: str) -> bool:
    """Whether a worker says that it runs nothing, and that nothing waits in it."""
    with App("asking", broker=url, set_as_current=False) as app:
        inspect = app.control.inspect([node], timeout=20.0)
        return all(ask() == {node: []} for ask in (inspect.active, inspect.reserved, inspect.scheduled))
