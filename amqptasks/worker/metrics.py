"""What `/metrics` shows: a worker's numbers as the families that Prometheus reads.

The names after the prefix are celery-exporter's where it has one. Pure. The driver is optional: it is imported when
somebody asks, in the thread that answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from amqptasks import states
from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.flight import UNKNOWN_TASK
from amqptasks.worker.measures import Histogram
from amqptasks.worker.snapshot import View

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

UNKNOWN = "unknown"
"""Stands for the tasks that the app does not have: senders must not be able to make up names of series."""
ENDS = (
    ("task_rejected", "Calls that were rejected, or refused.", states.REJECTED),
    ("task_revoked", "Calls that were revoked, or expired.", states.REVOKED),
    ("task_retried", "Runs that failed and are tried again.", states.RETRY),
)
TOTALS = {
    "tasks_lost": "Runs whose child died.",
    "messages_returned": "Messages given back to the broker without having run.",
    "duplicates_dropped": "Redeliveries of what this worker had started or finished, dropped.",
    "results_undeliverable": "Results whose caller was gone.",
    "events_dropped": "Events that the broker was too slow for.",
    "children_replaced": "Children that ended without having been told to.",
}
GAUGES = {
    "broker_blocked": "1 while the broker takes no messages.",
    "messages_unconfirmed": "Published, and not confirmed yet.",
    "messages_in_flight": "Received, and not settled yet.",
    "children": "Processes that run tasks and are ready.",
    "slots": "Tasks that may run at a time.",
    "uptime_seconds": "Since the worker started.",
}

Lengths = Mapping[str, tuple[int, int]]
"""Messages and consumers, by queue."""


def render(seen: View, lengths: Lengths, prefix: str, accept: str) -> tuple[str, bytes]:
    """Return the content type that suits `accept`, and the page. Raises ImproperlyConfigured without the extra."""
    try:
        from prometheus_client import core, exposition  # noqa: PLC0415 (see above)
    except ImportError:
        raise ImproperlyConfigured(
            'metrics need prometheus-client; install it by: pip install "amqptasks[prometheus]"'
        ) from None

    class Once:
        def collect(self) -> Iterator[Metric]:
            return families(Families(core, seen.node, prefix), seen, lengths)

    registry = core.CollectorRegistry(auto_describe=False)
    registry.register(Once())
    encode, kind = exposition.choose_encoder(accept)
    return kind, encode(registry)


def families(make: Families, seen: View, lengths: Lengths) -> Iterator[Metric]:
    """Every family, in celery-exporter's order, then ours."""
    yield from _calls(make, seen)
    yield make.gauge("worker_up", "1: this answer is its proof.", (), {(): 1})
    yield make.gauge(
        "worker_tasks_active", "Tasks that run now.", (), {(): seen.gauges["worker_tasks_active"]}
    )
    yield from _queues(make, seen, lengths)
    yield make.histogram(
        "publish_confirm_seconds",
        "From a publish to the broker's confirm; some of them.",
        (),
        {(): seen.confirms},
    )
    yield make.counter(
        "dead_letters", "Messages that went to a dead-letter queue.", ("queue_name", "reason"), seen.dead
    )
    yield make.counter("reconnects", "Connections lost.", ("connection",), _one(seen.reconnects))
    yield make.gauge("connected", "1 while connected to the broker.", ("connection",), _one(seen.connected))
    for name, text in TOTALS.items():
        yield make.counter(name, text, (), {(): seen.totals[name]})
    for name, text in GAUGES.items():
        yield make.gauge(name, text, (), {(): seen.gauges[name]})


def _one(values: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    return {(key,): value for key, value in values.items()}


def _calls(make: Families, seen: View) -> Iterator[Metric]:
    labels, tallies = ("name", "queue_name"), seen.tallies
    yield make.counter(
        "task_received", "Messages received.", labels, {key: each.received for key, each in tallies.items()}
    )
    yield make.counter(
        "task_started", "Runs started.", labels, {key: each.started for key, each in tallies.items()}
    )
    yield make.counter(
        "task_succeeded",
        "Runs that succeeded.",
        labels,
        {key: each.succeeded for key, each in tallies.items()},
    )
    for name, text, state in ENDS:
        yield make.counter(
            name, text, labels, {key: each.states.get(state, 0) for key, each in tallies.items()}
        )
    yield make.counter(
        "task_failed",
        "Calls that failed, by the class of the exception.",
        (*labels, "exception"),
        # With a series at zero from the start, so that the first failure is an increase.
        {
            (*key, exception): count
            for key, each in tallies.items()
            for exception, count in {"": 0, **each.exceptions}.items()
        },
    )
    runtimes = {key: each.runtime for key, each in tallies.items()}
    yield make.histogram("task_runtime", "Seconds that successful runs took.", labels, runtimes)
    waits = {key: each.wait for key, each in tallies.items()}
    yield make.histogram(
        "task_queue_wait_time", "Seconds from when a call was sent, or due, to its start.", labels, waits
    )


def _queues(make: Families, seen: View, lengths: Lengths) -> Iterator[Metric]:
    label = ("queue_name",)
    own = [lane for lane in seen.lanes if not lane.internal]
    yield make.gauge(
        "queue_length",
        "Messages that wait in the queue, as the broker says: alike from each worker.",
        label,
        {(name,): length for name, (length, _) in lengths.items()},
        hostname=False,
    )
    yield make.gauge(
        "active_consumer_count", "Consumers of this worker.", label, {(lane.queue,): 1 for lane in own}
    )
    yield make.gauge(
        "active_worker_count", "1: this worker consumes it.", label, {(lane.queue,): 1 for lane in own}
    )
    yield make.gauge(
        "active_process_count",
        "Slots for its tasks in this worker.",
        label,
        {(lane.queue,): seen.slots for lane in own},
    )
    yield make.gauge(
        "oldest_message_age_seconds",
        "Age of the oldest message that is held and has not started.",
        label,
        {(lane.queue,): lane.oldest for lane in own},
    )
    yield make.gauge(
        "prefetch", "Messages that may be held; 0: no limit.", label, {(e.queue,): e.prefetch for e in own}
    )
    yield make.gauge(
        "messages_held", "Received, and not acknowledged.", label, {(lane.queue,): lane.held for lane in own}
    )


class Families:
    """Makes families whose samples all bear the node's name. `core` is `prometheus_client.core`."""

    def __init__(self, core: Any, node: str, prefix: str) -> None:
        self._core, self._node, self._prefix = core, node, prefix

    def counter(self, name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Any:
        made = self._core.CounterMetricFamily(self._prefix + name, text, labels=("hostname", *labels))
        for key, value in values.items():
            made.add_metric((self._node, *_known(labels, key)), value)
        return made

    def gauge(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        values: Mapping[Any, float],
        *,
        hostname: bool = True,
    ) -> Any:
        made = self._core.GaugeMetricFamily(
            self._prefix + name, text, labels=("hostname", *labels) if hostname else labels
        )
        for key, value in values.items():
            made.add_metric((self._node, *key) if hostname else key, value)
        return made

    def histogram(
        self, name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, Histogram]
    ) -> Any:
        made = self._core.HistogramMetricFamily(self._prefix + name, text, labels=("hostname", *labels))
        for key, histogram in values.items():
            made.add_metric((self._node, *_known(labels, key)), _buckets(histogram), histogram.total)
        return made


def _known(labels: tuple[str, ...], key: tuple[str, ...]) -> tuple[str, ...]:
    is_unknown = labels[:1] == ("name",) and key[0] == UNKNOWN_TASK.name
    return (UNKNOWN, *key[1:]) if is_unknown else key


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus wants each bound's count to include those below."""
    reached, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        reached += count
        buckets.append((bound, float(reached)))
    return buckets
