"""Loggers for tasks."""

from __future__ import annotations

import logging

TASK_LOGGER = "amqptasks.task"


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger `name` below the task logger, whose records a worker marks with task name and id."""
    logger = logging.getLogger(name)
    if logger.parent is None or logger.parent is logging.getLogger() or logger.parent.name == "root":
        logger.parent = logging.getLogger(TASK_LOGGER)
    return logger
