"""`amqptasks topology`: what an administrator loads into RabbitMQ so that applications need not declare."""

from __future__ import annotations

import json

import click

from amqptasks.canvas.parts import internal_queue
from amqptasks.cli.apps import load_app
from amqptasks.cli.options import Common, common_options
from amqptasks.routing import declaration, policies
from amqptasks.routing import export as definitions
from amqptasks.transport.url import parse


@click.group("topology")
@common_options
def command() -> None:
    """Export exchanges, queues, bindings and policies."""


@command.command("export")
@common_options
def export() -> None:
    """Print the app's exchanges, queues, bindings and policies as RabbitMQ definitions (JSON).

    \b
    amqptasks -A proj topology export > definitions.json
    rabbitmqctl import_definitions definitions.json
    """
    with load_app(Common.current()) as app:
        queues = (*app.known_queues(), internal_queue(app.conf))
        entities = [entity for queue in queues for entity in declaration(queue, app.conf)]
        # With full arguments a policy would say the same again.
        wanted = policies(queues, app.conf) if app.conf.queue_arguments == "minimal" else ()
        vhost = parse(app.conf.broker_url, app.conf.broker_use_ssl)[0].vhost
        print(json.dumps(definitions(entities, wanted, vhost), indent=2))
