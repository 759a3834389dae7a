"""Settings: names and types are checked wherever they come from, and the sources have one order."""

from __future__ import annotations

import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery.app.defaults import DEFAULTS as CELERY_DEFAULTS

from amqptasks import sources
from amqptasks.config import Config
from amqptasks.errors import ImproperlyConfigured
from amqptasks.foreign_settings import REFUSED, unused
from amqptasks.settings import DEFAULTS, NAMES
from amqptasks.sources import UnusedSetting


def config(values: dict[str, Any] | None = None, **environ: str) -> Config:
    return Config(values, environ={f"AMQPTASKS_{name}": text for name, text in environ.items()})


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("settings_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


# --- the notes: rows 50 to 55 ---


def test_settings_are_read_and_assigned_as_attributes() -> None:
    conf = config({"timezone": "Europe/London"})

    conf.enable_utc = True

    assert conf.timezone == "Europe/London"
    assert conf.enable_utc is True


def test_update_sets_several() -> None:
    conf = config()

    conf.update(enable_utc=True, timezone="Europe/London")
    conf.update({"task_serializer": "msgpack"}, {"worker_concurrency": 4})

    assert (conf.enable_utc, conf.timezone, conf.task_serializer, conf.worker_concurrency) == (
        True,
        "Europe/London",
        "msgpack",
        4,
    )


def test_update_sets_all_or_nothing() -> None:
    conf = config()

    with pytest.raises(ImproperlyConfigured):
        conf.update(task_serializer="msgpack", worker_concurrency="many")

    assert conf.task_serializer == "json"


def test_a_class_configures() -> None:
    class Base:
        timezone = "Europe/London"

    class Production(Base):
        enable_utc = False

        def unrelated(self) -> None: ...

    conf = config()
    conf.config_from_object(Production)

    assert (conf.timezone, conf.enable_utc) == ("Europe/London", False)


def test_a_module_configures_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "celeryconfig_of_a_test.py").write_text(
        "import os\nfrom datetime import timedelta\nhost = 'rabbit'\nbroker_url = f'amqp://{host}//'\n"
        "result_expires = timedelta(hours=1)\ntask_routes = {'a': 'b'}\ndef helper(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    conf = config()

    conf.config_from_object("celeryconfig_of_a_test")

    assert "celeryconfig_of_a_test" not in sys.modules  # nothing is imported before it is needed
    assert (conf.broker_url, conf.result_expires, conf.task_routes) == ("amqp://rabbit//", 3600.0, {"a": "b"})


def test_the_environment_configures() -> None:
    conf = config(
        TASK_ACKS_LATE="yes",
        WORKER_CONCURRENCY="3",
        ACCEPT_CONTENT="json, msgpack",
        BROKER_HEARTBEAT="2.5",
        TASK_ROUTES='{"a.*": "b"}',
        TIMEZONE="none",
        WORKER_LOGLEVEL="INFO",  # the command line's
    )

    assert conf.changes == {
        "accept_content": ("json", "msgpack"),
        "timezone": None,
        "broker_heartbeat": 2.5,
        "task_acks_late": True,
        "task_routes": {"a.*": "b"},
        "worker_concurrency": 3,
    }


def test_a_variable_names_the_module(module: ModuleType) -> None:
    module.task_serializer = "yaml"
    conf = Config(environ={"PROJ_CONFIG": module.__name__})

    conf.config_from_envvar("PROJ_CONFIG")
    conf.config_from_envvar("NOT_SET", silent=True)

    assert conf.task_serializer == "yaml"
    with pytest.raises(ImproperlyConfigured, match="variable NOT_SET is not set"):
        conf.config_from_envvar("NOT_SET")


# --- defaults ---


def test_defaults_are_celerys_where_the_field_does_not_say_otherwise() -> None:
    ours_differ = {
        "beat_schedule_filename",
        "beat_scheduler",
        "broker_connection_max_retries",
        "broker_failover_strategy",
        "broker_heartbeat",
        "broker_url",
        "result_backend",
        "result_cache_max",
        "result_expires",  # the same day, in seconds
        "task_create_missing_queue_type",
        "task_default_exchange",
        "task_default_queue",
        "task_default_queue_type",
        "worker_prefetch_multiplier",
    }

    differ = {name for name in NAMES if name in CELERY_DEFAULTS and DEFAULTS[name] != CELERY_DEFAULTS[name]}

    assert differ == ours_differ


def test_every_setting_of_celerys_is_known_or_answered() -> None:
    for name in CELERY_DEFAULTS:
        assert name in NAMES or name in REFUSED or unused(name), name


def test_every_default_passes_its_own_check() -> None:
    assert sources.checked(DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("broker_url", "amqp://guest:guest@localhost:5672//"),
        ("result_backend", "rpc://"),
        ("task_default_queue", "amqptasks"),
        ("task_default_exchange", "amqptasks"),
        ("task_default_queue_type", "quorum"),
        ("worker_prefetch_multiplier", "auto"),
        ("broker_connection_timeout", 4.0),
        ("task_acks_late", False),
        ("worker_lost_limit", 5),
        ("accept_content", ("json",)),
    ],
)
def test_defaults_that_the_design_fixes(name: str, value: Any) -> None:
    assert config()[name] == value


# --- types ---


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("result_expires", timedelta(days=2), 172800.0),
        ("result_expires", None, None),
        ("result_expires", "60", 60.0),
        ("task_time_limit", 30, 30.0),
        ("worker_concurrency", "4", 4),
        ("worker_concurrency", "AUTO", "auto"),
        ("worker_prefetch_multiplier", 1, 1),
        ("worker_prefetch_multiplier", 0, 0),
        ("task_acks_late", "False", False),
        ("task_acks_late", 1, True),
        ("worker_max_tasks_per_child", 100.0, 100),
        ("imports", ["a.tasks", "b.tasks"], ("a.tasks", "b.tasks")),
        ("imports", "a.tasks", ("a.tasks",)),
        ("accept_content", {"json"}, ("json",)),
        ("broker_url", ["amqp://a", "amqp://b"], ("amqp://a", "amqp://b")),
        ("broker_url", "amqp://a;amqp://b", "amqp://a;amqp://b"),
        ("broker_use_ssl", {"ca_certs": "x"}, {"ca_certs": "x"}),
        ("broker_use_ssl", "true", True),
        ("timezone", ZoneInfo("Europe/London"), "Europe/London"),
        ("task_default_delivery_mode", "transient", 1),
        ("task_default_delivery_mode", 2, 2),
        ("task_default_rate_limit", 10, "10"),
        ("worker_pool", "processes", "prefork"),
        ("worker_redirect_stdouts_level", "info", "INFO"),
        ("task_protocol", "2", 2),
        ("security_key_password", b"secret", b"secret"),
    ],
)
def test_a_value_is_brought_to_its_type(name: str, given: Any, read: Any) -> None:
    conf = config({name: given})

    assert conf[name] == read
    assert type(conf[name]) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("task_ack_late", True, "unknown setting 'task_ack_late'; did you mean 'task_acks_late'?"),
        ("acks_late", True, "unknown setting 'acks_late'; did you mean 'task_acks_late'?"),
        ("worker_concurency", 4, "did you mean 'worker_concurrency'?"),
        ("zzz", 4, "unknown setting 'zzz'"),
        ("task_acks_late", "maybe", "setting 'task_acks_late' must be True or False, not 'maybe' (str)"),
        ("task_acks_late", 2, "must be True or False"),
        ("task_acks_late", None, "must be True or False, not None"),
        ("worker_concurrency", 0, "must be an integer of at least 1 or 'auto' or None, not 0 (int)"),
        ("worker_concurrency", 2.5, "must be an integer"),
        ("worker_concurrency", True, "must be an integer"),
        ("worker_max_tasks_per_child", "ten", "must be an integer"),
        ("task_default_priority", 256, "must be an integer from 0 to 255 or None"),
        ("broker_heartbeat", -1, "must be a number of at least 0"),
        ("task_time_limit", "soon", "must be a number of at least 0 or None"),
        ("task_time_limit", float("nan"), "must be a number"),
        ("task_default_queue_type", "stream", "must be 'quorum' or 'classic', not 'stream'"),
        ("worker_pool", "gevent", "there is no gevent pool here: use 'threads', or 'asyncio'"),
        ("worker_pool", "forks", "must be 'prefork' or 'threads' or 'asyncio' or 'solo'"),
        ("timezone", "Europe/Londn", "cannot be 'Europe/Londn': this machine knows no such time zone"),
        ("timezone", 1, "must be a string or None"),
        ("task_serializer", 4, "must be a string, not 4 (int)"),
        ("accept_content", ["json", 4], "must be a list of strings"),
        ("broker_transport_options", "x=1", "must be a dict"),
        (
            "task_publish_retry_policy",
            {"maxretries": 1},
            "'maxretries' is none of max_retries, interval_start",
        ),
        ("task_protocol", 1, "must be 2, not 1"),
        ("broker_host", "rabbit", "write it into broker_url"),
        ("broker_transport", "redis", "the broker is RabbitMQ"),
        ("task_routes", "{'a': 'b'", "looks like JSON and is not"),
    ],
)
def test_a_mistake_is_a_sentence(name: str, value: Any, sentence: str) -> None:
    for attempt in (lambda: config({name: value}), lambda: config().update({name: value})):
        with pytest.raises(ImproperlyConfigured) as caught:
            attempt()

        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_mistake_does_not_show_a_password() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        config({"broker_transport_options": "amqp://u:hunter2@h"})

    assert "hunter2" not in str(caught.value)


def test_a_retry_policy_keeps_what_it_does_not_name() -> None:
    conf = config({"task_publish_retry_policy": {"max_retries": None}})

    assert conf.task_publish_retry_policy == {
        "max_retries": None,
        "interval_start": 0,
        "interval_max": 1,
        "interval_step": 0.2,
    }


def test_reading_what_does_not_exist_names_the_nearest() -> None:
    conf = config()

    with pytest.raises(AttributeError, match="did you mean 'task_acks_late'"):
        conf.task_ack_late  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="did you mean 'task_acks_late'"):
        conf["task_ack_late"]
    assert conf.get("task_ack_late") is None
    assert "task_ack_late" not in conf
    assert "task_acks_late" in list(conf)


# --- Celery's names ---


def test_a_setting_without_meaning_is_accepted_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_warned", set())

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        config({"broker_pool_limit": 10})
        config({"broker_pool_limit": 20})

    (warning,) = seen
    assert warning.category is UnusedSetting
    assert "'broker_pool_limit' of Celery's has no effect here: one connection" in str(warning.message)


@pytest.mark.parametrize("name", ["redis_max_connections", "result_backend_always_retry", "worker_timer"])
def test_families_without_meaning_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_warned", set())

    with pytest.warns(UnusedSetting):
        assert config({name: 1}).changes == {}


@pytest.mark.parametrize(
    ("old", "value", "name"),
    [
        ("BROKER_URL", "amqp://h", "broker_url"),
        ("CELERY_RESULT_BACKEND", "memory://", "result_backend"),
        ("CELERY_TASK_RESULT_EXPIRES", 60.0, "result_expires"),
        ("CELERY_ACKS_LATE", True, "task_acks_late"),
        ("CELERY_ROUTES", {"a": "b"}, "task_routes"),
        ("CELERY_DEFAULT_QUEUE", "q", "task_default_queue"),
        ("CELERYD_CONCURRENCY", 4, "worker_concurrency"),
        ("CELERYD_PREFETCH_MULTIPLIER", 1, "worker_prefetch_multiplier"),
        ("CELERYBEAT_SCHEDULE", {"a": {}}, "beat_schedule"),
        ("CELERY_TIMEZONE", "UTC", "timezone"),
        ("CELERY_ACCEPT_CONTENT", ("json",), "accept_content"),
        ("CELERY_ALWAYS_EAGER", True, "task_always_eager"),
    ],
)
def test_old_upper_case_names_are_read(old: str, value: Any, name: str, module: ModuleType) -> None:
    setattr(module, old, value)
    plain, spaced = config(), config()

    plain.config_from_object(module)
    if old.startswith("CELERY_"):
        spaced.config_from_object(module, namespace="CELERY")

    assert plain[name] == value
    assert spaced[name] == (value if old.startswith("CELERY_") else DEFAULTS[name])


def test_a_namespace_takes_its_own_and_leaves_the_rest() -> None:
    django = SimpleNamespace(
        CELERY_BROKER_URL="amqp://h", CELERY_TASK_ACKS_LATE=True, DEBUG=True, BROKER_URL="no", DATABASES={}
    )
    conf = config()

    conf.config_from_object(django, namespace="CELERY")

    assert conf.changes == {"broker_url": "amqp://h", "task_acks_late": True}


def test_a_namespace_is_checked() -> None:
    conf = config()
    conf.config_from_object(SimpleNamespace(CELERY_TASK_ACK_LATE=True), namespace="CELERY")

    with pytest.raises(ImproperlyConfigured, match="did you mean 'task_acks_late'"):
        conf.task_acks_late


# --- modules ---


def test_what_stands_beside_the_settings_in_a_module_is_left_alone(module: ModuleType) -> None:
    vars(module).update(os=sys, Queue=dict, helper=len, host="rabbit", DEBUG=True, task_serializer="yaml")
    conf = config()

    conf.config_from_object(module)

    assert conf.changes == {"task_serializer": "yaml"}


@pytest.mark.parametrize(
    ("name", "near"), [("task_serialiser", "task_serializer"), ("time_zone", "timezone")]
)
def test_a_misspelt_setting_in_a_module_is_an_error(name: str, near: str, module: ModuleType) -> None:
    setattr(module, name, "x")
    conf = config()
    conf.config_from_object(module)

    with pytest.raises(ImproperlyConfigured, match=f"unknown setting '{name}'; did you mean '{near}'"):
        conf.timezone


def test_a_mapping_holds_settings_only() -> None:
    conf = config()
    conf.config_from_object({"host": "rabbit"})

    with pytest.raises(ImproperlyConfigured, match="unknown setting 'host'"):
        conf.resolve()


def test_an_attribute_of_a_module_configures(module: ModuleType) -> None:
    module.production = SimpleNamespace(task_serializer="yaml")

    for path in (f"{module.__name__}:production", f"{module.__name__}.production"):
        conf = config()
        conf.config_from_object(path)
        assert conf.task_serializer == "yaml"


def test_a_missing_module_is_named_with_the_cure() -> None:
    conf, silent = config(), config()
    conf.config_from_object("no_such.module")
    silent.config_from_object("no_such.module", silent=True)

    with pytest.raises(
        ImproperlyConfigured, match=r"no configuration module 'no_such.module'; is it in the working"
    ):
        conf.timezone
    assert silent.timezone is None
    with pytest.raises(ImproperlyConfigured):
        config().config_from_object("no_such.module", force=True)


def test_an_error_inside_the_module_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_config_of_a_test.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(str(tmp_path))
    conf = config()
    conf.config_from_object("broken_config_of_a_test", silent=True)

    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        conf.timezone


def test_a_module_may_read_the_settings_while_it_is_read(module: ModuleType) -> None:
    conf = config({"task_default_queue": "from app"})

    class Settings:
        @property
        def task_serializer(self) -> str:
            return "yaml" if conf.task_default_queue == "from app" else "json"

    conf.config_from_object(Settings())

    assert conf.task_serializer == "yaml"


def test_settings_made_after_the_call_count(module: ModuleType) -> None:
    conf = config()
    conf.config_from_object(module)

    module.task_serializer = "yaml"

    assert conf.task_serializer == "yaml"


# --- order ---


def test_the_sources_have_one_order() -> None:
    name = "task_default_queue"
    conf = config()
    conf.config_from_object({name: "first object"})
    assert conf[name] == "first object"
    conf.config_from_object({name: "second object"})
    assert conf[name] == "second object"

    argued = config({name: "argument"})
    argued.config_from_object({name: "object"})
    assert argued[name] == "argument"

    deployed = config({name: "argument"}, TASK_DEFAULT_QUEUE="environment")
    assert deployed[name] == "environment"

    deployed.task_default_queue = "assigned"
    assert deployed[name] == "assigned"
    deployed.config_from_object({name: "late object"})
    assert deployed[name] == "assigned"


def test_an_assignment_before_the_first_reading_wins_as_well() -> None:
    conf = config(TASK_DEFAULT_QUEUE="environment")

    conf.task_default_queue = "assigned"

    assert conf.task_default_queue == "assigned"


def test_the_environment_does_not_send_a_test_to_a_broker() -> None:
    conf = config({"broker_url": "memory://t"}, BROKER_URL="amqp://production", TASK_SERIALIZER="yaml")

    assert (conf.broker_url, conf.task_serializer) == ("memory://t", "yaml")


def test_a_misspelt_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_warned", set())

    with pytest.warns(
        UserWarning, match="AMQPTASKS_TASK_ACK_LATE is no setting; did you mean AMQPTASKS_TASK_ACKS_LATE"
    ):
        config(TASK_ACK_LATE="1").resolve()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config(APP="proj", WORKER_QUEUES="a,b", WORKER_HOSTNAME="w1").resolve()


# --- being an object ---


def test_reading_is_a_plain_attribute_once_it_is_resolved() -> None:
    conf = config()
    conf.resolve()

    assert type(conf) is Config
    assert "__getattribute__" not in vars(Config)
    assert set(NAMES) <= set(vars(conf))


def test_two_apps_share_nothing() -> None:
    first, second = config(), config()

    first.beat_schedule["entry"] = {}  # type: ignore[index]

    assert second.beat_schedule == {}
    assert DEFAULTS["beat_schedule"] == {}


def test_threads_read_one_whole_configuration() -> None:
    class Slow:
        @property
        def task_serializer(self) -> str:
            started.set()
            assert go.wait(60)
            return "yaml"

    started, go = threading.Event(), threading.Event()
    conf = config()
    conf.config_from_object(Slow())
    seen: list[str] = []
    readers = [threading.Thread(target=lambda: seen.append(conf.task_serializer)) for _ in range(8)]

    for reader in readers:
        reader.start()
    assert started.wait(60)
    go.set()
    for reader in readers:
        reader.join(60)

    assert seen == ["yaml"] * 8


def test_changes_are_what_was_set() -> None:
    conf = config({"task_serializer": "yaml"})
    conf.config_from_object({"timezone": "UTC"})
    conf.worker_concurrency = 4

    assert conf.changes == {"timezone": "UTC", "task_serializer": "yaml", "worker_concurrency": 4}


def test_humanize_masks_secrets() -> None:
    conf = config(
        {
            "broker_url": "amqp://u:hunter2@h//;amqp://u:hunter2@i//",
            "broker_read_url": ["amqp://u:hunter2@h//"],
            "result_backend": "redis://:hunter2@h/0",
            "security_key_password": "hunter2",
            "broker_transport_options": {"password": "hunter2", "x": 1},
            "task_default_routing_key": "shown",
        }
    )

    text = conf.humanize()

    assert "hunter2" not in text + repr(conf)
    assert "broker_url: 'amqp://u:**@h//;amqp://u:**@i//'" in text.splitlines()
    assert "task_default_routing_key: 'shown'" in text.splitlines()
    assert conf.table(censored=False)["security_key_password"] == "hunter2"
    assert set(conf.table(with_defaults=True)) == set(NAMES)


@pytest.mark.parametrize("value", ["", "amq.direct"])
def test_dead_letters_have_an_exchange_of_their_own(value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task_dead_letter_exchange.*an exchange of its own"):
        config({"task_dead_letter_exchange": value})


@pytest.mark.parametrize("policy", [{"max_retries": "x"}, {"interval_max": -1}, {"interval_step": None}])
def test_a_retry_policy_holds_numbers(policy: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="must be a number of at least 0, not"):
        config({"task_publish_retry_policy": policy})


def test_a_retry_policy_may_be_endless() -> None:
    policy = config({"task_publish_retry_policy": {"max_retries": None}}).task_publish_retry_policy

    assert policy["max_retries"] is None
