"""The contract of every link, kept by pika's and by aio-pika's against a real RabbitMQ."""

import pytest

from amqptasks.transport import aio, loop
from amqptasks.transport.base import Connect
from amqptasks.transport.url import parse
from tests.transport.contract import LinkContract


class TestLoopLink(LinkContract):
    @pytest.fixture
    def connect(self, broker_url: str) -> Connect:
        return lambda: loop.connect(parse(broker_url), name="contract")


class TestAioLink(LinkContract):
    @pytest.fixture
    def connect(self, broker_url: str) -> Connect:
        return lambda: aio.connect(parse(broker_url), name="contract")
