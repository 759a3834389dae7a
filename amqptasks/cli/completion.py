"""`amqptasks completion`: the script that teaches a shell the commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from amqptasks.cli.options import common_options
from amqptasks.cli.output import Failure


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(amqptasks completion bash)"        in ~/.bashrc
    zsh:  eval "$(amqptasks completion zsh)"         in ~/.zshrc
    fish: amqptasks completion fish > ~/.config/fish/completions/amqptasks.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise Failure(f"click knows no completion for {shell}")
    root = context.find_root()
    name = str(root.info_name)
    click.echo(found(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
