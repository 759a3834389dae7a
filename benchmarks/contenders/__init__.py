"""The contenders, by name."""

from contenders.amqptasks import Amqptasks
from contenders.base import Contender
from contenders.celery import Celery
from contenders.dramatiq import Dramatiq

__all__ = ["CONTENDERS", "Contender"]

CONTENDERS: dict[str, Contender] = {each.name: each for each in (Amqptasks(), Celery(), Dramatiq())}
