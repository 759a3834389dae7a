"""The calls that events told of, the youngest in bounded memory, and which of them are worth remembering. Pure.

Above `TARGET` events a second only one workflow of N is kept, chosen by the hash of its root's id, so that a call that
is kept has its whole timeline and its whole graph. What is counted is counted for all. Not thread-safe.
"""

from __future__ import annotations

import operator
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amqptasks import states
from amqptasks.event_state import STATES
from amqptasks.monitor.snapshot import Graph, GraphNode, TaskDetail, TaskRow

TARGET = 400.0
"""Events a second that are kept at most; what one costs, and the 5 % of a core that all may cost, decide it."""
LARGEST = 4096
"""One of so many workflows is kept at the least."""
LONG, LONGER = 1024, 8192
"""Characters that are kept of a text, and of a traceback."""
TIMELINE = 64
"""Steps that are kept of one call: enough for many retries."""

_age = operator.attrgetter("at")
_TEXTS = (
    "name", "args", "kwargs", "result", "exception", "queue", "exchange", "routing_key", "eta", "expires", "root_id",
    "parent_id",
)  # fmt: skip
_ORDER = (states.PENDING, states.RECEIVED, states.STARTED)
_KINDS = {kind: kind.removeprefix("task-") for kind in STATES}
_WORDS = frozenset({"id", "name", "args", "kwargs", "result", "exception"})


class Sampling:
    """Which workflows are kept: one of `n`, a power of two, which follows the rate of events."""

    def __init__(self, target: float = TARGET) -> None:
        self.n = 1
        self.rate = 0.0
        """Events a second, smoothed."""
        self._target = target

    def turn(self, events: int, seconds: float) -> None:
        """Take in how many events came in so many seconds."""
        now = events / max(seconds, 1e-3)
        # Up at once, for the budget's sake; down slowly, so that lists do not flicker.
        self.rate = now if now > self.rate else self.rate + (now - self.rate) * 0.3
        while self.rate / self.n > self._target and self.n < LARGEST:
            self.n *= 2
        while self.n > 1 and self.rate / self.n < self._target * 0.35:
            self.n //= 2

    def takes(self, root: str) -> bool:
        return self.n == 1 or not zlib.crc32(root.encode("utf-8", "replace")) & (self.n - 1)


class Call:
    """What is known of a call; see `TaskDetail`."""

    __slots__ = (
        "at",
        "id",
        "received_at",
        "retries",
        "runtime",
        "sent_at",
        "started_at",
        "state",
        "texts",
        "timeline",
        "traceback",
        "worker",
    )  # fmt: skip

    def __init__(self, id: str) -> None:
        self.id = id
        self.state: str = states.PENDING
        self.at = 0.0
        self.texts: dict[str, str] = {}
        self.traceback = ""
        self.worker = ""
        self.retries = 0
        self.runtime: float | None = None
        self.sent_at: float | None = None
        self.received_at: float | None = None
        self.started_at: float | None = None
        self.timeline: list[tuple[str, float]] = []

    @property
    def wait(self) -> float | None:
        since = self.sent_at if self.sent_at is not None else self.received_at
        return None if since is None or self.started_at is None else max(0.0, self.started_at - since)

    def take(self, kind: str, event: Mapping[str, Any]) -> None:
        """Take in an event of this call."""
        texts = self.texts
        for name in _TEXTS:
            value = event.get(name)
            if value is not None:
                texts[name] = value[:LONG] if isinstance(value, str) else str(value)[:LONG]
        if event.get("traceback"):
            self.traceback = str(event["traceback"])[-LONGER:]
        if isinstance(event.get("retries"), int):
            self.retries = max(self.retries, event["retries"])
        if isinstance(event.get("runtime"), int | float):
            self.runtime = float(event["runtime"])
        if kind != "task-sent" and event.get("hostname"):
            self.worker = str(event["hostname"])
        self._move(STATES[kind], _moment(event))

    def _move(self, state: str, at: float) -> None:
        if state == states.PENDING:
            self.sent_at = at if self.sent_at is None else min(at, self.sent_at)
        elif state == states.RECEIVED:
            self.received_at = at
        elif state == states.STARTED:
            self.started_at = at
        self.timeline.append((state, at))
        if len(self.timeline) > TIMELINE:
            del self.timeline[1]
        # Sender and worker are two connections: "sent" may be heard after "received", but undoes nothing.
        late = state in _ORDER and (
            (self.state in _ORDER and _ORDER.index(state) < _ORDER.index(self.state))
            or (self.state in states.READY_STATES and (at <= self.at or state == states.PENDING))
        )
        if not late:
            self.state = state
        self.at = max(self.at, at)

    def row(self) -> TaskRow:
        text = self.texts.get
        return TaskRow(
            id=self.id,
            name=text("name", ""),
            state=self.state,
            at=self.at,
            args=text("args", ""),
            kwargs=text("kwargs", ""),
            result=text("result", ""),
            exception=text("exception", ""),
            worker=self.worker,
            queue=text("queue", ""),
            retries=self.retries,
            runtime=self.runtime,
            wait=self.wait,
        )

    def has(self, word: str) -> bool:
        """Whether a word in small letters is found in what is shown of it."""
        return word in self.id.lower() or any(
            word in value.lower() for name, value in self.texts.items() if name in _WORDS
        )


class Calls:
    """Fed with events; keeps the youngest `limit` calls."""

    def __init__(self, limit: int) -> None:
        self.sampling = Sampling()
        self.kinds: Counter[str] = Counter()
        """Events since the last `turn`, by what happened: all of them, kept or not."""
        self.runtimes: list[float] = []
        self.waits: list[float] = []
        """Of the calls kept, since the last `turn`."""
        self._queues: set[str] = set()
        self._states: Counter[str] = Counter()
        self._limit = limit
        # A plain dictionary gets slow where the oldest is always removed first.
        self._calls: OrderedDict[str, Call] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event of a call; what is none is passed over."""
        kind, uuid = event.get("type"), event.get("uuid")
        what = _KINDS.get(kind) if isinstance(kind, str) else None
        if what is None or not isinstance(uuid, str):
            return
        self.kinds[what] += 1
        if what == "sent" and len(self._queues) < LONG and isinstance(event.get("queue"), str):
            self._queues.add(event["queue"])
        if (
            what == "succeeded"
            and len(self.runtimes) < LONG
            and isinstance(event.get("runtime"), int | float)
        ):
            self.runtimes.append(float(event["runtime"]))
        call = self._calls.get(uuid)
        if call is None:
            # Of a call that began before, or that was not chosen, nothing is known but its id.
            begins = self.sampling.n == 1 or what in ("sent", "received")
            root = event.get("root_id") or (uuid if begins else None)
            if root is None or not self.sampling.takes(str(root)):
                return
            if len(self._calls) >= self._limit:
                self._states[self._calls.popitem(last=False)[1].state] -= 1
            call = self._calls[uuid] = Call(uuid)
            self._states[call.state] += 1
        before = call.state
        call.take(str(kind), event)
        if call.state != before:
            self._states[before] -= 1
            self._states[call.state] += 1
        if what == "started" and call.wait is not None and len(self.waits) < LONG:
            self.waits.append(call.wait)

    def turn(self, seconds: float) -> tuple[Counter[str], list[float], list[float]]:
        """Return what was counted since the last turn, and begin anew."""
        told = self.kinds, self.runtimes, self.waits
        self.sampling.turn(sum(self.kinds.values()), seconds)
        self.kinds, self.runtimes, self.waits = Counter(), [], []
        return told

    def take_queues(self) -> set[str]:
        """Return the queues that calls were sent to since this was asked last."""
        told, self._queues = self._queues, set()
        return told

    # --- reads -------------------------------------------------------------------------------------------

    def states(self) -> dict[str, int]:
        return {state: count for state, count in self._states.items() if count}

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({call.texts["name"] for call in self._calls.values() if "name" in call.texts}))

    def rows(
        self, wanted: Mapping[str, str], search: str, before: float | None, limit: int
    ) -> tuple[TaskRow, ...]:
        """The youngest that fit; `wanted` has exact values of state, name, worker and queue."""
        word = search.strip().lower()
        all_of_them = not wanted and not word and before is None
        fitting = self._calls.values() if all_of_them else self._fitting(wanted, word, before)
        # They are nearly in order, which a sort makes use of, and a heap suffers from.
        return tuple(call.row() for call in sorted(fitting, key=_age, reverse=True)[:limit])

    def _fitting(self, wanted: Mapping[str, str], search: str, before: float | None) -> Iterator[Call]:
        state, worker = wanted.get("state"), wanted.get("worker")
        texts = {name: wanted[name] for name in ("name", "queue") if name in wanted}
        for call in self._calls.values():
            if (
                (state is None or call.state == state)
                and (worker is None or call.worker == worker)
                and (before is None or call.at < before)
                and all(call.texts.get(name) == value for name, value in texts.items())
                and (not search or call.has(search))
            ):
                yield call

    def detail(self, uuid: str) -> TaskDetail | None:
        call = self._calls.get(uuid)
        if call is None:
            return None
        text = call.texts.get
        children = [each.id for each in self._calls.values() if each.texts.get("parent_id") == uuid]
        return TaskDetail(
            row=call.row(),
            traceback=call.traceback,
            timeline=_steps(call.timeline),
            parent=text("parent_id", ""),
            root=text("root_id", ""),
            children=tuple(children),
            exchange=text("exchange", ""),
            routing_key=text("routing_key", ""),
            eta=text("eta", ""),
            expires=text("expires", ""),
            received_by=call.worker,
        )

    def graph(self, uuid: str, limit: int) -> Graph | None:
        asked = self._calls.get(uuid)
        if asked is None:
            return None
        root = asked.texts.get("root_id") or uuid
        members = {
            call.id: call
            for call in self._calls.values()
            if call.id in (root, uuid) or call.texts.get("root_id") == root
        }
        below: dict[str, list[str]] = {}
        for call in members.values():
            parent = call.texts.get("parent_id", "")
            below.setdefault(parent if parent in members and parent != call.id else "", []).append(call.id)
        nodes = tuple(_walk(members, below, root))
        return Graph(root=root, nodes=nodes[:limit], cut=len(nodes) > limit)


def _steps(timeline: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """In order of time. That a call was sent is told after it has left: a quick worker tells sooner what it did."""
    steps = sorted(timeline, key=lambda step: step[1])
    sent = next((step for step in steps if step[0] == states.PENDING), None)
    if sent is None:
        return tuple(steps)
    steps.remove(sent)
    return ((states.PENDING, min([sent[1], *(at for _, at in steps)])), *steps)


def _walk(members: Mapping[str, Call], below: Mapping[str, list[str]], root: str) -> Iterator[GraphNode]:
    """Breadth first; the root before others that have no parent in memory."""
    seen: set[str] = set()
    level = sorted(below.get("", ()), key=lambda id: id != root)
    # Ids that are each other's parents are nobody's children: they come last.
    for depth, start in ((0, level), (1, list(members))):
        level, at = [id for id in start if id not in seen], depth
        while level:
            following: list[str] = []
            for id in level:
                if id in seen:
                    continue
                seen.add(id)
                call = members[id]
                parent = call.texts.get("parent_id", "")
                yield GraphNode(
                    id=id,
                    name=call.texts.get("name", ""),
                    state=call.state,
                    parent=parent if parent in members else "",
                    depth=at,
                    runtime=call.runtime,
                )
                following += below.get(id, ())
            level, at = following, at + 1


def _moment(event: Mapping[str, Any]) -> float:
    try:
        return float(event.get("timestamp") or 0.0)
    except (TypeError, ValueError):
        return 0.0
