"""A consumer of aio-pika's that cannot be started: its channel is closed, whatever kept it from starting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport.aio import AioLink
from amqptasks.transport.url import parse

[URL] = parse("amqp://me:secret@host:1234/shop")


class FakeChannel:
    """Answers `basic.qos`; to `basic.consume` what it was given, or nothing."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.is_closed = False
        self.asked = asyncio.Event()
        self.closing = asyncio.get_running_loop().create_future()

    async def basic_qos(self, **arguments: Any) -> None: ...

    async def basic_consume(self, **arguments: Any) -> None:
        self.asked.set()
        if self.error is not None:
            raise self.error
        await asyncio.get_running_loop().create_future()

    async def close(self, reason: object) -> None:
        self.is_closed = True


class FakeLink(AioLink):
    """A link whose channel is a fake."""

    def __init__(self, channel: FakeChannel) -> None:
        super().__init__(URL, 10.0)
        self.fake = channel

    async def _channel(self, *, confirms: bool = False) -> Any:
        return self.fake


def consuming(link: FakeLink) -> Any:
    return link.consume("q", print, print, prefetch=1)


def test_arguments_that_cannot_be_written() -> None:
    async def scenario() -> None:
        link = FakeLink(FakeChannel(TypeError("no such type")))

        with pytest.raises(ImproperlyConfigured):
            await consuming(link)

        assert link.fake.is_closed

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_nobody_who_waits_for_the_answer() -> None:
    async def scenario() -> None:
        link = FakeLink(FakeChannel(None))
        started = asyncio.ensure_future(consuming(link))
        await link.fake.asked.wait()

        started.cancel()
        await asyncio.wait([started])

        assert started.cancelled()
        assert link.fake.is_closed

    asyncio.run(asyncio.wait_for(scenario(), 60))
