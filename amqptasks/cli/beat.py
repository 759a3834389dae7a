"""`amqptasks beat`: run a scheduler. Imports the app, for the schedule is in it."""

from __future__ import annotations

import os

import click

from amqptasks.beat.service import lease_name, run_beat
from amqptasks.cli.apps import load_app
from amqptasks.cli.daemon import Daemon, daemon_options
from amqptasks.cli.embedded import PARENT
from amqptasks.cli.options import Common, common_options, names, trailing_settings
from amqptasks.sources import checked
from amqptasks.worker.loading import import_tasks
from amqptasks.worker.logging import LogSetup, install
from amqptasks.worker.options import WorkerOptions, node_name
from amqptasks.worker.pools.system import die_with_parent

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@click.command("beat")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="WARNING",
    metavar="LEVEL",
    help="DEBUG, INFO, WARNING, ERROR or CRITICAL. [WARNING]",
)
@click.option("-f", "--logfile", metavar="PATH", help="Log into this file instead of stderr.")
@click.option(
    "-n", "--hostname", metavar="NAME", default="amqptasksbeat@%h", help="Name in logs. [amqptasksbeat@%h]"
)
@click.option(
    "-S", "--scheduler", metavar="CLASS", help="Where the schedule comes from: the setting beat_scheduler."
)
@click.option(
    "-s",
    "--schedule",
    "--schedule-filename",
    "filename",
    metavar="PATH",
    help="For Celery's command lines. The last runs are kept on the broker, not in a file.",
)
@click.option(
    "--max-interval",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="The longest sleep between two looks at the clock. [1]",
)
@click.option(
    "--enable-remote-control/--no-enable-remote-control",
    expose_value=False,
    help="For Celery's command lines. `amqptasks schedule` asks the leading beat.",
)
@click.option(
    "-I", "--include", type=names, metavar="MODULES", help="Import these modules too: a.tasks,b.tasks."
)
@daemon_options
@common_options
@click.argument("settings", nargs=-1, callback=trailing_settings, metavar="[-- NAME=VALUE...]")
def command(  # noqa: PLR0917 (click passes by name)
    loglevel: str,
    logfile: str | None,
    hostname: str,
    scheduler: str | None,
    filename: str | None,
    max_interval: float,
    include: tuple[str, ...] | None,
    settings: dict[str, str],
    daemon: Daemon,
) -> None:
    """Run a scheduler: send periodic tasks when they are due, until a signal.

    \b
    amqptasks -A proj beat -l INFO

    Run as many as you like, on as many machines: one leads, and another takes over within seconds of its end.
    """
    if worker := os.environ.pop(PARENT, ""):
        die_with_parent(int(worker))
    common = Common.current()
    if filename is not None and not common.quiet:
        click.echo(f"--schedule {filename} is not written: the last runs are kept on the broker", err=True)
    node = node_name(hostname)
    with daemon.entered(node, logfile):
        app = load_app(common)
        app.conf.update(checked(settings))
        if scheduler is not None:
            app.conf.update({"beat_scheduler": scheduler})
        import_tasks(app, include or (), str(common.folder))
        app.finalize()
        options = WorkerOptions(
            hostname=node, loglevel=loglevel, logfile=logfile, colour=False if common.no_color else None
        )
        table = app.conf.table(with_defaults=True, censored=False)
        install(LogSetup.of(options, table), process="Beat")
        if not common.quiet:
            click.echo(f"amqptasks beat {lease_name(app)}: waits for its turn to lead")
        with app:
            run_beat(app, max_interval=max_interval, embedded=bool(worker))
