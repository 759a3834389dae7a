"""`amqptasks report`: versions, settings and broker, as a bug report wants them; passwords masked."""

from __future__ import annotations

import platform
from typing import Any

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import show_json
from amqptasks.errors import AmqptasksError
from amqptasks.transport.url import parse
from amqptasks.worker import cpus
from amqptasks.worker.banner import installed

PARTS = ("amqptasks", "pika", "aio-pika", "orjson", "click")


@click.command("report")
@listing_options
def command() -> None:
    """Show versions, platform, broker and the settings that differ from the defaults; passwords masked."""
    common = Common.current()
    with load_any_app(common) as app:
        facts = _facts(app)
    if common.json:
        show_json(facts)
        return
    for title, values in facts.items():
        print(f"[{title}]")
        for name, value in values.items():
            print(f"{name}: {value if isinstance(value, str) else repr(value)}")
        print()


def _facts(app: App) -> dict[str, dict[str, Any]]:
    return {
        "versions": {name: installed(name) for name in PARTS} | {"python": platform.python_version()},
        "platform": {"system": platform.platform(), "cpus": cpus.available()},
        "broker": _broker(app),
        "settings": app.conf.table(),
    }


def _broker(app: App) -> dict[str, Any]:
    """Ask the broker what it is; that it does not answer is part of the report, not its end."""
    hosts = "; ".join(host.masked() for host in parse(app.conf.broker_url, app.conf.broker_use_ssl))
    try:
        server = app.connection.server
    except AmqptasksError as error:
        return {"url": hosts, "error": str(error)}
    return {"url": hosts, "product": server.product, "version": server.version}
