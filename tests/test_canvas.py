"""Signatures, chains and groups: what they are, what they send, what comes back."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from amqptasks import App, Signature, chain, chord, group, maybe_signature, protocol, signature
from amqptasks.transport import codec
from tests.working import Work


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    return add


# --- signatures ----------------------------------------------------------------------------------------------


def test_a_signature_is_a_dictionary_of_celery_s_shape(add: Any) -> None:
    assert json.loads(json.dumps(add.s(2, y=2).set(countdown=3))) == {
        "task": "proj.add",
        "args": [2],
        "kwargs": {"y": 2},
        "options": {"countdown": 3},
        "subtask_type": None,
        "immutable": False,
    }


def test_reprs_read_like_calls(add: Any) -> None:
    assert repr(add.s(2, 2)) == "proj.add(2, 2)"
    assert repr(add.s(2, y="a")) == "proj.add(2, y='a')"
    assert repr(add.s(1, 2) | add.s(3)) == "proj.add(1, 2) | proj.add(3)"
    assert repr(group(add.s(1), add.s(2))) == "group(proj.add(1), proj.add(2))"


def test_further_arguments_come_before_those_it_has(add: Any) -> None:
    merged = add.s(2, y=1).clone((1,), {"y": 5}, countdown=3)

    assert (tuple(merged.args), merged.kwargs, merged.options) == ((1, 2), {"y": 5}, {"countdown": 3})


def test_an_immutable_signature_takes_options_and_no_arguments(add: Any) -> None:
    merged = add.si(2, 2).clone((1,), {"y": 5}, countdown=3)

    assert (tuple(merged.args), merged.kwargs, merged.options) == ((2, 2), {}, {"countdown": 3})


def test_a_clone_does_not_share_its_options(add: Any) -> None:
    first = add.s(1)
    first.link(add.s(2))
    second = first.clone()
    second.link(add.s(3))
    second.set(queue="q")

    assert len(first.options["link"]) == 1
    assert "queue" not in first.options


def test_linking_the_same_twice_links_it_once(add: Any) -> None:
    first = add.s(1)
    first.link(add.s(2))
    first.link(add.s(2))

    assert first.options["link"] == [add.s(2)]
    assert first.on_error(add.s(3)) is first


def test_a_signature_runs_here_when_it_is_called(add: Any) -> None:
    assert add.s(2, 2)() == 4
    assert add.s(2)(1) == 3


def test_a_signature_sends_and_tilde_waits(app: App, add: Any, work: Work) -> None:
    result = add.s(2).delay(3)
    work(1)

    assert result.get(timeout=5) == 5


def test_signatures_come_back_from_dictionaries(app: App, add: Any) -> None:
    plain = json.loads(json.dumps(add.s(2, 2)))
    chained = json.loads(json.dumps(add.s(1, 1) | add.s(2)))

    assert signature(plain, app=app) == add.s(2, 2) or signature(plain, app=app)["args"] == [2, 2]
    assert isinstance(signature(chained, app=app), chain)
    assert maybe_signature(None) is None
    assert pickle.loads(pickle.dumps(add.s(2, 2))) == add.s(2, 2)


def test_a_signature_by_name_needs_no_registered_task(app: App) -> None:
    result = app.signature("elsewhere.task", (1,), {"a": 2}, queue="q").apply_async()
    delivery = app.connection.get("q")
    assert delivery is not None
    message = protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)

    assert (message.id, message.task, list(message.args), message.kwargs) == (
        result.id, "elsewhere.task", [1], {"a": 2},
    )  # fmt: skip


def test_a_celery_signature_with_stamps_is_sent_with_its_stamps(app: App, add: Any) -> None:
    stored = {**add.s(1), "options": {"stamped_headers": ["tenant"], "tenant": "t1", "producer": None}}

    signature(stored, app=app).apply_async()
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    message = protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)

    assert (list(message.stamped_headers or ()), dict(message.stamps)) == (["tenant"], {"tenant": "t1"})


# --- chains --------------------------------------------------------------------------------------------------


def test_a_chain_gives_each_value_to_the_next(app: App, add: Any, work: Work) -> None:
    result = (add.s(1, 1) | add.s(10) | add.s(100)).apply_async()
    ran = work()

    assert ran == 3
    assert result.get(timeout=5) == 112
    assert result.parent.get(timeout=5) == 12
    assert result.parent.parent.get(timeout=5) == 2


def test_the_rest_of_a_chain_travels_reversed_with_ids(app: App, add: Any) -> None:
    result = chain(add.s(1), add.s(2), add.s(3))()
    assert result is not None

    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    message = protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)
    rest = message.chain or ()

    assert [step["args"] for step in rest] == [[3], [2]]
    assert rest[0]["options"]["task_id"] == result.id
    assert rest[0]["options"]["reply_to"] == message.reply_to
    assert rest[0]["options"]["root_id"] == message.id == message.root_id


def test_a_failure_ends_the_chain_and_tells_the_last(app: App, add: Any, work: Work) -> None:
    result = (add.s(1, "1") | add.s(10) | add.s(100)).apply_async()
    ran = work()

    assert ran == 1
    with pytest.raises(TypeError):
        result.get(timeout=5)


def test_link_goes_to_the_last_and_link_error_to_every_step(app: App, add: Any) -> None:
    steps, _ = chain(add.s(1), add.s(2)).prepared({"link": add.s(9), "link_error": [add.si(0)]})

    assert [step.options.get("link") for step in steps] == [None, [add.s(9)]]
    assert [step.options.get("link_error") for step in steps] == [[add.si(0)]] * 2


def test_a_chain_of_one_is_its_task_and_an_empty_one_nothing(app: App, add: Any, work: Work) -> None:
    result = chain(add.s(1, 1)).apply_async()
    work()

    assert result is not None
    assert result.get(timeout=5) == 2
    assert not chain()
    assert chain()() is None


def test_a_chain_s_task_id_is_its_last_step_s(app: App, add: Any) -> None:
    result = chain(add.s(1), add.s(2)).apply_async(task_id="mine")

    assert result is not None
    assert result.id == "mine"
    assert result.parent is not None
    assert result.parent.id != "mine"


def test_a_chain_sent_twice_gets_new_ids(add: Any) -> None:
    work = chain(add.s(1), add.s(2))

    first, second = work.apply_async(), work.apply_async()

    assert first is not None
    assert first != second


def test_chains_join_flat(add: Any) -> None:
    joined = (add.s(1) | add.s(2)) | (add.s(3) | add.s(4))

    assert [step.args for step in joined.tasks] == [(1,), (2,), (3,), (4,)]
    assert isinstance(joined, Signature)


# --- groups --------------------------------------------------------------------------------------------------


def test_a_group_runs_side_by_side_and_answers_in_order(app: App, add: Any, work: Work) -> None:
    result = group(add.s(number, number) for number in range(30))()
    work()

    assert result.get(timeout=5) == [2 * number for number in range(30)]


def test_members_carry_group_and_index(app: App, add: Any) -> None:
    result = group(add.s(1), add.s(2)).apply_async()

    messages = []
    for _ in range(2):
        delivery = app.connection.get("amqptasks")
        assert delivery is not None
        envelope = codec.unpack(delivery)
        messages.append(protocol.decode(envelope, accept=frozenset({"application/json"}), limit=1 << 20))

    assert [(message.group, message.group_index) for message in messages] == [(result.id, 0), (result.id, 1)]
    assert [message.id for message in messages] == [member.id for member in result]


def test_a_group_s_partial_arguments_go_to_every_member(app: App, add: Any, work: Work) -> None:
    result = group(add.s(1), add.s(2)).apply_async((10,))
    work()

    assert result.get(timeout=5) == [11, 12]


def test_a_group_takes_no_link(add: Any) -> None:
    with pytest.raises(TypeError, match="no link"):
        group(add.s(1)).apply_async(link=add.s(2))


def test_an_empty_group_answers_an_empty_list(app: App) -> None:
    assert group(app=app).apply_async().get(timeout=1) == []


def test_chunks_run_many_calls_in_few_messages(app: App, add: Any, work: Work) -> None:
    result = add.chunks(((number, number) for number in range(25)), 10)()
    ran = work()

    assert ran == 3
    assert [value for part in result.get(timeout=5) for value in part] == [2 * number for number in range(25)]


def test_map_and_starmap_are_one_call(app: App, add: Any, work: Work) -> None:
    mapped, starmapped = add.map([1, 2]).delay(), add.starmap([(1, 1), (2, 2)]).delay()
    work(2)

    assert mapped.get(timeout=5) == [1, 2]
    assert starmapped.get(timeout=5) == [2, 4]


def test_the_built_in_tasks_are_registered(app: App) -> None:
    assert {"celery.backend_cleanup", "celery.accumulate", "celery.map", "celery.starmap"} <= set(app.tasks)
    assert app.tasks["celery.accumulate"](1, 2, index=1) == 2
    assert app.tasks.regular() == {}


@pytest.mark.parametrize("make", [
    lambda add: group(add.s(1), group(add.s(2))),
    lambda add: chain(add.s(1), group(add.s(2))),
    lambda add: chord([add.s(1)], add.s(2)),
])  # fmt: skip
def test_what_is_not_there_yet_says_so(add: Any, make: Any) -> None:
    with pytest.raises(NotImplementedError, match="not supported by this version"):
        make(add)
