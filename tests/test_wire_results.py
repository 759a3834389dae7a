"""Results and exceptions: Celery's client rebuilds what we write, we rebuild what Celery's worker writes."""

from __future__ import annotations

import json
import sys
import types
from datetime import UTC, datetime
from typing import Any

import billiard.exceptions
import celery
import celery.exceptions
import celery.utils.serialization
import kombu.exceptions
import kombu.serialization
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks import errors, protocol
from amqptasks.amqp import Address, Envelope, Properties
from amqptasks.errors import ContentDisallowed, DecodeError, EncodeError, InvalidMessage, RemoteError
from amqptasks.serialization import accept_set

ID = "5b4a1c54-0d2f-4c2c-9c6e-9f6b4d8a2c11"
JSON = accept_set(["json"])
EVERYTHING = accept_set(["json", "msgpack", "yaml", "pickle"])


def body_of(result: Any, status: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    return {
        "task_id": ID,
        "status": status,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": None,
        **more,
    }


def sent(result: Any, status: str = "SUCCESS", **options: Any) -> Envelope:
    return protocol.encode_result(body_of(result, status), "replies", correlation_id=ID, **options)


def received(envelope: Envelope, accept: frozenset[str] = JSON) -> dict[str, Any]:
    return protocol.decode_result(envelope, accept=accept, limit=1 << 20)


def there_and_back(error: BaseException, **options: Any) -> Any:
    return received(sent(error, "FAILURE", **options), EVERYTHING)["result"]


@pytest.fixture(scope="module")
def backend() -> Any:
    with celery.Celery("peer", broker="memory://", backend="rpc://", set_as_current=False) as app:
        yield app.backend


def by_celery(backend: Any, envelope: Envelope) -> Any:
    """What a stock Celery client makes of our result."""
    p = envelope.properties
    meta = kombu.serialization.loads(
        envelope.body, p.content_type, p.content_encoding, accept={"application/json"}
    )
    return backend.meta_from_decoded(meta)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(values)
def test_a_value_arrives_as_it_was_returned(value: Any) -> None:
    assert received(sent(value)) == body_of(value)


@given(values)
def test_a_celery_client_reads_our_value(value: Any) -> None:
    envelope = sent(value)

    meta = json.loads(envelope.body)

    assert {"task_id", "status", "result", "traceback", "children", "date_done"} <= meta.keys()
    assert kombu.serialization.loads(envelope.body, "application/json", "utf-8")["result"] == value


def test_a_result_is_transient_and_dropped_when_nobody_wants_it() -> None:
    envelope = sent(5)

    assert (envelope.address, envelope.fate) == (Address("", "replies"), "drop")
    assert envelope.properties.delivery_mode == 1
    assert envelope.properties.correlation_id == ID
    assert sent(5, persistent=True).properties.delivery_mode == 2


def test_a_value_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(EncodeError, match="type set"):
        sent({1, 2})


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 5),
        KeyError("k"),
        OSError(2, "no such file"),
        ZeroDivisionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_builtin_exception_comes_back_with_its_arguments(error: BaseException, serializer: str) -> None:
    back = there_and_back(error, serializer=serializer)

    if isinstance(error, UnicodeDecodeError) and serializer in ("json", "pickle", "msgpack"):
        assert back.args == error.args
    assert type(back) is type(error)
    assert str(back) == str(error)


MAPPED = [
    (errors.TaskRevoked, celery.exceptions.TaskRevokedError),
    (errors.Ignore, celery.exceptions.Ignore),
    (errors.Reject, celery.exceptions.Reject),
    (errors.Retry, celery.exceptions.Retry),
    (errors.ChordError, celery.exceptions.ChordError),
    (errors.NotRegistered, celery.exceptions.NotRegistered),
    (errors.MaxRetriesExceeded, celery.exceptions.MaxRetriesExceededError),
    (errors.ImproperlyConfigured, celery.exceptions.ImproperlyConfigured),
    (errors.InvalidMessage, celery.exceptions.InvalidTaskError),
    (errors.TimeoutError, celery.exceptions.TimeoutError),
    (errors.TaskError, celery.exceptions.TaskError),
    (errors.TaskPredicate, celery.exceptions.TaskPredicate),
    (errors.WorkerLost, billiard.exceptions.WorkerLostError),
    (errors.TimeLimitExceeded, billiard.exceptions.TimeLimitExceeded),
    (errors.SoftTimeLimitExceeded, billiard.exceptions.SoftTimeLimitExceeded),
    (errors.Terminated, billiard.exceptions.Terminated),
    (errors.ContentDisallowed, kombu.exceptions.ContentDisallowed),
    (errors.EncodeError, kombu.exceptions.EncodeError),
    (errors.DecodeError, kombu.exceptions.DecodeError),
]


@pytest.mark.parametrize(("ours", "theirs"), MAPPED, ids=lambda kind: kind.__name__)
def test_our_errors_are_celerys_on_the_wire_and_ours_again(backend: Any, ours: Any, theirs: Any) -> None:
    envelope = sent(ours("why"), "FAILURE")

    assert type(by_celery(backend, envelope)["result"]) is theirs
    assert type(received(envelope)["result"]) is ours
    assert "why" in str(by_celery(backend, envelope)["result"])
    assert "why" in str(received(envelope)["result"])


@pytest.mark.parametrize(("ours", "theirs"), MAPPED, ids=lambda kind: kind.__name__)
def test_celerys_errors_become_ours(backend: Any, ours: Any, theirs: Any) -> None:
    stored = json.loads(json.dumps(backend.prepare_exception(theirs("why"), "json")))

    back = protocol.decode_exception(stored)

    assert type(back) is ours
    if ours is not errors.Retry:  # Celery's puts itself into its own arguments
        assert "why" in str(back)


def test_what_celery_re_exports_under_its_own_name_is_known_too() -> None:
    stored = {"exc_type": "WorkerLostError", "exc_message": ["x"], "exc_module": "celery.exceptions"}

    assert type(protocol.decode_exception(stored)) is errors.WorkerLost


class Refused(Exception):
    """Its arguments are not those of its constructor."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Silent(Exception):
    """Without its constructor it cannot be shown."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return f"because {self.reason}"


class Outer:
    class Inner(Exception):
        pass


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_an_exception_keeps_its_class_though_its_constructor_wants_more(serializer: str) -> None:
    back = there_and_back(Refused(5, reason="late"), serializer=serializer)

    assert type(back) is Refused
    assert str(back) == "5: late"


def test_an_exception_that_cannot_be_made_again_is_named() -> None:
    back = there_and_back(Silent(5, reason="late"))

    assert isinstance(back, RemoteError)
    assert (type(back).__name__, back.exc_type, back.exc_module) == ("Silent", "Silent", __name__)
    assert back.args == (5,)


def test_an_exception_class_inside_a_class_is_found() -> None:
    assert type(there_and_back(Outer.Inner("x"))) is Outer.Inner


def test_a_local_exception_class_keeps_its_name() -> None:
    class Local(Exception):
        pass

    back = there_and_back(Local("x"))

    assert isinstance(back, RemoteError)
    assert type(back).__name__ == "Local"
    assert str(back) == "x"


def test_arguments_that_cannot_travel_are_shown() -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError

    back = there_and_back(ValueError({1}, Unshowable(), datetime(2026, 1, 1, tzinfo=UTC)))

    assert back.args == (
        "{1}",
        "<Unshowable, whose repr() raised RuntimeError>",
        datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_retry_carries_why_and_when(backend: Any) -> None:
    envelope = sent(errors.Retry("later", ValueError("x"), 5), "RETRY")

    assert str(received(envelope)["result"]) == "later"
    assert (received(envelope)["result"].exc, received(envelope)["result"].when) == ("ValueError('x')", 5)
    assert type(by_celery(backend, envelope)["result"]) is celery.exceptions.Retry


def test_an_exception_of_a_module_that_is_not_here_is_a_remote_error_of_one_class() -> None:
    stored = {"exc_type": "CardDeclined", "exc_message": ["no funds"], "exc_module": "shop.payments"}

    first, second = protocol.decode_exception(stored), protocol.decode_exception(stored)

    assert isinstance(first, RemoteError)
    assert type(first) is type(second)
    assert (type(first).__name__, str(first), first.exc_module) == (
        "CardDeclined",
        "no funds",
        "shop.payments",
    )
    assert protocol.encode_exception(first) == stored


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("builtins", "dict"), ("os", "path")]
)
def test_nothing_but_an_exception_is_ever_called(module: str, name: str) -> None:
    back = protocol.decode_exception({"exc_type": name, "exc_message": ["print(1)"], "exc_module": module})

    assert isinstance(back, RemoteError)
    assert back.exc_type == name


def test_a_message_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    lazy = types.ModuleType("lazy_module")
    lazy.__getattr__ = asked.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)

    protocol.decode_exception({"exc_type": "Late", "exc_message": [], "exc_module": "lazy_module"})
    protocol.decode_exception({"exc_type": "Error", "exc_message": [], "exc_module": "imaplib_not_loaded"})

    assert asked == []
    assert "imaplib_not_loaded" not in sys.modules


@pytest.mark.parametrize("stored", ["boom", {}, {"exc_type": None}, ["x"], 5])
def test_a_failure_that_says_nothing_is_still_an_exception(stored: Any) -> None:
    assert isinstance(protocol.decode_exception(stored), RemoteError)


@pytest.mark.parametrize(
    ("message", "args"),
    [("text", ("text",)), (None, ()), ([], ()), (["a", 1], ("a", 1)), ({"a": 1}, ({"a": 1},))],
)
def test_a_message_of_any_shape(message: Any, args: tuple[Any, ...]) -> None:
    stored = {"exc_type": "ValueError", "exc_message": message, "exc_module": "builtins"}

    assert protocol.decode_exception(stored).args == args


def reply(body: Any, content_type: str = "application/json") -> Envelope:
    return Envelope(
        Address("", "q"), json.dumps(body).encode(), Properties(content_type=content_type, correlation_id=ID)
    )


def test_a_reply_names_its_task_in_the_body_or_in_its_correlation_id() -> None:
    assert received(reply({"status": "SUCCESS", "result": 1}))["task_id"] == ID


@pytest.mark.parametrize("body", [{}, {"status": None}, [], 5, {"task_id": ID, "result": 1}])
def test_what_is_no_result_is_refused(body: Any) -> None:
    with pytest.raises(InvalidMessage, match="status"):
        received(reply(body))


def test_results_too_are_only_decoded_if_accepted() -> None:
    with pytest.raises(ContentDisallowed):
        received(sent(1, serializer="pickle"))
    with pytest.raises(DecodeError):
        received(Envelope(Address("", "q"), b"{", Properties()))


def test_reading_a_result_runs_no_constructor() -> None:
    body = protocol.read_result(sent(ValueError("x"), "FAILURE"), accept=JSON, limit=1 << 20)

    assert body["result"] == {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}


def test_an_exception_that_celery_could_not_pickle_is_unwrapped() -> None:
    wrapper = celery.utils.serialization.UnpickleableExceptionWrapper.from_exception(ValueError("x"))

    back = protocol.decode_exception(json.loads(json.dumps(protocol.encode_exception(wrapper))))

    assert (type(back), back.args) == (ValueError, ("x",))
