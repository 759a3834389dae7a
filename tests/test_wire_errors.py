"""Exceptions on the wire: what comes back is of the class that was raised, or bears its name."""

from amqptasks.errors import RemoteError
from amqptasks.wire_errors import decode_exception, encode_exception


def test_an_exception_that_celery_wrapped_because_it_cannot_be_pickled_is_unwrapped() -> None:
    sent = {
        "exc_type": "UnpickleableExceptionWrapper",
        "exc_module": "celery.utils.serialization",
        "exc_message": ["shop.cards", "Refused", ["4111", 51], "Refused('4111', 51)"],
    }

    error = decode_exception(sent)

    assert isinstance(error, RemoteError)
    assert (type(error).__name__, error.exc_module) == ("Refused", "shop.cards")
    assert error.args == ("4111", 51)


def test_a_wrapped_exception_whose_class_is_imported_here_is_of_that_class() -> None:
    sent = {
        "exc_type": "UnpickleableExceptionWrapper",
        "exc_module": "celery.utils.serialization",
        "exc_message": ["builtins", "KeyError", ["a"], "KeyError('a')"],
    }

    error = decode_exception(sent)

    assert type(error) is KeyError
    assert error.args == ("a",)


def test_a_wrapper_that_does_not_say_what_it_wraps_stays_one() -> None:
    sent = {"exc_type": "UnpickleableExceptionWrapper", "exc_module": "celery.utils.serialization"}

    error = decode_exception({**sent, "exc_message": ["only one"]})

    assert isinstance(error, Exception)
    assert encode_exception(error)["exc_type"] == "UnpickleableExceptionWrapper"


class ByKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_what_an_exception_without_arguments_says_arrives_with_its_class_s_name() -> None:
    back = decode_exception(encode_exception(ByKeyword(code=5)))

    assert (type(back).__name__, str(back)) == ("ByKeyword", "code 5")
    assert isinstance(back, RemoteError)


def test_an_exception_that_cannot_even_be_shown_arrives_by_name() -> None:
    back = decode_exception(encode_exception(Mute()))

    assert (type(back).__name__, back.args) == ("Mute", ())
