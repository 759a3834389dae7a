"""Queues: which are known, which are asked for, and what is told of each."""

import time
from itertools import pairwise

import pytest

from amqptasks.amqp import QueueInfo
from amqptasks.monitor.depots import Depots, kind_of
from amqptasks.monitor.management import Told


def test_only_what_exists_is_asked_for_together() -> None:
    depots = Depots({"mail": "quorum"})
    first = depots.wanted(60.0)
    depots.found([QueueInfo("mail", 3, 0)])
    depots.lost("mail.dead")
    depots.lost("amqptasks.lost")

    assert first == ([], ["amqptasks.lost", "mail", "mail.dead"])
    assert depots.wanted(60.0) == (["mail"], [])
    assert depots.wanted(0.0) == (["mail"], ["amqptasks.lost", "mail.dead"])


def test_what_is_missing_is_looked_for_often_at_first_and_seldom_later(monkeypatch) -> None:
    """Most queues that are missing are those of a system that has just been started."""
    now = 1000.0
    monkeypatch.setattr("amqptasks.monitor.depots.time.monotonic", lambda: now)
    depots, looks = Depots({"mail": "quorum"}), []
    while now < 1300.0:
        if "mail" in depots.wanted(30.0)[1]:
            looks.append(now - 1000.0)
            depots.lost("mail")
        now += 1.0

    pauses = [after - before for before, after in pairwise(looks)]
    assert pauses[:3] == [5.0, 5.0, 5.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0
    assert len(looks) < 18, "the broker logs each look"

    depots.found([QueueInfo("mail", 0, 0)])
    depots.lost("mail")
    now += 5.0
    assert "mail" in depots.wanted(30.0)[1], "missing anew"


def test_what_somebody_tells_of_is_looked_for_sooner(monkeypatch) -> None:
    monkeypatch.setattr("amqptasks.monitor.depots.SOON", 0.0)
    depots = Depots({"mail": "quorum"})
    for name in ("mail", "mail.dead", "amqptasks.lost"):
        depots.lost(name)

    depots.learn(["mail", "chat"])

    assert depots.wanted(60.0) == ([], ["amqptasks.lost", "mail", "mail.dead", "chat", "chat.dead"])


def test_a_row_without_the_plugin() -> None:
    depots = Depots({"mail": "quorum", "soon": "classic"})
    depots.found([QueueInfo("mail", 3, 0), QueueInfo("mail.dead", 2, 0)])

    mail, soon = depots.rows(Told(), {}, internal=False)

    assert (mail.ready, mail.consumers, mail.dead_letters, mail.nobody_consumes, mail.exists) == (
        3,
        0,
        2,
        True,
        True,
    )
    assert (mail.unacked, mail.publish_rate, mail.oldest_age, mail.type) == (None, None, None, "quorum")
    assert (soon.ready, soon.nobody_consumes, soon.exists) == (None, False, False)
    assert depots.ready() == {"mail": 3.0}
    assert (depots.dead(), depots.dead("mail")) == (2, 2)


def test_a_row_with_the_plugin() -> None:
    depots = Depots({"mail": "quorum"})
    depots.found([QueueInfo("mail", 3, 1)])
    stats = {"publish_details": {"rate": 5.0}, "ack_details": {"rate": 4.0}}
    told = Told(
        True,
        "",
        {
            "mail": {"name": "mail", "type": "quorum", "messages_ready": 99, "messages_unacknowledged": 7,
                     "message_stats": stats, "memory": 1000, "head_message_timestamp": int(time.time()) - 10},
            "theirs": {"name": "theirs", "type": "classic", "messages_ready": 1, "consumers": 0},
            "amqptasks.delay.0.3": {"name": "amqptasks.delay.0.3", "messages_ready": 4, "consumers": 0},
            "theirs.dead": {"name": "theirs.dead", "messages_ready": 1},
        },
    )  # fmt: skip

    mail, theirs, dead, delay = depots.rows(told, {}, internal=True)

    assert (mail.ready, mail.unacked, mail.publish_rate, mail.deliver_rate, mail.ack_rate) == (
        3,
        7,
        5.0,
        0.0,
        4.0,
    )
    assert mail.oldest_age is not None and 9 <= mail.oldest_age < 60
    assert (theirs.name, theirs.nobody_consumes, theirs.type) == ("theirs", True, "classic")
    assert (dead.kind, delay.kind, delay.nobody_consumes) == ("dead", "internal", False)
    assert len(depots.rows(told, {}, internal=False)) == 2


def test_the_type_is_what_a_worker_says_where_the_app_does_not() -> None:
    depots = Depots({})
    consumed = {"chat": (("a@here",), {"name": "chat", "queue_arguments": {"x-queue-type": "classic"}})}
    depots.learn(consumed)
    depots.found([QueueInfo("chat", 0, 1)])

    (row,) = depots.rows(Told(), consumed, internal=False)

    assert (row.type, row.workers) == ("classic", ("a@here",))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mail", "task"),
        ("celery", "task"),
        ("amqptasks", "task"),
        ("amqptasks.dead", "dead"),
        ("mail.dead", "dead"),
        ("amqptasks.lost", "dead"),
        ("amqptasks.delay.2.5", "internal"),
        ("amqptasks.reply.1234", "internal"),
        ("w1@here.celery.pidbox", "internal"),
        ("0a-1.reply.celery.pidbox", "internal"),
        ("celeryev.1234", "internal"),
        ("celery_delayed_12", "internal"),
        ("d6b1e2f0-1111-4222-8333-444455556666", "internal"),
        ("amq.gen-x", "internal"),
    ],
)
def test_what_a_queue_is_for_is_seen_from_its_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_what_is_told_of_again_and_again_is_not_looked_for_each_time() -> None:
    depots = Depots({"mail": "quorum"})
    depots.lost("mail")
    depots.learn(["mail"])

    assert "mail" not in depots.wanted(60.0)[1]


def test_internal_queues_are_not_learned_as_task_queues() -> None:
    depots = Depots({})
    depots.learn(["mail.dead", "celeryev.1", "", "mail"])

    assert depots.task_queues == ("mail",)
