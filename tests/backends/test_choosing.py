"""Which backend `result_backend` names, and what is said of one that cannot be had."""

from __future__ import annotations

import builtins
import sys
import uuid
from typing import Any

import pytest

from amqptasks import App
from amqptasks.backends.database import DatabaseBackend
from amqptasks.backends.disabled import DisabledBackend
from amqptasks.backends.memory import MemoryBackend
from amqptasks.backends.redis import RedisBackend
from amqptasks.backends.rpc import RpcBackend
from amqptasks.errors import ImproperlyConfigured


class Own(MemoryBackend):
    """A store of one's own: made with the app's settings."""

    def __init__(self, conf: Any) -> None:
        super().__init__(f"memory://{uuid.uuid4()}", expires=conf.result_expires)
        self.conf = conf


def app(backend: str | None, **settings: Any) -> App:
    return App("proj", broker=f"memory://{uuid.uuid4()}", backend=backend, **settings)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (None, DisabledBackend),
        ("disabled", DisabledBackend),
        ("rpc://", RpcBackend),
        ("rpc", RpcBackend),
        ("memory://", MemoryBackend),
        ("db+sqlite:///results.db", DatabaseBackend),
        ("redis://localhost:6379/1", RedisBackend),
        ("rediss://:secret@localhost/1?ssl_cert_reqs=CERT_REQUIRED", RedisBackend),
        (f"{__name__}:Own", Own),
        (f"{__name__}.Own", Own),
    ],
)
def test_the_setting_names_the_backend(url: str | None, kind: type[Any]) -> None:
    with app(url) as made:
        assert type(made.backend) is kind


def test_the_settings_reach_a_store() -> None:
    settings = {
        "result_expires": 60,
        "result_serializer": "pickle",
        "result_compression": "gzip",
        "result_store_timeout": 7,
        "result_polling_interval": 2,
        "broker_max_message_size": 1000,
        "accept_content": ["json", "pickle"],
    }
    with app("redis://localhost", **settings) as made:
        assert isinstance(made.backend, RedisBackend)
        options = made.backend.options

    assert (options.format.expires, options.format.serializer) == (60, "pickle")
    assert "application/x-python-serialize" in options.format.accept
    assert (options.compression, options.patience, options.interval) == ("gzip", 7, 2)
    assert options.largest == 1000


def test_a_class_of_one_s_own_is_made_with_the_settings() -> None:
    with app(f"{__name__}:Own", result_expires=5) as made:
        assert made.backend.conf.result_expires == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://u:secret@h", r"mongodb://u:\*\*@h.*rpc://.*db\+.*redis://"),
        (f"{__name__}:Absent", "has no 'Absent'"),
        ("builtins.dict", "no class that inherits from amqptasks.backends.base.Backend"),
        ("redis://localhost:port", "write redis://host:6379/0"),
    ],
)
def test_what_cannot_be_a_backend_is_refused_without_its_password(url: str, words: str) -> None:
    with app(url) as made, pytest.raises(ImproperlyConfigured, match=words) as caught:
        _ = made.backend

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "extra"), [("db+sqlite:///r.db", "sqlalchemy"), ("redis://localhost", "redis")]
)
def test_an_extra_that_is_not_installed_is_named(
    url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "database" if extra == "sqlalchemy" else "redis"
    monkeypatch.delitem(sys.modules, f"amqptasks.backends.{module}")
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == extra:
            raise ModuleNotFoundError(f"No module named {extra!r}")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    with app(url) as made, pytest.raises(ImproperlyConfigured, match=rf"pip install 'amqptasks\[{extra}\]'"):
        _ = made.backend
