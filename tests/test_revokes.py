"""Revocations as values: the stream's arguments, a record's way there and back, stamps as words."""

import time

import pytest

from amqptasks import revokes
from amqptasks.errors import InvalidMessage


def test_the_stream_keeps_what_is_younger_than_the_retention_and_no_more_than_so_many_bytes() -> None:
    arguments = revokes.stream(7 * 86400.0).arguments

    assert arguments["x-queue-type"] == "stream"
    assert arguments["x-max-age"] == "604800s"
    assert arguments["x-max-length-bytes"] == 100_000_000
    assert revokes.stream(0.2).arguments["x-max-age"] == "1s"


def test_a_record_is_read_as_it_was_written() -> None:
    before = time.time()
    read = revokes.read(revokes.record(["a", "b"], {"customer": ["17", 18]}).body)

    assert read.ids == ("a", "b")
    assert read.stamps == {"customer": ["17", 18]}
    assert before <= read.since <= time.time()
    assert read.mark == ""
    assert revokes.read(revokes.record(mark="m").body).mark == "m"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"ids": 3}', b'{"since": "soon"}', b'{"stamps": 1}'])
def test_what_is_no_record_says_so(body: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"amqptasks\.revokes"):
        revokes.read(body)


def test_stamps_are_read_of_words_and_a_name_may_come_again() -> None:
    assert revokes.stamps(["a=1", "b=x=y", "a=2"]) == {"a": ["1", "2"], "b": "x=y"}
    with pytest.raises(ValueError, match="'a' is no stamp; write name=value"):
        revokes.stamps(["a"])
