"""The datagrams between parent and child: what goes in comes out."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.amqp import Delivery, Parcel
from amqptasks.worker.outcome import Cause, Outcome, Run, Verdict
from amqptasks.worker.pools import wire

names = st.text(max_size=60).map(lambda text: text[:60])
numbers = st.integers(0, 2**64 - 1)
times = st.floats(0, 1e9)
seconds = st.none() | times
parcels = st.lists(
    st.builds(
        Parcel,
        names,
        names,
        st.binary(max_size=50),
        st.binary(max_size=50),
        names,
        st.sampled_from(["raise", "drop", "dead"]),
    ),
    max_size=3,
).map(tuple)
runs = st.builds(
    Run,
    numbers,
    st.builds(
        Delivery,
        names,
        numbers,
        st.integers(0, 2**32 - 1),
        st.booleans(),
        names,
        names,
        st.binary(),
        st.binary(),
    ),
    st.sampled_from(Cause),
    st.text(max_size=2000),
    seconds,
    seconds,
)
outcomes = st.builds(
    Outcome, st.sampled_from(Verdict), parcels, st.text(max_size=60), st.binary(max_size=300)
)


@given(runs)
def test_a_run_comes_out_as_it_went_in(run: Run) -> None:
    data = wire.encode_run(run)

    assert wire.decode_run(data) == run
    assert wire.run_key(data) == run.key


@given(numbers, outcomes, times)
def test_an_end_comes_out_as_it_went_in(key: int, outcome: Outcome, at: float) -> None:
    data = wire.encode_finished(key, outcome, at)

    told = wire.TOLD if outcome.event else 0
    assert wire.decode_report(data) == (wire.FINISHED | told, (key, outcome, at), None)


@given(numbers, outcomes, times)
def test_a_child_may_retire_with_its_last_outcome(key: int, outcome: Outcome, at: float) -> None:
    data = wire.encode_finished(key, outcome, at, wire.RETIRING)

    told = wire.TOLD if outcome.event else 0
    assert wire.decode_report(data) == (wire.FINISHED | wire.RETIRING | told, (key, outcome, at), None)


@given(numbers, parcels, times)
def test_a_start_comes_out_as_it_went_in(key: int, publish: tuple, at: float) -> None:
    data = wire.encode_started(key, publish, at)

    assert wire.decode_report(data) == (wire.STARTED, None, (key, publish, at))


@given(numbers, outcomes, parcels, times)
def test_no_report_looks_like_a_bell_or_like_pieces(
    key: int, outcome: Outcome, publish: tuple, at: float
) -> None:
    reports = [wire.encode_finished(key, outcome, at), wire.encode_started(key, publish, at)]

    assert wire.BELL not in reports
    assert not any(report[0] & wire.PIECES for report in (*reports, wire.BELL))


@pytest.mark.parametrize("size", [0, 100, wire.LIMIT - 1000, wire.LIMIT, wire.LIMIT + 1, 5 * wire.LIMIT])
def test_no_datagram_is_over_the_limit_and_all_arrive(size: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    message = bytes([wire.FINISHED]) + os.urandom(size)
    sender = threading.Thread(target=wire.send, args=(near, message))

    with near, far:
        sender.start()
        first = far.recv(wire.LIMIT + 1)
        received = wire.gather(far, first) if first[0] & wire.PIECES else first
        sender.join()

    assert received == message


def test_a_run_is_large_when_it_needs_pieces() -> None:
    def run(size: int) -> Run:
        return Run(
            1,
            Delivery("q" * 255, 1, 1, False, "e" * 255, "r" * 255, b"h" * 500, b"b" * size),
            detail="d" * 1024,
        )

    sizes = range(wire.LIMIT - 6000, wire.LIMIT + 10, 7)

    assert all(wire.is_large(run(size)) for size in sizes if len(wire.encode_run(run(size))) > wire.LIMIT)
    assert not wire.is_large(run(wire.LIMIT - 6000))
