"""What an observer does rather than watches: remote control, queues, dead letters, the schedule. All of it blocks.

Each raises BrokerUnavailable at once while the observer has no connection, and otherwise what talking to the broker
raises. What a worker refuses is an answer that is not `ok`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from amqptasks.beat.asking import NoBeat, ask
from amqptasks.dead import DeadLetters, Selection, Tally
from amqptasks.deaths import DeadLetter, dead_queue
from amqptasks.entities import LOST
from amqptasks.errors import BrokerUnavailable, NotFound
from amqptasks.monitor.known import Known
from amqptasks.monitor.snapshot import (
    ActiveCall,
    Answer,
    DeadLetterPage,
    DeadLetterRow,
    SchedulePage,
    ScheduleRow,
    WorkerDetail,
)

if TYPE_CHECKING:
    from amqptasks.app import App

REPLY = 2.0
"""Seconds in which a worker answers."""
BEAT = 3.0
"""Seconds in which a beat answers."""
SHOWN = 16_384
"""Bytes of a dead letter's body that are shown."""


class Actions:
    """The half of an observer that asks and acts. Thread-safe."""

    def __init__(self, app: App, known: Known) -> None:
        self._app = app
        self._known = known

    def _connected(self) -> App:
        overview = self._known.overview()
        if not overview.connected:
            raise BrokerUnavailable(f"there is no connection to the broker now: {overview.message}")
        return self._app

    # --- workers -----------------------------------------------------------------------------------------

    def worker(self, node: str, timeout: float = 1.0) -> WorkerDetail | None:
        """Ask the worker: what it runs, holds and knows. None for a node that nobody has heard of.

        Each question takes at most `timeout` seconds; what is not answered is empty, and `message` says so.
        """
        with self._known.lock:
            row = self._known.fleet.row(node, self._known.now)
        if row is None:
            return None
        try:
            inspect = self._connected().control.inspect([node], timeout=timeout, limit=1)
            first = inspect.stats()
            if first is None:
                return WorkerDetail(row=row, message=f"{node} did not answer within {timeout:g} seconds")
        except BrokerUnavailable as error:
            return WorkerDetail(row=row, message=str(error))
        return WorkerDetail(
            row=row,
            stats=_of(first, node, {}),
            active=_calls(_of(inspect.active(), node, [])),
            reserved=_calls(_of(inspect.reserved(), node, [])),
            scheduled=_calls([each.get("request", {}) for each in _of(inspect.scheduled(), node, [])]),
            registered=tuple(map(str, _of(inspect.registered(), node, []))),
            conf=_of(inspect.conf(), node, {}),
        )

    def revoke(
        self, task_id: str | Sequence[str], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> tuple[Answer, ...]:
        """Have no worker run these calls; with `terminate` the processes that run them are killed too."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        return self._told(
            lambda options: self._app.control.revoke(ids, terminate=terminate, signal=signal, **options), None
        )

    def rate_limit(self, task: str, rate: str, node: str | None = None) -> tuple[Answer, ...]:
        """Start a task at most so often on each worker: "10/s", "100/m"; "0" lifts the limit."""
        return self._told(lambda options: self._app.control.rate_limit(task, rate, **options), node)

    def time_limit(
        self, task: str, soft: float | None = None, hard: float | None = None, node: str | None = None
    ) -> tuple[Answer, ...]:
        """Seconds, for what the workers receive from now on."""
        return self._told(lambda options: self._app.control.time_limit(task, soft, hard, **options), node)

    def pool_grow(self, node: str, n: int = 1) -> tuple[Answer, ...]:
        return self._asked("pool_grow", {"n": n}, node)

    def pool_shrink(self, node: str, n: int = 1) -> tuple[Answer, ...]:
        return self._asked("pool_shrink", {"n": n}, node)

    def autoscale(self, node: str, most: int, least: int) -> tuple[Answer, ...]:
        """Have the worker's pool follow its load within these bounds."""
        return self._asked("autoscale", {"max": most, "min": least}, node)

    def pool_restart(self, node: str) -> tuple[Answer, ...]:
        """Load the app anew in new children, where `worker_pool_restarts` allows it."""
        return self._asked("pool_restart", {"modules": None, "reload": False}, node)

    def add_consumer(self, queue: str, node: str | None = None) -> tuple[Answer, ...]:
        """Have workers consume one more queue, until they end."""
        return self._told(lambda options: self._app.control.add_consumer(queue, **options), node)

    def cancel_consumer(self, queue: str, node: str | None = None) -> tuple[Answer, ...]:
        return self._told(lambda options: self._app.control.cancel_consumer(queue, **options), node)

    def enable_events(self, node: str | None = None) -> tuple[Answer, ...]:
        """Have workers tell of every call."""
        return self._asked("enable_events", {}, node)

    def disable_events(self, node: str | None = None) -> tuple[Answer, ...]:
        return self._asked("disable_events", {}, node)

    def shutdown(self, node: str) -> tuple[Answer, ...]:
        """End the worker, warm: what runs is finished, what waits goes back. It does not answer that it will."""
        self._connected().control.shutdown([node])
        return (Answer(node=node, text="told to shut down"),)

    def _asked(self, command: str, arguments: Mapping[str, Any], node: str | None) -> tuple[Answer, ...]:
        return self._told(lambda options: self._app.control.broadcast(command, arguments, **options), node)

    def _told(self, tell: Callable[[dict[str, Any]], Any], node: str | None) -> tuple[Answer, ...]:
        """Tell one worker, or all that are online; return what each answered."""
        self._connected()
        most = 1 if node is not None else max(1, self._known.overview().workers_online)
        options: dict[str, Any] = {"reply": True, "timeout": REPLY, "limit": most}
        if node is not None:
            options["destination"] = [node]
        replies = tell(options) or []
        answers = tuple(_answer(name, said) for reply in replies for name, said in reply.items())
        with self._known.lock:
            self._known.changed.update(answer.node for answer in answers)
        if not answers and node is not None:
            return (Answer(node=node, ok=False, text=f"{node} did not answer within {REPLY:g} seconds"),)
        return answers

    # --- queues and dead letters -------------------------------------------------------------------------

    def purge(self, queue: str) -> int:
        """Remove the queue's ready messages; return how many. There is no way back. Raises NotFound."""
        return self._connected().connection.purge(queue)

    def dead_letters(self, queue: str | None = None, *, limit: int = 100, offset: int = 0) -> DeadLetterPage:
        """Look at dead letters of a task queue, or of all, the oldest of each first. See `DeadLetters.list`."""
        seen = limit + offset + 1  # one more tells that there are more, before the queue's count does
        wanted = Selection(limit=seen, look=max(10_000, seen))
        try:
            letters = self._letters(queue).list(wanted)
        except NotFound:  # so there are none
            letters = []
        with self._known.lock:
            total = self._known.depots.dead(queue)
        rows = tuple(_dead(letter) for letter in letters[offset : offset + limit])
        return DeadLetterPage(rows=rows, offset=offset, total=max(total, len(letters)))

    def dead_letter_body(self, queue: str, task_id: str) -> str:
        """Return the headers and the body of a dead letter as text, shortened; "" when it is not there any more."""
        found = self._letters(queue).show(Selection(ids=frozenset({task_id}), limit=1))
        if not found:
            return ""
        envelope = found[0][1]
        lines = [f"{name}: {value!r}" for name, value in sorted((envelope.properties.headers or {}).items())]
        body = envelope.body[:SHOWN].decode("utf-8", "backslashreplace")
        cut = f"\n... {len(envelope.body)} bytes in all" if len(envelope.body) > SHOWN else ""
        return "\n".join((*lines, "", body)) + cut

    def replay_dead(
        self,
        queue: str | None = None,
        *,
        ids: Sequence[str] = (),
        limit: int | None = None,
        to: str | None = None,
    ) -> Answer:
        """Send dead letters back to the queue that they died in, or to `to`: those of `ids`, or all."""
        tally = self._letters(queue).replay(Selection(ids=frozenset(ids), limit=limit), to=to)
        return _tallied("replayed", tally)

    def drop_dead(
        self, queue: str | None = None, *, ids: Sequence[str] = (), limit: int | None = None
    ) -> Answer:
        """Remove dead letters: those of `ids`, or all. There is no way back."""
        return _tallied("dropped", self._letters(queue).drop(Selection(ids=frozenset(ids), limit=limit)))

    def _letters(self, queue: str | None) -> DeadLetters:
        """Those of a queue, or of all. Raises NotFound when the queue has none, and never had."""
        app = self._connected()
        with self._known.lock:
            depots = self._known.depots
            names = [queue] if queue is not None else [*depots.task_queues, LOST]
            there = [name for name in names if depots.has(dead_queue(name))]
        if queue is not None and not there:
            raise NotFound(f"the queue {queue!r} has no dead-letter queue on this broker; look at its name")
        return DeadLetters(app.conf, there, named=bool(there))

    # --- the schedule ------------------------------------------------------------------------------------

    def schedules(self) -> SchedulePage:
        """Ask the leading beat, three seconds at most. Where none answers, `message` says so."""
        try:
            answer = ask(self._connected(), "list", timeout=BEAT)
        except BrokerUnavailable as error:
            return SchedulePage(message=str(error))
        rows = tuple(_entry(row) for row in answer.get("entries") or ())
        return SchedulePage(rows=rows, leader=str(answer.get("leader") or ""))

    def schedule_pause(self, name: str) -> Answer:
        return self._tell_beat("pause", name)

    def schedule_resume(self, name: str) -> Answer:
        return self._tell_beat("resume", name)

    def schedule_run(self, name: str) -> Answer:
        """Send an entry now, besides its schedule."""
        return self._tell_beat("run", name)

    def schedule_remove(self, name: str) -> Answer:
        """Remove an entry that was added at run time."""
        return self._tell_beat("remove", name)

    def _tell_beat(self, command: str, name: str) -> Answer:
        try:
            answer = ask(self._connected(), command, name, timeout=BEAT)
        except NoBeat as error:
            return Answer(ok=False, text=str(error))
        if "error" in answer:
            return Answer(ok=False, text=str(answer["error"]))
        return Answer(text=" ".join(str(value) for value in answer.values()))


def _of(replies: dict[str, Any] | None, node: str, otherwise: Any) -> Any:
    answer = (replies or {}).get(node, otherwise)
    return answer if isinstance(answer, type(otherwise)) else otherwise


def _answer(node: str, said: Any) -> Answer:
    if isinstance(said, Mapping) and "error" in said:
        return Answer(node=node, ok=False, text=str(said["error"]))
    return Answer(node=node, text=str(said.get("ok", said)) if isinstance(said, Mapping) else str(said))


def _calls(told: Sequence[Any]) -> tuple[ActiveCall, ...]:
    return tuple(
        ActiveCall(
            id=str(call.get("id") or ""),
            name=str(call.get("name") or call.get("type") or ""),
            args=str(call.get("args") or ""),
            kwargs=str(call.get("kwargs") or ""),
            started_at=call.get("time_start"),
            pid=call.get("worker_pid"),
        )
        for call in told
        if isinstance(call, Mapping)
    )


def _dead(letter: DeadLetter) -> DeadLetterRow:
    return DeadLetterRow(
        id=letter.id,
        task=letter.task,
        queue=letter.queue,
        lies_in=letter.lies_in,
        reason=letter.reason,
        error=letter.error,
        at=letter.died_at.timestamp() if letter.died_at is not None else None,
        deaths=letter.times,
        crashes=letter.crashes,
        node=letter.node,
        args=letter.args,
        kwargs=letter.kwargs,
        retries=letter.retries,
        size=letter.size,
    )


def _tallied(done: str, tally: Tally) -> Answer:
    left = "; ".join(f"{count} stay: {why}" for why, count in tally.left.items())
    beyond = f"{tally.beyond} more were not looked at" if tally.beyond else ""
    return Answer(ok=not tally.left, text="; ".join(filter(None, (f"{tally.done} {done}", left, beyond))))


def _entry(row: Mapping[str, Any]) -> ScheduleRow:
    runs = row.get("runs")
    return ScheduleRow(
        name=str(row["name"]),
        task=str(row.get("task") or ""),
        schedule=str(row.get("schedule") or ""),
        next_due=_moment(row.get("next")),
        last_due=_moment(row.get("last")),
        paused=bool(row.get("paused")),
        added=bool(row.get("added")),
        catch_up=str(row.get("catch_up") or ""),
        runs=runs if isinstance(runs, int) else None,
    )


def _moment(text: Any) -> float | None:
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
