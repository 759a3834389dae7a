"""The task events of a moment as the body of one message: a busy worker sends fifty thousand events a second. Pure.

Knows what a worker gathers and how it stands in JSON; not when it is sent, and to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from amqptasks.event_wire import Stamp, encoded, utcoffset
from amqptasks.pidbox import Clock
from amqptasks.transport import plain
from amqptasks.worker.admission import watched_of

_TOLD = b'"timestamp":%b,"clock":%d,"uuid":%b,'
_CAME = (
    b'"timestamp":%b,"clock":%d,"type":"task-received","name":"%b","uuid":"%b","root_id":"%b","args":"%b",'
    b'"kwargs":"%b","parent_id":null,"retries":0,"eta":null,"expires":null,'
)


def batch(gathered: Sequence[Any], stamp: Stamp, clock: Clock) -> bytes:
    """Return the events of what was gathered: time (seconds since the epoch), call and what is told of it, in turn.

    Of a call that was received, these are its headers that admission reads, and its delivery; later its id, and the
    rest of the event as JSON without brackets.
    """
    try:
        return _batch(gathered, stamp, clock, orjson.dumps)
    except TypeError:  # an id that is no proper Unicode
        return _batch(gathered, stamp, clock, encoded)


def _batch(gathered: Sequence[Any], stamp: Stamp, clock: Clock, write: Callable[[Any], bytes]) -> bytes:
    # Only what differs between the events is written anew, and all the times at once.
    who = encoded({"hostname": stamp.hostname, "pid": stamp.pid, "utcoffset": utcoffset()})[1:-1]
    who = who.replace(b"%", b"%%")
    event, came = _TOLD + who + b",%b", _CAME + who
    times = orjson.dumps(gathered[::3])[1:-1].split(b",")
    number, events, quoted = clock.value, [], plain.quoted
    for at, call, told in zip(times, gathered[1::3], gathered[2::3], strict=True):
        number += 1
        if type(told) is bytes:
            events.append(event % (at, number, write(call), told))
        elif known := quoted(told.header):
            events.append(came % (at, number, *known))
        else:
            events.append(event % (at, number, write(call["id"]), received(call, *watched_of(told))))
    clock.value = number
    events[0] = b"[{" + events[0]  # as bytes are added to all of them they are copied
    events[-1] += b"}]"
    return b"},{".join(events)


def received(fields: Mapping[str, Any], root_id: Any, parent_id: Any, args: Any, kwargs: Any) -> bytes:
    """Return what the event of a call tells that was received; `fields` are the headers that admission reads."""
    get = fields.get
    told = {
        "type": "task-received",
        "name": get("task"),
        "args": args,
        "kwargs": kwargs,
        "root_id": root_id,
        "parent_id": parent_id,
        "retries": get("retries", 0),
        "eta": get("eta"),
        "expires": get("expires"),
    }
    return encoded(told)[1:-1]
