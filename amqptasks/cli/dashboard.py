"""`amqptasks dashboard`: pages that show the running system and steer it, until a signal."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, common_options
from amqptasks.cli.output import CANNOT_CREATE, Failure
from amqptasks.monitor.observer import Observer

PASSWORD, TOKEN, SECRET = (f"AMQPTASKS_DASHBOARD_{name}" for name in ("PASSWORD", "TOKEN", "SECRET"))


@click.command("dashboard")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Listen on this address. [127.0.0.1]")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=5555,
    metavar="N",
    help="[5555]; 0: any that is free.",
)
@click.option("--read-only", is_flag=True, help="Show everything, change nothing: there are no buttons.")
@click.option("--user", default="", metavar="NAME", help="Ask for a login: this name, and a password.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=f"The password of --user is the first line of this file. [{PASSWORD}]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=f"A token, for programs (Authorization: Bearer) and for the login page. [{TOKEN}]",
)
@click.option(
    "--insecure", default="", metavar="REASON", help="Have no login though others reach it; say why."
)
@click.option(
    "--allowed-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which it is opened besides localhost.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="A proxy serves it below this path, /tasks, and takes that off.",
)
@click.option(
    "--refresh",
    type=click.FloatRange(0),
    default=2.0,
    metavar="SECONDS",
    help="Open pages renew themselves; 0: not. [2]",
)
@click.option(
    "--tasks",
    type=click.IntRange(1),
    default=10_000,
    metavar="N",
    help="Keep so many calls in memory. [10000]",
)
@click.option(
    "--history",
    type=click.FloatRange(10),
    default=3600.0,
    metavar="SECONDS",
    help="Charts go back so far. [3600]",
)
@click.option(
    "--management-url",
    metavar="URL",
    help="Of RabbitMQ's management plugin; '' for none. [the broker's host, 15672]",
)
@common_options
def command(  # noqa: PLR0917 (click passes by name)
    host: str,
    port: int,
    read_only: bool,
    user: str,
    password_file: Path | None,
    token_file: Path | None,
    insecure: str,
    hosts: tuple[str, ...],
    root_path: str,
    refresh: float,
    tasks: int,
    history: float,
    management_url: str | None,
) -> None:
    """Serve pages that show queues, workers, tasks, dead letters and schedules, until Ctrl-C.

    \b
    amqptasks -A proj dashboard
    amqptasks -b amqp://guest@localhost// dashboard --read-only
    amqptasks -A proj dashboard --host 0.0.0.0 --user admin --password-file /run/secrets/dashboard

    Only this machine's browsers reach it, unless --host says otherwise; then it needs a login.
    """
    from amqptasks.dashboard import asgi, serving  # noqa: PLC0415 (the extra may be missing)

    password, token = _secret(password_file, PASSWORD), _secret(token_file, TOKEN)
    if user and not password:
        raise click.UsageError(
            f"--user needs a password; put it into a file (--password-file) or into {PASSWORD}"
        )
    if password and not user:
        raise click.UsageError("there is a password and nobody it belongs to; add --user NAME")
    if serving.needs_login(host) and not (user or token or insecure):
        raise click.UsageError(
            f"on {host} others reach the dashboard; add --user with a password, or --token-file, "
            "or say by --insecure REASON why it needs no login"
        )
    common = Common.current()
    with load_any_app(common) as app:
        _reach(app)
        observer = Observer(app, events_limit=tasks, history=history, management_url=management_url)
        dashboard = asgi(
            app,
            user=user,
            password=password,
            token=token,
            insecure=insecure,
            read_only=read_only,
            hosts=hosts,
            secret=os.environ.get(SECRET, ""),
            title="" if app.main == "amqptasks.cli" else str(app.main or ""),
            poll=refresh,
            observer=observer,
        )
        try:
            listening = serving.bind(host, port)
        except OSError as error:
            raise Failure(
                f"{host} port {port} cannot be listened on: {error.strerror or error}",
                CANNOT_CREATE,
                "choose another one by --port, or 0 for any",
            ) from None
        root = root_path.rstrip("/")
        with closing(listening):
            told = f"amqptasks dashboard on {serving.address_of(listening)}"
            serving.serve(dashboard, listening, root_path=root, started=lambda: click.echo(told))


def _secret(path: Path | None, variable: str) -> str:
    """Return a secret, which never stands on the command line: every user of the machine sees that."""
    if path is None:
        return os.environ.get(variable, "")
    try:
        found = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"{path} cannot be read: {why}") from None
    if not found:
        raise click.UsageError(f"the first line of {path} is empty; write the secret there")
    return found


def _reach(app: App) -> None:
    """Raise now what a wrong URL or an absent broker raises; later on the pages tell that the broker is away."""
    app.connection.server  # noqa: B018 (asking connects)
    app.connection.close()
