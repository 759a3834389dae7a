"""What the parent decides from headers alone."""

from __future__ import annotations

import pytest

from amqptasks.worker.admission import PLAIN, admit
from amqptasks.worker.outcome import Cause, TaskOptions

NOW = 1_700_000_000.0
OPTIONS = TaskOptions("proj.add")
LIMITED = TaskOptions("proj.add", time_limit=30.0, soft_time_limit=20.0)


def iso(offset: float, zone: str = "+00:00") -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(NOW + offset, UTC).replace(tzinfo=None).isoformat() + zone


@pytest.mark.parametrize("limits", [None, [None, None]])
def test_a_message_without_conditions_runs(limits):
    assert admit({"task": "proj.add", "id": "1", "timelimit": limits}, OPTIONS, NOW) is PLAIN


def test_an_expired_message_is_not_run():
    assert admit({"expires": iso(-1)}, OPTIONS, NOW).cause is Cause.EXPIRED


def test_expires_without_a_zone_is_utc():
    assert admit({"expires": iso(-1, zone="")}, OPTIONS, NOW).cause is Cause.EXPIRED
    assert admit({"expires": iso(+60, zone="")}, OPTIONS, NOW).cause is Cause.RUN


def test_the_last_second_before_an_eta_is_waited_for_here():
    admission = admit({"eta": iso(0.4)}, OPTIONS, NOW)

    assert admission.cause is Cause.RUN
    assert admission.wait == pytest.approx(0.4, abs=1e-3)


def test_an_eta_further_off_goes_to_the_ladder():
    admission = admit({"eta": iso(3600)}, OPTIONS, NOW)

    assert admission.cause is Cause.EARLY
    assert float(admission.detail) == pytest.approx(3600, abs=1e-3)


def test_an_eta_in_the_past_runs_at_once():
    assert admit({"eta": iso(-5)}, OPTIONS, NOW).wait == 0


def test_limits_of_the_call_win_over_those_of_the_task():
    admission = admit({"timelimit": [10, None]}, LIMITED, NOW)

    assert (admission.hard, admission.soft) == (10.0, 20.0)


@pytest.mark.parametrize("rubbish", [17, "soon", b"x", [1, 2, 3]])
def test_what_cannot_be_read_is_left_to_the_child(rubbish):
    assert admit({"eta": rubbish, "expires": rubbish, "timelimit": rubbish}, OPTIONS, NOW).cause is Cause.RUN
