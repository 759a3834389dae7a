"""Which driver, which hosts, in which order, with which of the settings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqptasks.config import Config
from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport import loop
from amqptasks.transport.opening import configured, opener
from amqptasks.transport.url import parse


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    async def connect(urls: Any, *, order: Any, **options: Any) -> Any:
        calls.append({"hosts": [url.host for url in order(urls)], "given": urls, **options})
        raise OSError

    monkeypatch.setattr(loop, "connect", connect)
    return calls


def dial(connect: Any, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError):
            asyncio.run(connect())


def test_each_attempt_begins_one_host_further(dialled):
    dial(opener(parse("amqp://a//;amqp://b//;amqp://c//")), times=4)

    assert [call["hosts"] for call in dialled] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_shuffled_hosts_are_all_there(dialled):
    dial(opener(parse("amqp://a//;amqp://b//;amqp://c//"), failover="shuffle"), times=20)

    assert all(sorted(call["hosts"]) == ["a", "b", "c"] for call in dialled)
    assert len({tuple(call["hosts"]) for call in dialled}) > 1


def test_consuming_and_publishing_may_use_different_brokers(dialled):
    conf = Config({"broker_read_url": "amqp://reads//", "broker_write_url": "amqp://writes//"}, environ={})

    dial(configured(conf.table(with_defaults=True, censored=False), "read", "w"))
    dial(configured(conf.table(with_defaults=True, censored=False), "write", "w"))

    assert [call["hosts"] for call in dialled] == [["reads"], ["writes"]]


def test_settings_reach_the_driver(dialled):
    values = {
        "broker_url": "amqp://h//",
        "broker_heartbeat": 7,
        "broker_connection_timeout": 2,
        "broker_max_message_size": 99,
    }
    conf = Config(values, environ={})

    dial(configured(conf.table(with_defaults=True, censored=False), "read", "me"))

    [call] = dialled
    assert (call["name"], call["heartbeat"], call["timeout"], call["max_message_size"]) == ("me", 7, 2, 99)


def test_no_url_is_said_at_once():
    with pytest.raises(ImproperlyConfigured, match="amqp://guest@localhost//"):
        opener(())
