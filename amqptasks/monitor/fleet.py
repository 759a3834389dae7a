"""The workers, as their heartbeats and their answers to remote control tell of them. Pure. Not thread-safe."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from amqptasks.monitor.snapshot import WorkerRow

MOST = 2000
"""Workers that are remembered; beyond, those are forgotten that were not heard of for longest."""
FORGOTTEN = 3600.0
"""Seconds after which a worker is forgotten that is gone."""
BEATS = 4
"""Heartbeats over which the rate of a worker is taken."""
MISSED = 3
"""Heartbeats that may be missing before a worker counts as gone."""


class Node:
    """What is known of a worker."""

    __slots__ = ("beat", "beats", "frequency", "heard", "name", "online", "queues", "stats")

    def __init__(self, name: str) -> None:
        self.name = name
        self.online = True
        self.heard = 0.0
        self.frequency = 2.0
        self.beat: Mapping[str, Any] = {}
        self.beats: deque[tuple[float, int]] = deque(maxlen=BEATS)
        self.stats: Mapping[str, Any] = {}
        self.queues: tuple[Mapping[str, Any], ...] = ()

    def alive(self, now: float) -> bool:
        return self.online and now < self.heard + self.frequency * MISSED

    def take(self, kind: str, event: Mapping[str, Any], now: float) -> None:
        self.online, self.heard, self.beat = kind != "worker-offline", now, event
        self.frequency = max(0.5, _number(event.get("freq")) or 2.0)
        processed, at = event.get("processed"), event.get("timestamp")
        if not isinstance(processed, int) or not isinstance(at, int | float):
            return
        if self.beats and processed < self.beats[-1][1]:
            self.beats.clear()  # it has begun anew under the same name
        self.beats.append((float(at), processed))

    @property
    def rate(self) -> float | None:
        """Calls started a second."""
        if len(self.beats) < 2:
            return None
        (first, before), (last, after) = self.beats[0], self.beats[-1]
        return (after - before) / (last - first) if last > first else None

    def row(self, now: float) -> WorkerRow:
        stats, beat = self.stats, self.beat
        pool, counters = _mapping(stats.get("pool")), _mapping(stats.get("counters"))
        scaler, usage = _mapping(stats.get("autoscaler")), _mapping(stats.get("rusage"))
        alive, active, held = self.alive(now), _whole(beat.get("active")), _whole(counters.get("held"))
        most, least = _whole(scaler.get("max")), _whole(scaler.get("min"))
        resident = _whole(usage.get("maxrss"))
        return WorkerRow(
            node=self.name,
            alive=alive,
            pool=_pool(str(pool.get("implementation") or "")),
            concurrency=_whole(pool.get("max-concurrency")),
            autoscale=None if most is None or least is None else (most, least),
            active=active if alive else None,
            reserved=None if held is None or active is None or not alive else max(0, held - active),
            processed=_whole(beat.get("processed")),
            rate=self.rate if alive else None,
            loadavg=tuple(each for each in map(_number, beat.get("loadavg") or ()) if each is not None),
            queues=tuple(sorted(str(queue.get("name")) for queue in self.queues if queue.get("name"))),
            heartbeat_age=max(0.0, now - self.heard) if self.heard else None,
            software=f"{beat.get('sw_ident') or ''} {beat.get('sw_ver') or ''}".strip(),
            pid=_whole(stats.get("pid")) or _whole(beat.get("pid")),
            uptime=_number(stats.get("uptime")),
            memory=None if resident is None else resident * 1024,
            prefetch=_whole(stats.get("prefetch_count")),
            totals={
                str(name): count
                for name, count in _mapping(stats.get("total")).items()
                if isinstance(count, int)
            },
        )


class Fleet:
    """All workers, by node name."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def take(self, event: Mapping[str, Any], now: float | None = None) -> None:
        """Take in an event of a worker."""
        name, kind = event.get("hostname"), str(event.get("type"))
        if isinstance(name, str) and name and kind in ("worker-online", "worker-heartbeat", "worker-offline"):
            self._node(name).take(kind, event, time.time() if now is None else now)

    def told(self, node: str, command: str, answer: Any, now: float | None = None) -> None:
        """Take in what a worker answered to `stats` or `active_queues`."""
        known = self._node(node)
        if not known.beat:  # heartbeats may be off: an answer says as well that it is there
            known.online, known.heard = True, time.time() if now is None else now
            known.frequency = 10.0
        if command == "stats" and isinstance(answer, Mapping):
            known.stats = answer
        elif command == "active_queues" and isinstance(answer, list):
            known.queues = tuple(each for each in answer if isinstance(each, Mapping))

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            if len(self._nodes) >= MOST:
                del self._nodes[min(self._nodes, key=lambda each: self._nodes[each].heard)]
            node = self._nodes[name] = Node(name)
        return node

    def forget_gone(self, now: float) -> None:
        for name in [name for name, node in self._nodes.items() if node.heard < now - FORGOTTEN]:
            del self._nodes[name]

    # --- reads -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def rows(self, now: float) -> tuple[WorkerRow, ...]:
        return tuple(self._nodes[name].row(now) for name in sorted(self._nodes))

    def row(self, node: str, now: float) -> WorkerRow | None:
        known = self._nodes.get(node)
        return None if known is None else known.row(now)

    def online(self, now: float) -> int:
        return sum(node.alive(now) for node in self._nodes.values())

    def started(self, now: float) -> float | None:
        """Calls started a second, on all workers; None where none tells."""
        rates = [node.rate for node in self._nodes.values() if node.alive(now)]
        told = [rate for rate in rates if rate is not None]
        return sum(told) if told else None

    def strangers(self, now: float) -> list[str]:
        """Workers that are there, and that have answered nothing yet."""
        return [name for name, node in self._nodes.items() if not node.stats and node.alive(now)]

    def consumed(self, now: float) -> dict[str, tuple[tuple[str, ...], Mapping[str, Any]]]:
        """Queues that workers say that they consume: by whom, and what they say of it."""
        found: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {}
        for name in sorted(self._nodes):
            node = self._nodes[name]
            for queue in node.queues if node.alive(now) else ():
                if queue.get("name"):
                    nodes, said = found.get(str(queue["name"]), ((), queue))
                    found[str(queue["name"])] = (*nodes, name), said
        return found


def _pool(implementation: str) -> str:
    """amqptasks:prefork and celery.concurrency.prefork:TaskPool are both prefork."""
    before, _, after = implementation.partition(":")
    return after if before == "amqptasks" else before.rpartition(".")[2]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
