"""`control_command` and `inspect_command`, for every app, where programs written for Celery look for them."""

from __future__ import annotations

from amqptasks.commands import control_command, inspect_command

__all__ = ["control_command", "inspect_command"]
