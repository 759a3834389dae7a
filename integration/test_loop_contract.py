"""The contract of every link, held by the one to RabbitMQ."""

import pytest

from amqptasks.transport.base import Connect
from amqptasks.transport.opening import opener
from amqptasks.transport.url import parse
from tests.transport.contract import LinkContract


class TestLoopLink(LinkContract):
    @pytest.fixture
    def connect(self, broker_url: str) -> Connect:
        return opener(parse(broker_url), name="amqptasks contract")
