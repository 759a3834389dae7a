"""Signatures, chains and groups: what they are, what they send, what comes back."""

from __future__ import annotations

import json
import pickle
import uuid
from typing import Any

import pytest

from amqptasks import (
    App,
    GroupResult,
    Signature,
    chain,
    chord,
    group,
    maybe_signature,
    protocol,
    signature,
    subtask,
)
from amqptasks.canvas import StampingVisitor
from amqptasks.canvas.shaping import shaped
from amqptasks.errors import EncodeError, ImproperlyConfigured
from amqptasks.transport import codec
from amqptasks.worker.manifest import options_of
from tests.working import Work


def taken(app: App, queue: str = "amqptasks") -> protocol.TaskMessage:
    """Return the next message of a queue."""
    delivery = app.connection.get(queue)
    assert delivery is not None
    return protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)


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

    assert result.get(timeout=60) == 5


def test_signatures_come_back_from_dictionaries(app: App, add: Any) -> None:
    plain = json.loads(json.dumps(add.s(2, 2)))
    chained = json.loads(json.dumps(add.s(1, 1) | add.s(2)))

    assert signature(plain, app=app) == add.s(2, 2) or signature(plain, app=app)["args"] == [2, 2]
    assert isinstance(signature(chained, app=app), chain)
    assert maybe_signature(None) is None
    assert subtask(dict(add.s(1))) == add.s(1)
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
    assert result.get(timeout=60) == 112
    assert result.parent.get(timeout=60) == 12
    assert result.parent.parent.get(timeout=60) == 2


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
        result.get(timeout=60)


def test_link_goes_to_the_last_and_link_error_to_every_step(app: App, add: Any) -> None:
    run = shaped(chain(add.s(1), add.s(2)).clone(link=add.s(9), link_error=[add.si(0)]))

    assert [step.options.get("link") for step in run.tasks] == [None, [add.s(9)]]
    assert [step.options.get("link_error") for step in run.tasks] == [[add.si(0)]] * 2


def test_a_chain_of_one_is_its_task_and_an_empty_one_nothing(app: App, add: Any, work: Work) -> None:
    result = chain(add.s(1, 1)).apply_async()
    work()

    assert result is not None
    assert result.get(timeout=60) == 2
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

    assert result.get(timeout=60) == [2 * number for number in range(30)]


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

    assert result.get(timeout=60) == [11, 12]


def test_a_group_takes_no_link(add: Any) -> None:
    with pytest.raises(TypeError, match="no link"):
        group(add.s(1)).apply_async(link=add.s(2))


def test_an_empty_group_answers_an_empty_list(app: App) -> None:
    assert group(app=app).apply_async().get(timeout=60) == []


def test_chunks_run_many_calls_in_few_messages(app: App, add: Any, work: Work) -> None:
    result = add.chunks(((number, number) for number in range(25)), 10)()
    ran = work()

    assert ran == 3
    assert [value for part in result.get(timeout=60) for value in part] == [
        2 * number for number in range(25)
    ]


def test_map_and_starmap_are_one_call(app: App, add: Any, work: Work) -> None:
    mapped, starmapped = add.map([1, 2]).delay(), add.starmap([(1, 1), (2, 2)]).delay()
    work(2)

    assert mapped.get(timeout=60) == [1, 2]
    assert starmapped.get(timeout=60) == [2, 4]


def test_the_built_in_tasks_are_registered(app: App) -> None:
    assert {"celery.backend_cleanup", "celery.accumulate", "celery.map", "celery.starmap"} <= set(app.tasks)
    assert app.tasks["celery.accumulate"](1, 2, index=1) == 2
    assert app.tasks.regular() == {}


BUILT_IN = {
    *(f"amqptasks.{name}" for name in (
        "accumulate", "backend_cleanup", "chain", "chord", "chord_expired", "chord_late", "chord_part", "chord_unlock", "chunks",
        "gave_up", "group", "late_result", "map", "starmap",
    )),
    *(f"celery.{name}" for name in ("accumulate", "backend_cleanup", "chain", "chord", "chunks", "group", "map", "starmap")),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "chord_unlock",
        "chord_part",
        "chord_late",
        "chord_expired",
        "gave_up",
        "late_result",
        "chain",
        "group",
        "chord",
    ],
)
def test_what_carries_a_workflow_on_goes_on_after_a_crash_and_never_gives_up(app: App, name: str) -> None:
    """Acknowledged before it is done, a join whose child is killed would leave its chord waiting for ever."""
    app.conf.update(task_default_rate_limit="1/h", task_time_limit=1, task_soft_time_limit=1)
    app.conf.task_retry_on_worker_lost = True
    task = app.tasks[f"amqptasks.{name}"]
    options = options_of(task, app.conf)

    assert (options.acks_late, options.reject_on_worker_lost, options.ignore_result) == (True, True, True)
    assert (task.max_retries, options.rate_limit, options.retry_on_worker_lost) == (None, 0.0, False)
    assert options.time_limit is options.soft_time_limit is None, "limits are for users' tasks"


def test_app_tasks_lists_the_built_in_tasks(app: App) -> None:
    assert set(app.tasks) == BUILT_IN


def test_groups_in_a_group_are_its_members(app: App, add: Any, work: Work) -> None:
    result = group(add.s(1), group(add.s(2), group(add.s(3)))).apply_async()
    work.all()

    assert result.get(timeout=60) == [1, 2, 3]
    assert len(result) == 3


def test_the_only_member_s_group_is_the_result(app: App, add: Any, work: Work) -> None:
    """Celery's special case."""
    result = group(add.s(1) | group(add.s(1), add.s(2))).apply_async()
    work.all()

    assert result.get(timeout=60) == [2, 3]


def test_a_group_is_skewed(add: Any) -> None:
    skewed = group(add.s(n) for n in range(4)).skew(start=1, stop=3, step=1)

    assert [member.options["countdown"] for member in skewed] == [1, 2, 3, 3]


def test_options_of_a_group_are_its_members(app: App, add: Any) -> None:
    group(add.s(1), add.s(2)).apply_async(queue="q", priority=3)

    assert [taken(app, "q").priority for _ in range(2)] == [3, 3]


def test_options_of_a_chain_are_its_first_step_s(app: App, add: Any) -> None:
    chain(add.s(1), add.s(2)).apply_async(queue="q")

    assert "queue" not in (taken(app, "q").chain or ())[0]["options"]


def test_partial_arguments_of_a_chain_go_to_the_first_step(app: App, add: Any, work: Work) -> None:
    result = chain(add.s(1), add.s(10)).apply_async((100,))
    work.all()

    assert result is not None
    assert result.get(timeout=60) == 111


def test_map_goes_where_its_task_goes(app: App, add: Any) -> None:
    app.conf.task_routes = {"proj.add": {"queue": "adders"}}

    add.map([1, 2]).delay()

    assert taken(app, "adders").task == "celery.map"


# --- frozen -----------------------------------------------------------------------------------------------------


def test_freezing_gives_the_results_that_a_call_will_have(app: App, add: Any, total: Any, work: Work) -> None:
    sig = add.s(1) | group(add.s(2), add.s(3)) | total.s()
    frozen = sig.freeze()

    called = sig.apply_async()
    work.all()

    assert (called.id, called.parent.id) == (frozen.id, frozen.parent.id)
    assert [each.id for each in called.parent] == [each.id for each in frozen.parent]
    assert called.parent.parent.id == frozen.parent.parent.id
    assert called.get(timeout=60) == 7


def test_a_frozen_canvas_survives_json_and_keeps_its_ids(app: App, add: Any, total: Any) -> None:
    sig = chord([add.s(1), add.s(2)], total.s() | add.s(1))
    result = sig.freeze()

    again = signature(json.loads(json.dumps(sig)), app=app).freeze()

    assert again.id == result.id
    assert again.parent.parent.id == result.parent.parent.id
    assert isinstance(again.parent.parent, GroupResult)


def test_a_whole_canvas_has_one_root(app: App, add: Any, total: Any, work: Work) -> None:
    (add.s(1) | group(add.s(2), add.s(3) | add.s(1)) | total.s() | add.s(1)).apply_async()
    work.all()

    ids = [codec.decode_header(one.header).headers for one in work.deliveries if one.queue == "amqptasks"]
    assert len({each["root_id"] for each in ids if each}) == 1


def test_signatures_with_keys_of_bytes_are_read(app: App, add: Any) -> None:
    stored = {b"task": "proj.add", b"args": [1], b"kwargs": {b"y": 2}, b"options": {}, b"subtask_type": None,
              b"immutable": False}  # fmt: skip

    sig = signature(stored, app=app)

    assert (sig.task, sig.args, sig.kwargs) == ("proj.add", [1], {"y": 2})


def test_canvases_are_pickled(app: App, add: Any, total: Any) -> None:
    for sig in (add.s(1) | add.s(2), group(add.s(1), add.s(2)), chord([add.s(1)], total.s())):
        again = pickle.loads(pickle.dumps(sig))
        assert again == sig
        assert type(again) is type(sig)


def test_links_are_flattened(add: Any) -> None:
    first = add.s(1)
    first.link(add.s(2)).link(add.s(3))

    assert [sig.args for sig in first.flatten_links()] == [(1,), (2,), (3,)]


def test_an_option_that_a_signature_may_not_lose_stays(add: Any) -> None:
    sig = add.s(1).set(group_id="g", stamped_headers=["a"], a=1)

    assert sig.clone(group_id="h", a=2, queue="q").options == {
        "group_id": "g", "stamped_headers": ["a"], "a": 1, "queue": "q",
    }  # fmt: skip


# --- in place ---------------------------------------------------------------------------------------------------


def test_canvases_run_in_place(app: App, add: Any, total: Any) -> None:
    app.conf.task_always_eager = True

    assert (group(add.s(n, n) for n in range(10)) | total.s() | add.s(1)).delay().get() == 91
    assert (add.s(1) | group(add.s(1), add.s(2))).delay().get() == [2, 3]
    assert chord([], total.s())().get() == 0
    with pytest.raises(EncodeError):
        chain(add.si(1), add.si(object())).delay()


# --- replacing --------------------------------------------------------------------------------------------------


def replacing(app: App, make: Any) -> Any:
    @app.task(name=f"proj.replaces{uuid.uuid4()}", bind=True)
    def replaces(self: Any, value: int) -> Any:
        return self.replace(make(value))

    return replaces


def test_a_task_is_replaced_under_its_own_id(app: App, add: Any, work: Work) -> None:
    task = replacing(app, lambda value: add.s(value, 1) | add.s(10))

    result = (task.s(1) | add.s(100)).apply_async()
    work.all()

    assert result.get(timeout=60) == 112
    assert result.parent.get(timeout=60) == 12


def test_a_group_replaces_a_task_by_the_list_of_its_values(
    app: App, add: Any, total: Any, work: Work
) -> None:
    task = replacing(app, lambda value: group(add.s(value), add.s(value, 1)))

    result, alone = (task.s(1) | total.s()).apply_async(), task.delay(5)
    work.all()

    assert result.get(timeout=60) == 3
    assert alone.get(timeout=60) == [5, 6]


def test_a_member_of_a_chord_is_replaced(app: App, add: Any, total: Any, work: Work) -> None:
    task = replacing(app, lambda value: chord([add.s(value), add.s(value)], total.s()))

    result = chord([task.s(1), add.s(5)], total.s()).apply_async()
    work.all()

    assert result.get(timeout=60) == 7


def test_callbacks_errbacks_and_stamps_go_to_the_replacement(app: App, add: Any, work: Work) -> None:
    seen: list[Any] = []

    @app.task(name="proj.notes", bind=True)
    def notes(self: Any, value: Any) -> int:
        seen.append((value, dict(self.request.stamps)))
        return 0

    task = replacing(app, notes.s)
    sig = task.s(7)
    sig.link(notes.s())
    sig.stamp(tenant="t")
    sig.apply_async()
    work.all()

    assert seen == [(7, {"tenant": "t"}), (0, {"tenant": "t"})]


def test_a_replacement_leaves_with_the_outcome_of_what_it_replaces(app: App, add: Any, work: Work) -> None:
    """So a crash loses neither, and doubles neither."""
    task = replacing(app, lambda value: group(add.s(value), add.s(value)))
    task.delay(1)

    work(1)

    (outcome,) = work.outcomes
    assert [parcel.routing_key for parcel in outcome.publish] == ["amqptasks"] * 2
    assert outcome.state == "IGNORED"


def test_an_empty_chain_replaces_nothing(app: App, work: Work) -> None:
    result = replacing(app, lambda value: chain()).delay(1)
    work.all()

    with pytest.raises(ImproperlyConfigured, match="empty chain"):
        result.get(timeout=60)


def test_replacing_in_place(app: App, add: Any) -> None:
    app.conf.task_always_eager = True

    assert replacing(app, lambda value: add.s(value, 1)).delay(1).get() == 2


# --- stamping ---------------------------------------------------------------------------------------------------


class Tenant(StampingVisitor):
    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        return {"tenant": "t1", "task": sig.task, "stamped_headers": ["tenant"]}

    def on_chord_body(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        return {"body": True}

    def on_callback(self, callback: Signature, **headers: Any) -> dict[str, Any]:
        return {"callback": True}


def test_stamps_travel_with_every_message(app: App, add: Any, total: Any, work: Work) -> None:
    sig = add.s(1) | group(add.s(2), add.s(3)) | total.s()
    sig.stamp(monitoring="m1")
    sig.apply_async()
    work.all()

    headers = [codec.decode_header(one.header).headers for one in work.deliveries if one.queue == "amqptasks"]
    assert [each["stamps"] for each in headers if each] == [{"monitoring": "m1"}] * 4


def test_a_visitor_stamps_each_part_by_its_kind(add: Any, total: Any) -> None:
    member, body = add.s(1), total.s()
    body.link(add.s(9))
    sig = chord([member], body)
    sig.stamp(Tenant())

    stamped = sig.tasks[0].options
    assert stamped["stamped_headers"] == ["tenant"]
    assert stamped["tenant"] == "t1"
    assert set(sig.body.options["stamped_headers"]) == {"tenant", "body"}
    assert sig.body.options["link"][0].options["callback"] is True


def test_stamping_twice_replaces_or_appends(add: Any) -> None:
    replaced, appended = add.s(1), add.s(1)
    for value in ("a", "b"):
        replaced.stamp(key=value)
        appended.stamp(append_stamps=True, key=value)

    assert replaced.options["key"] == "b"
    assert appended.options["key"] == ["b", "a"]


def test_stamps_survive_a_retry(app: App, work: Work) -> None:
    @app.task(name="proj.again", bind=True, default_retry_delay=0.0)
    def again(self: Any) -> list[Any]:
        if not self.request.retries:
            raise self.retry()
        return [self.request.stamped_headers, dict(self.request.stamps)]

    sig = again.s()
    sig.stamp(key=1)
    result = sig.delay()
    work(2)

    assert result.get(timeout=60) == [["key"], {"key": 1}]


def plain(x: int) -> int:
    return x


@pytest.mark.parametrize("kind", [chain, group, chord])
@pytest.mark.parametrize("wrong", [1, None, plain])
def test_what_is_no_call_is_no_member(add: Any, kind: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"is no signature, task or name of a task; write task\.s\(\.\.\.\)"):
        kind([add.s(1, 1), wrong])


@pytest.mark.parametrize("method", ["link", "link_error", "on_error"])
def test_what_is_no_call_cannot_be_linked(add: Any, method: str) -> None:
    with pytest.raises(TypeError, match=r"5 is no signature .*task\.s\(\.\.\.\)"):
        getattr(add.s(1, 1), method)(5)
    with pytest.raises(TypeError, match=r"is no signature .*task\.s\(\.\.\.\)"):
        getattr(add.s(1, 1), method)(add)
