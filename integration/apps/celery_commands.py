"""A stock Celery app that knows our worker's own commands by name and types, for its command line alone."""

from celery import Celery
from celery.worker.control import control_command, inspect_command

app = Celery("peer")


@control_command(args=[("n", int)], signature="[N=1]")
def increase(state, n=1):
    raise AssertionError("it runs in our worker")


@inspect_command(args=[], variadic="words")
def where(state, words=()):
    raise AssertionError("it runs in our worker")
