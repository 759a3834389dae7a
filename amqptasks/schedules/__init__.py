"""When periodic tasks are due: `schedule`, `crontab`, `solar`, under Celery's names."""

from amqptasks.schedules.base import BaseSchedule, schedule
from amqptasks.schedules.crontabs import crontab
from amqptasks.schedules.sun import solar

__all__ = ["BaseSchedule", "crontab", "schedule", "solar"]
