"""Periodic tasks as an app declares them: `beat_schedule` and `add_periodic_task`. Publishes nothing; see `beat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amqptasks.client import Client
from amqptasks.config import Config
from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules.base import BaseSchedule
from amqptasks.signals import Receiver, Signal
from amqptasks.signatures import Signature


class _Once(Signal):
    """Sent once. Who connects later, as a module does that is imported when the app was complete, is called at once."""

    def __init__(self, name: str, providing_args: tuple[str, ...] = ()) -> None:
        super().__init__(name, providing_args)
        self.failures: list[Exception] = []
        """What receivers raised; it was logged too."""
        self._sent: tuple[object, dict[str, Any]] | None = None

    def connect(self, receiver: Any = None, /, **how: Any) -> Any:
        if receiver is None:
            return lambda function: self.connect(function, **how)
        super().connect(receiver, **how)
        if self._sent is not None:
            self._note([self._call(receiver, *self._sent)])
        return receiver

    def send(self, sender: object, **named: Any) -> list[tuple[Receiver, Any]]:
        self._sent = sender, named
        answers = super().send(sender, **named)
        self._note([answer for _, answer in answers])
        return answers

    def _note(self, answers: Sequence[object]) -> None:
        self.failures += [answer for answer in answers if isinstance(answer, Exception)]


class Periodic(Client):
    """The part of an app that knows what is to be done when.

    `on_after_configure` and `on_after_finalize` are sent once, in this order, when the app's tasks are complete:
    the place for `add_periodic_task`. Who connects after that is called at once.
    """

    def __init__(self, conf: Config, main: str | None) -> None:
        super().__init__(conf, main)
        self.on_after_configure = _Once("on_after_configure", ("source",))
        self.on_after_finalize = _Once("on_after_finalize")
        self.periodic_tasks: dict[str, Mapping[str, Any]] = {}
        """What `add_periodic_task` added, in the form of `beat_schedule`, which wins over it."""

    def add_periodic_task(
        self,
        schedule: float | BaseSchedule | Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Have beat send `sig` (a signature, or a task) whenever `schedule` is due; return the entry's name.

        `schedule` is a number of seconds, a timedelta or one of `amqptasks.schedules`; `opts` are options of
        `apply_async`, and `catch_up`. Without a name it is the signature's text. Raises ImproperlyConfigured for a
        workflow, which has no single message: write a task that sends it.
        """
        made = sig if isinstance(sig, Signature) else sig.s()
        if made.get("subtask_type"):
            raise ImproperlyConfigured(
                f"{made!r} is a workflow, and beat sends one message for an entry; write a task that calls it"
            )
        made = made.clone(args, kwargs or {})
        key = name or repr(made)
        catch_up = opts.pop("catch_up", None)
        self.periodic_tasks[key] = {
            "schedule": schedule,
            "task": made.task,
            "args": tuple(made.args),
            "kwargs": dict(made.kwargs),
            "options": {**made.options, **opts},
            **({} if catch_up is None else {"catch_up": catch_up}),
        }
        return key

    @property
    def setup_failures(self) -> Sequence[Exception]:
        """What receivers of the two signals raised: entries may be missing."""
        return (*self.on_after_configure.failures, *self.on_after_finalize.failures)

    def _completed_now(self) -> None:
        self.on_after_configure.send(sender=self, source=self.conf)
        self.on_after_finalize.send(sender=self)
