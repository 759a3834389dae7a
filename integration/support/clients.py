"""Clients in the test's own process: the apps of `integration.apps`, what they ask workers, and what tasks left behind."""

from collections.abc import Iterator
from pathlib import Path

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


def state_of(app: App, node: str, task_id: str) -> str:
    """What the worker says of the call: "active", "reserved"; empty when it holds none."""
    known = app.control.inspect([node], timeout=20.0).query_task(task_id) or {}
    found = known.get(node, {}).get(task_id)
    return str(found[0]) if found else ""


def lines(effects: Path) -> list[str]:
    """What tasks wrote into the file, a word each."""
    return effects.read_text().split() if effects.exists() else []
