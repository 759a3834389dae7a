"""Loggers for tasks: their records say which task, and which run of it, wrote them."""

from __future__ import annotations

import logging

from amqptasks.waiting import running

TASK_LOGGER = "amqptasks.task"


class _Marked(logging.Filter):
    """Puts `task_id` and `task_name` of the run that writes on each record; None outside a run."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = running.get()
        record.task_id = None if request is None else request.id
        record.task_name = None if request is None else request.task
        return True


_marked = _Marked()


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger `name` below the task logger; a format may use %(task_id)s and %(task_name)s."""
    logger = logging.getLogger(name)
    if logger.parent is None or logger.parent is logging.getLogger():
        logger.parent = logging.getLogger(TASK_LOGGER)
    logger.addFilter(_marked)
    return logger
