"""Queues as values, where calls go, what is declared for it, and what other tools are told."""

from __future__ import annotations

import json
import pickle
import re
import sys
import threading
from types import ModuleType
from typing import Any

import kombu
import pytest
from celery import Celery

from amqptasks import amqp
from amqptasks.amqp import Address, Binding, Exchange
from amqptasks.config import Config
from amqptasks.entities import celery_task_queues, dead_letters, export, identity, policies
from amqptasks.errors import ImproperlyConfigured, Unroutable
from amqptasks.routing import Queue, Router


def router(**settings: Any) -> Router:
    return Router(Config(settings, environ={}))


def target(made: Router, name: str = "proj.add", **options: Any) -> tuple[str | None, str, str]:
    route = made.route(name, (2, 2), {}, options)
    return route.queue and route.queue.name, route.address.exchange, route.address.routing_key


def queue_of(made: Router, name: str) -> amqp.Queue:
    return next(one for one in made.topology(name) if isinstance(one, amqp.Queue) and one.name == name)


# --- where a call goes ---


def test_a_task_without_a_route_goes_to_the_default_queue() -> None:
    assert target(router()) == ("amqptasks", "amqptasks", "amqptasks")


def test_the_defaults_have_settings() -> None:
    made = router(task_default_queue="q", task_default_exchange="e", task_default_routing_key="k")

    assert target(made) == ("q", "e", "k")
    assert target(router(task_default_queue="q", task_default_exchange=None)) == ("q", "q", "q")


def test_a_queue_that_nobody_declared_is_made_up() -> None:
    made = router()

    assert target(made, queue="lopri") == ("lopri", "amqptasks", "lopri")
    assert queue_of(made, "lopri").arguments["x-queue-type"] == "quorum"
    assert [one.name for one in made.select()] == ["amqptasks"]


def test_a_queue_is_made_up_as_the_settings_say() -> None:
    made = router(task_create_missing_queue_type="classic", task_create_missing_queue_exchange_type="topic")

    assert target(made, queue="lopri") == ("lopri", "lopri", "lopri")
    assert made.queue("lopri").exchange == Exchange("lopri", "topic")
    assert queue_of(made, "lopri").arguments["x-queue-type"] == "classic"


def test_without_making_up_the_call_fails_and_names_the_nearest() -> None:
    made = router(task_queues=["amqptasks", "lopri"], task_create_missing_queues=False)

    assert target(made, queue="lopri")[0] == "lopri"
    with pytest.raises(
        Unroutable, match=r"no queue 'lopr' in task_queues \(did you mean 'lopri'\?\); add it"
    ):
        made.route("proj.add", options={"queue": "lopr"})
    assert made.near("lopr") == "lopri"
    assert made.near("zzz") is None
    assert made.passive


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"queue": "video"}, ("video", "media", "video.#")),
        ({"queue": "video", "routing_key": "video.mp4"}, (None, "media", "video.mp4")),
        ({"exchange": "media", "routing_key": "video.mp4"}, (None, "media", "video.mp4")),
        ({"exchange": Exchange("media", "topic"), "routing_key": "x"}, (None, "media", "x")),
        ({"exchange": "elsewhere"}, (None, "elsewhere", "")),
        ({"exchange": "", "routing_key": "short"}, (None, "", "short")),
        ({"routing_key": "short"}, ("short", "amqptasks", "short")),
        ({"routing_key": "nobody"}, (None, "amqptasks", "nobody")),
        ({"queue": "short", "exchange": None, "routing_key": None}, ("short", "amqptasks", "short")),
        ({"queue": Queue("new", "media", "new")}, ("new", "media", "new")),
    ],
)
def test_the_calls_own_options_say_where(
    options: dict[str, Any], expected: tuple[str | None, str, str]
) -> None:
    made = router(task_queues=[Queue("video", Exchange("media", "topic"), "video.#"), "short"])

    assert target(made, **options) == expected


def test_other_options_pass_through() -> None:
    made = router(task_routes={"proj.add": {"queue": "q", "priority": 3, "serializer": "yaml"}})

    route = made.route("proj.add", (), {}, {"priority": 9, "countdown": None, "expires": 5})

    assert route.options == {"priority": 9, "serializer": "yaml", "expires": 5}


def test_a_headers_exchange_is_given_what_its_queue_matches() -> None:
    headers = {"x-match": "all", "kind": "long"}
    made = router(task_queues=[Queue("h", Exchange("sorter", "headers"), "", binding_arguments=headers)])

    route = made.route("proj.add", (), {}, {"queue": "h", "headers": {"mine": 1}})

    assert route.address == Address("sorter", "")
    assert route.options["headers"] == {"kind": "long", "mine": 1}


# --- task_routes ---


@pytest.mark.parametrize(
    "routes",
    [
        {"feed.tasks.import_feed": {"queue": "feeds"}},
        {"feed.tasks.import_feed": "feeds"},
        {"feed.tasks.*": "feeds"},
        {"feed.*.import_????": "feeds"},
        {re.compile(r"(feed|rss)\.tasks\..*"): {"queue": "feeds"}},
        [("other", "x"), ("feed.tasks.*", {"queue": "feeds"})] and ([("feed.tasks.*", {"queue": "feeds"})],),
        [("feed.tasks.*", {"queue": "feeds"}), ("web.*", {"queue": "web"})],
        [{"web.*": "web"}, {"feed.*": "feeds"}],
        lambda name, args, kwargs, options, task=None, **kw: {"queue": "feeds"} if "feed" in name else None,
        lambda name, args, kwargs, options, task=None, **kw: "feeds",
        [lambda *a, **k: None, {"feed.*": Queue("feeds")}],
        "router_of_a_test.route",
        ["router_of_a_test:route"],
        ("router_of_a_test.nothing", "router_of_a_test.route"),
        "router_of_a_test.Old",
    ],
    ids=lambda routes: re.sub(
        " at 0x[0-9a-f]+", "", repr(routes)
    ),  # the same in every process that runs the suite
)
def test_every_form_of_task_routes_answers(routes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> dict[str, Any]:
            return {"queue": "feeds"}

    module = ModuleType("router_of_a_test")
    module.route = lambda name, args, kwargs, options, task=None: {"queue": "feeds"}  # type: ignore[attr-defined]
    module.nothing = lambda *args, **kwargs: None  # type: ignore[attr-defined]
    module.Old = Old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    made = router(task_routes=routes)

    assert target(made, "feed.tasks.import_feed") == ("feeds", "amqptasks", "feeds")


def test_the_exact_name_wins_then_the_first_pattern() -> None:
    made = router(task_routes={"a.*": "first", "a.b*": "second", "a.bc": "exact"})

    assert [target(made, name)[0] for name in ("a.x", "a.bb", "a.bc", "b")] == [
        "first",
        "first",
        "exact",
        "amqptasks",
    ]


def test_a_function_sees_the_call() -> None:
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **rest: Any) -> None:
        seen.append((name, args, kwargs, options, task))

    router(task_routes=route).route("proj.add", (1,), {"x": 2}, {"priority": 3}, "the task")

    assert seen == [("proj.add", (1,), {"x": 2}, {"priority": 3}, "the task")]


def test_the_calls_target_leaves_nothing_of_the_routes() -> None:
    made = router(task_routes={"*": {"queue": "routed", "routing_key": "k", "priority": 3}})

    route = made.route("proj.add", (), {}, {"queue": "own"})

    assert (route.address, route.options) == (Address("amqptasks", "own"), {"priority": 3})
    assert target(made) == (None, "amqptasks", "k")


@pytest.mark.parametrize(
    ("routes", "sentence"),
    [
        (7, "task_routes cannot hold 7"),
        ({"a": 7}, "task_routes['a'] is 7; it must be a queue's name"),
        (lambda *a, **k: 7, "it must be a queue's name, a dict of options, or None"),
        ("no_such_module.route", "task_routes names 'no_such_module.route', which cannot be imported"),
        ("feeds", "task_routes names 'feeds', which cannot be imported"),
    ],
)
def test_a_wrong_route_is_a_sentence(routes: Any, sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        router(task_routes=routes).route("proj.add")

    assert sentence in str(caught.value)


# --- queues as values ---


def test_a_task_queue_is_quorum_and_loses_nothing() -> None:
    assert queue_of(router(), "amqptasks") == amqp.Queue(
        "amqptasks",
        arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "amqptasks.dead",
            "x-dead-letter-routing-key": "amqptasks",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": 100,
        },
    )


def test_a_priority_makes_a_queue_classic() -> None:
    made = router(task_queues=[Queue("p", priority=10), Queue("k", queue_arguments={"x-max-priority": 5})])

    arguments = queue_of(made, "p").arguments

    assert (arguments["x-queue-type"], arguments["x-max-priority"]) == ("classic", 10)
    assert not {"x-delivery-limit", "x-dead-letter-strategy"} & set(
        arguments
    )  # the broker refuses them there
    assert queue_of(made, "k").arguments["x-max-priority"] == 5


def test_a_priority_for_all_spares_what_is_quorum_by_declaration() -> None:
    made = router(task_queue_max_priority=7, task_queues=[Queue("a"), Queue("b", type="quorum")])

    assert queue_of(made, "a").arguments["x-max-priority"] == 7
    assert queue_of(made, "b").arguments["x-queue-type"] == "quorum"
    assert "x-max-priority" not in queue_of(made, "b").arguments


def test_minimal_arguments_declare_the_type_alone() -> None:
    made = router(
        queue_arguments="minimal", task_queues=[Queue("a"), Queue("b", arguments={"x-max-length": 5})]
    )

    assert queue_of(made, "a").arguments == {"x-queue-type": "quorum"}
    assert queue_of(made, "b").arguments == {"x-queue-type": "quorum", "x-max-length": 5}


def test_own_arguments_win_and_none_removes() -> None:
    own = {"x-overflow": "drop-head", "x-delivery-limit": None, "x-queue-type": "quorum"}
    arguments = queue_of(router(task_queues=[Queue("q", arguments=own)]), "q").arguments

    assert arguments["x-overflow"] == "drop-head"
    assert "x-delivery-limit" not in arguments
    assert "x-dead-letter-strategy" not in arguments  # granted only with reject-publish


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Queue("q", type="quorum", priority=5), "RabbitMQ gives priorities to classic queues only"),
        (lambda: Queue("q", type="quorum", durable=False), "another kind needs type='classic'"),
        (lambda: Queue("q", type="stream"), "type is 'quorum' or 'classic', not 'stream'"),  # type: ignore[arg-type]
        (
            lambda: Queue("q", type="quorum", arguments={"x-queue-type": "classic"}),
            "contradicts x-queue-type='classic'",
        ),
        (lambda: Queue("q", priority=256), "priority is 1 to 255"),
        (lambda: Queue(""), "a queue needs a name"),
        (lambda: Queue("q" * 251), "is too long"),
        (lambda: Queue("amq.q"), "must not begin with 'amq.'"),
        (lambda: Queue("q", bindings=["e"]), "a binding is (exchange, routing key), not 'e'"),
        (lambda: router(task_queues=[7]), "7 is no queue"),
        (
            lambda: router(task_queues={"q": {"exchage": "e"}}),
            "unknown option 'exchage'; did you mean 'exchange'",
        ),
        (
            lambda: router(
                task_queues=[Queue("a", Exchange("e", "topic")), Queue("b", Exchange("e", "fanout"))]
            ),
            "exchange 'e' is declared twice, as topic and fanout",
        ),
    ],
)
def test_a_queue_that_no_broker_would_accept_is_refused_here(make: Any, sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make()

    assert sentence in str(caught.value)


def test_a_queue_is_a_value() -> None:
    queue = Queue("q", "e", "k", priority=3, queue_arguments={"x-max-length": 5})

    assert pickle.loads(pickle.dumps(queue)) == queue
    assert queue == Queue("q", "e", "k", max_priority=3, arguments={"x-max-length": 5})
    assert len({queue, Queue("q", "e", "k", priority=3, max_length=5)}) == 1
    with pytest.raises(AttributeError):
        queue.name = "other"  # type: ignore[misc]


def test_durations_are_seconds() -> None:
    queue = Queue("q", expires=60, message_ttl=1.5, max_length=10)

    assert queue.arguments == {"x-expires": 60000, "x-message-ttl": 1500, "x-max-length": 10}


EXPECTED = ("long", Exchange("media", "topic"), "long.#", 5)


@pytest.mark.parametrize(
    "queues",
    [
        [Queue("long", Exchange("media", "topic"), "long.#", priority=5)],
        [Queue("long", "media", "long.#", exchange_type="topic", priority=5)],
        {"long": {"exchange": "media", "exchange_type": "topic", "routing_key": "long.#", "priority": 5}},
        {"long": {"exchange": "media", "exchange_type": "topic", "binding_key": "long.#", "max_priority": 5}},
        {"long": Queue("long", Exchange("media", "topic"), "long.#", priority=5)},
        [kombu.Queue("long", kombu.Exchange("media", "topic"), "long.#", max_priority=5)],
        (
            kombu.Queue(
                "long", kombu.Exchange("media", "topic"), "long.#", queue_arguments={"x-max-priority": 5}
            ),
        ),
        [Queue("other", Exchange("media", "topic")), Queue("long", "media", "long.#", priority=5)],
    ],
    ids=repr,
)
def test_every_form_of_task_queues_says_the_same(queues: Any) -> None:
    queue = router(task_queues=queues).queues["long"]

    assert (queue.name, queue.exchange, queue.routing_key, queue.priority) == EXPECTED


@pytest.mark.parametrize(
    "queues", [["a", "b"], {"a": None, "b": {}}, (kombu.Queue("a"), kombu.Queue("b"))], ids=repr
)
def test_a_name_is_enough_for_a_queue(queues: Any) -> None:
    made = router(task_queues=queues)

    assert [target(made, queue=name) for name in "ab"] == [("a", "amqptasks", "a"), ("b", "amqptasks", "b")]


# --- what is declared ---


def test_dead_letters_are_ready_before_the_queue() -> None:
    entities = router().topology("mail")

    assert [
        identity(one)[:2] if not isinstance(one, Binding) else (one.source, one.destination)
        for one in entities
    ] == [
        ("exchange", "amqptasks.lost"),
        ("queue", "amqptasks.lost"),
        ("amqptasks.lost", "amqptasks.lost"),
        ("exchange", "amqptasks.dead"),
        ("queue", "mail.dead"),
        ("amqptasks.dead", "mail.dead"),
        ("exchange", "amqptasks"),
        ("queue", "mail"),
        ("amqptasks", "mail"),
    ]
    assert Binding("amqptasks.dead", "mail.dead", "mail") in entities
    assert Binding("amqptasks", "mail", "mail") in entities
    assert (
        Exchange("amqptasks.dead", "direct", arguments={"alternate-exchange": "amqptasks.lost"}) in entities
    )


def test_a_queue_of_others_gets_dead_letters_all_the_same() -> None:
    made = router(task_queues=[Queue("theirs", no_declare=True)])

    assert made.topology("theirs") == dead_letters("theirs", made.conf)


def test_the_brokers_own_exchanges_are_not_declared() -> None:
    entities = router(task_queues=[Queue("q", Exchange("amq.topic", "topic"), "k")]).topology("q")

    assert Binding("amq.topic", "q", "k") in entities
    assert not [one for one in entities if isinstance(one, Exchange) and one.name == "amq.topic"]


def test_every_binding_is_declared_with_its_exchange() -> None:
    sorter = Exchange("sorter", "headers")
    queue = Queue("q", bindings=[("amqptasks", "also"), (sorter, "", {"kind": "long"})])

    entities = router(task_queues=[queue]).topology("q")

    assert [one for one in entities if isinstance(one, Binding) and one.destination == "q"] == [
        Binding("amqptasks", "q", "q"),
        Binding("amqptasks", "q", "also"),
        Binding("sorter", "q", "", arguments={"kind": "long"}),
    ]
    assert sorter in entities


def test_a_bare_exchange_needs_its_known_queues() -> None:
    made = router(task_queues=[Queue("video", Exchange("media", "topic"), "video.#"), "other"])

    entities = made.entities(
        made.route("proj.add", (), {}, {"exchange": "media", "routing_key": "video.mp4"})
    )

    assert {one.name for one in entities if isinstance(one, amqp.Queue)} == {
        "amqptasks.lost",
        "video.dead",
        "video",
    }


# --- what a worker consumes ---


def test_a_worker_consumes_what_is_configured() -> None:
    assert [one.name for one in router().select()] == ["amqptasks"]
    assert [one.name for one in router(task_queues=["a", "b"]).select()] == ["a", "b"]


@pytest.mark.parametrize(
    ("queues", "exclude", "names"),
    [
        (["b", "new", "b"], [], ["b", "new"]),
        (None, ["a"], ["b", "c"]),
        (["a", "b"], ["a"], ["b"]),
        ([], [], ["a", "b", "c"]),
    ],
)
def test_a_worker_selects(queues: Any, exclude: list[str], names: list[str]) -> None:
    assert [one.name for one in router(task_queues=["a", "b", "c"]).select(queues, exclude)] == names


@pytest.mark.parametrize(
    ("queues", "exclude", "sentence"),
    [
        (["shrot"], [], "no queue 'shrot' in task_queues (did you mean 'short'?)"),
        (
            None,
            ["lnog"],
            "cannot exclude a queue that is not there: no queue 'lnog' in task_queues (did you mean 'long'?)",
        ),
        (["short"], ["short"], "no queue is left to consume"),
    ],
)
def test_a_wrong_selection_is_a_sentence(queues: Any, exclude: list[str], sentence: str) -> None:
    made = router(task_queues=["short", "long"], task_create_missing_queues=False)

    with pytest.raises(ImproperlyConfigured) as caught:
        made.select(queues, exclude)

    assert sentence in str(caught.value)


def test_threads_that_make_up_a_queue_get_the_same() -> None:
    made = router()
    gate = threading.Barrier(8)
    found: list[Queue] = []

    def ask() -> None:
        gate.wait(5)
        found.append(made.queue("new"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(found) == 8
    assert len({id(one) for one in found}) == 1


# --- for other tools ---


def shared() -> Router:
    return router(
        task_queues=[
            Queue("short"),
            Queue("video", Exchange("media", "topic"), "video.#", priority=9),
            Queue(
                "h", Exchange("sorter", "headers"), "", binding_arguments={"x-match": "all", "kind": "long"}
            ),
            Queue("both", bindings=[(Exchange("media", "topic"), "both.#")]),
        ]
    )


def test_celery_is_given_the_same_declaration() -> None:
    made = shared()
    names: dict[str, Any] = {}

    exec(celery_task_queues(made.select()), names)
    theirs = Celery(set_as_current=False)
    theirs.conf.task_queues = names["task_queues"]

    for ours in made.select():
        queue = theirs.amqp.queues[ours.name]
        wire = ours.entity()
        assert queue.queue_arguments == wire.arguments
        assert (queue.durable, queue.exclusive, queue.auto_delete) == (True, False, False)
    assert theirs.amqp.queues["video"].exchange == kombu.Exchange("media", "topic")
    assert theirs.amqp.queues["short"].routing_key == "short"
    assert theirs.amqp.queues["h"].binding_arguments == {"x-match": "all", "kind": "long"}
    assert {(b.exchange.name, b.routing_key) for b in theirs.amqp.queues["both"].bindings} == {
        ("amqptasks", "both"),
        ("media", "both.#"),
    }


def test_definitions_hold_everything_once() -> None:
    made = shared()
    entities = [entity for queue in made.select() for entity in made.topology(queue.name)]

    definitions = json.loads(json.dumps(export(entities, vhost="prod")))

    assert sorted(one["name"] for one in definitions["exchanges"]) == [
        "amqptasks",
        "amqptasks.dead",
        "amqptasks.lost",
        "media",
        "sorter",
    ]
    assert len(definitions["queues"]) == 4 + 4 + 1
    assert definitions["policies"] == []
    assert {
        "source": "media",
        "vhost": "prod",
        "destination": "both",
        "destination_type": "queue",
        "routing_key": "both.#",
        "arguments": {},
    } in definitions["bindings"]
    assert {one["vhost"] for kind in definitions.values() for one in kind} == {"prod"}


def test_policies_give_what_minimal_arguments_leave_out() -> None:
    made = router(queue_arguments="minimal", task_queues=["a.b"])

    (policy,) = export((), policies(made.select(), made.conf))["policies"]

    assert re.match(policy["pattern"], "a.b")
    assert not re.match(policy["pattern"], "aXb")
    assert (policy["apply-to"], policy["vhost"]) == ("queues", "/")
    assert policy["definition"] == {
        "dead-letter-exchange": "amqptasks.dead",
        "dead-letter-routing-key": "a.b",
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "delivery-limit": 100,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"task_default_exchange_type": "topik"},
            "exchange 'amqptasks' of queue 'amqptasks' .*did you mean 'topic'",
        ),
        (
            {"task_queues": [Queue("a", Exchange("b", "nope"))]},
            "exchange 'b' of queue 'a' cannot be of type 'nope'",
        ),
        (
            {"task_queues": [Queue("a", bindings=[(Exchange("c", "fanuot"), "")])]},
            "exchange 'c' of .*'fanout'",
        ),
    ],
)
def test_an_exchange_of_a_type_that_no_broker_has_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        router(**settings)


def test_exchanges_of_plugins_may_be_of_any_type() -> None:
    queue = router(task_queues=[Queue("a", Exchange("b", "x-consistent-hash"))]).queue("a")

    assert queue.exchange is not None
    assert queue.exchange.type == "x-consistent-hash"
