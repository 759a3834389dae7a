"""`amqptasks worker`: reads the options and hands them over. Never imports the app: the pool does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from amqptasks.cli.daemon import Daemon, daemon_options
from amqptasks.cli.embedded import EmbeddedBeat
from amqptasks.cli.options import Common, common_options, names, trailing_settings
from amqptasks.cli.spec import enter_workdir, required_spec, settings_of
from amqptasks.errors import ImproperlyConfigured
from amqptasks.sources import checked
from amqptasks.worker.autoscale import read_limits
from amqptasks.worker.options import POOLS, WorkerOptions, expand
from amqptasks.worker.worker import run_worker

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")

# Options of Celery's worker that have their turn later, or never, each with what to do instead.
ABSENT = {
    "-S": "revoked tasks are kept on the broker, so no file is needed",
    "--heartbeat-interval": "the setting is broker_heartbeat: add -- broker_heartbeat=SECONDS",
    "--pool-start-method": "children are always forked from one small process that imported the app",
    "--disable-prefetch": "use --prefetch-multiplier 1",
    "--loader": "name the app by -A, its settings by app.config_from_object()",
    "--config": "name the app by -A, its settings by app.config_from_object()",
}
_SAME = {
    "--statedb": "-S",
}
_POOLS = {
    "processes": "use -P prefork, which it is another name of",
    "eventlet": "use -P threads -c 100",
    "gevent": "use -P threads -c 100",
}


class WorkerCommand(click.Command):
    """Answers options of Celery's that are not offered with what to do instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            cure = ABSENT.get(_SAME.get(error.option_name, error.option_name))
            if cure is None:
                raise
            raise click.UsageError(f"there is no option {error.option_name}; {cure}", ctx) from None


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a number of at least 1")
    return int(text)


def _concurrency(text: str) -> int:
    return 0 if text.lower() == "auto" else _number(text)


def _limits(text: str) -> tuple[int, int]:
    try:
        return read_limits(text)
    except ImproperlyConfigured as error:
        raise click.BadParameter(str(error)) from None
    except ValueError:
        raise click.BadParameter(f"{text!r} is not MAX,MIN: two numbers, such as 10,2") from None


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise click.BadParameter(f"{text!r} is no port; name a number up to 65535, or 0 for any")
    return int(text)


def _multiplier(text: str) -> int | str:
    return "auto" if text.lower() == "auto" else _number(text)


def _pool(text: str) -> str:
    if text not in POOLS:
        cure = _POOLS.get(text, f"pools are {', '.join(POOLS)}")
        raise click.BadParameter(f"there is no pool {text!r}; {cure}")
    return text


def _complete_pool(_context: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    return [name for name in POOLS if name.startswith(start)]


@click.command("worker", cls=WorkerCommand)
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    default="",
    help="Node name, unique per broker: w1@%h. %h is the host, %n its first part, %d its domain. "
    "[amqptasks@%h]",
)
@click.option(
    "-l",
    "--loglevel",
    metavar="LEVEL",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="WARNING",
    help="DEBUG, INFO, WARNING, ERROR or CRITICAL. The tasks are listed from INFO on. [WARNING]",
)
@click.option(
    "-f",
    "--logfile",
    metavar="PATH",
    help="Log into this file instead of stderr, parent and children alike; %n, %h, %d as in -n.",
)
@click.option(
    "-Q",
    "--queues",
    type=names,
    metavar="NAMES",
    help="Consume these queues only: short,long. Each is declared, with its dead-letter queue.",
)
@click.option(
    "-X", "--exclude-queues", type=names, metavar="NAMES", help="Consume the app's queues but not these."
)
@click.option(
    "-c",
    "--concurrency",
    metavar="N|auto",
    type=_concurrency,
    help="Tasks that run at a time; prefork: child processes. More than the CPUs helps tasks that wait, "
    "not tasks that compute. [auto: the CPUs that this process may use; 100 with -P asyncio]",
)
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    type=_limits,
    help="Instead of -c: begin with MIN slots, have more while work waits for them, MAX at most, and let those go that "
    "were free for 30 seconds (worker_autoscale_keepalive). With the pools prefork and asyncio.",
)
@click.option(
    "-P",
    "--pool",
    metavar="NAME",
    type=_pool,
    shell_complete=_complete_pool,
    help="prefork: a process per running task. threads: one child of n threads. asyncio: one child of n "
    "coroutines, for `async def` tasks. solo: inside the worker, for debugging: a long task stops heartbeats, "
    "and time limits do not hold. [prefork]",
)
@click.option(
    "--prefetch-multiplier",
    metavar="N|auto",
    type=_multiplier,
    help="Messages held per running task. auto: few while tasks are long, many while they are short. [auto]",
)
@click.option(
    "--max-tasks-per-child", type=click.IntRange(1), metavar="N", help="Replace a child after so many tasks."
)
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(1),
    metavar="KIB",
    help="Replace a child that has grown beyond this, after its task.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Kill the child whose task runs longer.",
)
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Raise SoftTimeLimitExceeded in a task that runs longer.",
)
@click.option(
    "-O",
    "--optimization",
    expose_value=False,
    type=click.Choice(["default", "fair"]),
    help="For Celery's command lines. Both mean fair, which is always on: no task waits behind a long one "
    "while a child is idle.",
)
@click.option(
    "-I", "--include", type=names, metavar="MODULES", help="Import these modules too: a.tasks,b.tasks."
)
@click.option(
    "--purge",
    "--discard",
    is_flag=True,
    help="Empty the queues before consuming; what was in them is lost.",
)
@click.option(
    "--without-gossip",
    is_flag=True,
    expose_value=False,
    help="For Celery's command lines. Workers do not talk to each other here: there is nothing to save.",
)
@click.option(
    "--without-mingle",
    is_flag=True,
    expose_value=False,
    help="For Celery's command lines. No worker waits for others at start.",
)
@click.option(
    "--without-heartbeat",
    "heartbeats",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Send no event every two seconds that says that the worker is there. The connection's own heartbeats stay, "
    "which -- broker_heartbeat=0 turns off.",
)
@click.option(
    "-E",
    "--task-events",
    "--events",
    "task_events",
    is_flag=True,
    default=None,
    help="Send an event for each step of each task, for monitors. `amqptasks control enable_events` does so later.",
)
@click.option(
    "--health-port",
    type=_port,
    metavar="PORT",
    help="Answer /livez, /readyz and, for Prometheus, /metrics over HTTP on this port; 0: any, which is logged.",
)
@click.option(
    "--health-host",
    metavar="ADDRESS",
    help="On this address; 0.0.0.0 or :: for probes from other machines. [127.0.0.1]",
)
@click.option(
    "-B",
    "--beat",
    is_flag=True,
    help="Run a beat beside this worker. Several workers may: one of their beats leads.",
)
@click.option("--scheduler", metavar="CLASS", help="Where that beat's schedule comes from.")
@click.option(
    "-s",
    "--schedule",
    "--schedule-filename",
    expose_value=False,
    metavar="PATH",
    help="For Celery's command lines. The last runs are kept on the broker, not in a file.",
)
@daemon_options
@common_options
@click.argument("settings", nargs=-1, callback=trailing_settings, metavar="[-- NAME=VALUE...]")
def command(
    settings: dict[str, str],
    exclude_queues: tuple[str, ...] | None,
    beat: bool,
    scheduler: str | None,
    daemon: Daemon,
    **options: Any,
) -> int:
    """Run a worker: take messages from queues and run their tasks, until a signal.

    \b
    amqptasks -A proj worker -l INFO
    amqptasks -A proj worker -Q short,long -c 4 -n w1@%h
    amqptasks -A proj worker -c 4 -- broker_heartbeat=30

    TERM or Ctrl-C: take no more, finish what runs, give back the rest, exit 0. A second time: quicker.
    """
    common = Common.current()
    enter_workdir(common)
    queues, include = options.pop("queues") or (), options.pop("include") or ()
    worker = WorkerOptions(
        app=required_spec(common),
        workdir=str(common.folder),
        overrides=checked({**settings_of(common), **settings}),
        queues=queues,
        exclude_queues=exclude_queues or (),
        include=include,
        colour=False if common.no_color else None,
        quiet=common.quiet,
        **options,
    )
    with daemon.entered(worker.node, worker.logfile):
        if not beat:
            return run_worker(worker)
        return run_worker(worker, EmbeddedBeat(beat_command(worker, common, scheduler, settings)))


def beat_command(
    worker: WorkerOptions, common: Common, scheduler: str | None, settings: Mapping[str, str]
) -> list[str]:
    """Return the words of the beat that goes with a worker: the same app, modules, settings and log."""
    said = {
        "-A": worker.app,
        "-b": common.broker,
        "--result-backend": common.result_backend,
        "--workdir": worker.workdir,
        "--loglevel": worker.loglevel,
        "--logfile": worker.logfile and expand(worker.logfile, worker.node),
        "--include": ",".join(worker.include),
        "--scheduler": scheduler,
    }
    options = [word for option, value in said.items() if value for word in (option, value)]
    return ["beat", "-q", *options, *(["--"] if settings else []), *map("=".join, settings.items())]
