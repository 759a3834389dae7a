"""What is shown holds no secrets, and still says where things are."""

from __future__ import annotations

from typing import Any

import pytest

from amqptasks.masking import MASK, mask_url, mask_value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://u:hunter2@h:5672//", "amqp://u:**@h:5672//"),
        ("amqp://u@h//", "amqp://u@h//"),
        ("amqp://h//", "amqp://h//"),
        ("amqp://u:hunter2@a//;amqp://v:hunter2@b//", "amqp://u:**@a//;amqp://v:**@b//"),
        ("amqp://u:hun/ter2@h//", "amqp://u:**@h//"),
        ("amqp://u:hun@ter2@h//", "amqp://u:**@h//"),
        ("redis://:hunter2@h/0", "redis://:**@h/0"),
        ("db+postgresql://u:hunter2@h/x", "db+postgresql://u:**@h/x"),
        ("amqps://h/?keyfile_password=hunter2&heartbeat=3", "amqps://h/?keyfile_password=**&heartbeat=3"),
        ("redis://h?access_token=hunter2", "redis://h?access_token=**"),
        ("no url", "no url"),
    ],
)
def test_a_url_keeps_all_but_its_password(text: str, shown: str) -> None:
    assert mask_url(text) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("security_key_password", "hunter2", MASK),
        ("security_key", "hunter2", MASK),
        ("api_key", b"hunter2", MASK),
        ("client_secret", 7, MASK),
        ("security_key", None, None),
        ("task_default_routing_key", "k", "k"),
        ("binding_key", "k", "k"),
        ("task_default_queue", "password", "password"),
        ("broker_url", ("amqp://u:hunter2@h//",), ("amqp://u:**@h//",)),
        ("options", {"password": "hunter2", "deep": {"token": "hunter2"}, "x": 1}, None),
        ("worker_concurrency", 4, 4),
    ],
)
def test_a_value_is_masked_by_its_name(name: str, value: Any, shown: Any) -> None:
    masked = mask_value(name, value)

    if isinstance(value, dict):
        assert masked == {"password": MASK, "deep": {"token": MASK}, "x": 1}
    else:
        assert masked == shown
