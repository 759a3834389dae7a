"""The buttons: what each has done, what it refuses, and that nothing happens without a form of ours."""

import html
import inspect
import re

import pytest

from amqptasks.dashboard.actions import ACTIONS
from amqptasks.errors import BrokerUnavailable
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import Answer
from tests.support.browsing import TOKEN
from tests.support.observing import DEAD, RUNNING, FakeObserver

NODE = {"node": "w1@shop"}
DONE = {  # the button -> (what its form says, what the observer is then told)
    "revoke": ({"id": RUNNING}, ("revoke", RUNNING, False)),
    "terminate": ({"id": RUNNING}, ("revoke", RUNNING, True)),
    "rate_limit": (
        {**NODE, "task": "shop.mail", "rate": "10/s"},
        ("rate_limit", "shop.mail", "10/s", "w1@shop"),
    ),
    "time_limit": (
        {**NODE, "task": "shop.mail", "soft": "5", "hard": "7.5"},
        ("time_limit", "shop.mail", 5.0, 7.5, "w1@shop"),
    ),
    "pool_grow": ({**NODE, "n": "2"}, ("pool_grow", "w1@shop", 2)),
    "pool_shrink": ({**NODE, "n": "1"}, ("pool_shrink", "w1@shop", 1)),
    "autoscale": ({**NODE, "most": "8", "least": "2"}, ("autoscale", "w1@shop", 8, 2)),
    "pool_restart": (NODE, ("pool_restart", "w1@shop")),
    "add_consumer": ({**NODE, "queue": "mail"}, ("add_consumer", "mail", "w1@shop")),
    "cancel_consumer": ({**NODE, "queue": "mail"}, ("cancel_consumer", "mail", "w1@shop")),
    "enable_events": ({}, ("enable_events", None)),
    "disable_events": (NODE, ("disable_events", "w1@shop")),
    "shutdown": (NODE, ("shutdown", "w1@shop")),
    "purge": ({"queue": "mail"}, ("purge", "mail")),
    "replay": (
        {"queue": "orders", "id": [DEAD, "other"]},
        ("replay_dead", "orders", (DEAD, "other"), None, None),
    ),
    "replay_all": ({"queue": "", "all": "1", "total": "7"}, ("replay_dead", None, (), 7, None)),
    "drop": ({"queue": "orders", "id": DEAD}, ("drop_dead", "orders", (DEAD,), None)),
    "schedule_pause": ({"entry": "nightly"}, ("schedule_pause", "nightly")),
    "schedule_resume": ({"entry": "often"}, ("schedule_resume", "often")),
    "schedule_run": ({"entry": "nightly"}, ("schedule_run", "nightly")),
    "schedule_remove": ({"entry": "often"}, ("schedule_remove", "often")),
}
DANGEROUS = {
    "terminate", "pool_restart", "cancel_consumer", "shutdown", "purge", "replay_all", "drop", "schedule_remove",
}  # fmt: skip


def test_each_button_has_its_test() -> None:
    assert set(DONE) == set(ACTIONS)
    assert {name for name, action in ACTIONS.items() if action.question is not None} == DANGEROUS


def test_the_observer_of_the_tests_is_like_the_real_one() -> None:
    """Else the pages would be tested against something else than they are used with."""
    real = {name: each for name, each in inspect.getmembers(Observer, inspect.isfunction) if name[0] != "_"}
    fake = {
        name: each for name, each in inspect.getmembers(FakeObserver, inspect.isfunction) if name[0] != "_"
    }

    assert set(fake) == set(real)
    for name, each in real.items():
        wanted, given = (
            [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
            for method in (each, fake[name])
        )
        assert given == wanted, name


@pytest.mark.parametrize("action", sorted(DONE))
def test_a_button_does_what_it_says(browser, observer, action) -> None:
    form, wanted = DONE[action]
    answer = browser.press(action, **form, **({"sure": "yes"} if action in DANGEROUS else {}))

    assert answer.status_code == 303
    assert answer.headers["location"] == "/workers"
    assert observer.done == [wanted]
    assert 'class="notice good"' in browser.told()
    assert browser.told() == ""  # it is said once


@pytest.mark.parametrize("action", sorted(DANGEROUS))
def test_a_dangerous_button_asks_first(browser, observer, action) -> None:
    form, wanted = DONE[action]

    asked = browser.press(action, **form)

    assert asked.status_code == 200
    assert observer.done == []
    assert 'role="alertdialog"' in asked.text
    # What the page of the question sends is the same, and does it.
    fields = {
        name: html.unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked.text)
        if name != "theme"
    }
    assert fields["sure"] == "yes"
    browser.post(f"/do/{action}", data={**fields, **{k: v for k, v in form.items() if isinstance(v, list)}})
    assert observer.done == [wanted]


def test_the_question_keeps_every_mark(browser, observer) -> None:
    asked = browser.press("drop", queue="", id=["a", "b", '<c>"'])

    assert "This removes 3 dead letters. There is no way back." in asked.text
    assert re.findall(r'name="id" value="([^"]*)"', asked.text) == ["a", "b", "&lt;c&gt;&#34;"]


@pytest.mark.parametrize("action", sorted(DONE))
@pytest.mark.parametrize("token", [None, "", "0" * 64, "another"])
def test_nothing_happens_without_a_form_of_ours(browser, open_dashboard, observer, action, token) -> None:
    form, _ = DONE[action]
    browser.get("/")
    if token == "another":  # a good one, of somebody else's session
        token = open_dashboard(secret=b"the same").token()
    given = {} if token is None else {"form_token": token}

    answer = browser.post(f"/do/{action}", data={**form, **given, "sure": "yes"})

    assert answer.status_code == 403
    assert "not one that this dashboard gave you" in answer.text
    assert observer.done == []


def test_a_token_is_good_in_its_own_session_only(open_dashboard, observer) -> None:
    mine, other = open_dashboard(secret=b"shared"), open_dashboard(secret=b"shared")
    token = other.token()
    mine.get("/")

    answer = mine.post("/do/shutdown", data={"form_token": token, "node": "w1@shop", "sure": "yes"})

    assert answer.status_code == 403
    assert observer.done == []


def test_without_a_session_the_right_token_is_no_good(browser, observer) -> None:
    token = browser.token()
    browser.cookies.clear()

    answer = browser.post("/do/shutdown", data={"form_token": token, "node": "w1@shop", "sure": "yes"})

    assert answer.status_code == 403
    assert observer.done == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_presses_no_button_even_with_the_token(browser, observer, site) -> None:
    form = {"form_token": browser.token(), "node": "w1@shop", "sure": "yes"}

    answer = browser.post("/do/shutdown", data=form, headers={"sec-fetch-site": site})

    assert answer.status_code == 403
    assert observer.done == []
    assert (
        browser.post("/do/shutdown", data=form, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    )
    assert observer.done == [("shutdown", "w1@shop")]


@pytest.mark.parametrize("action", sorted(DONE))
def test_read_only_refuses_each(open_dashboard, observer, action) -> None:
    browser = open_dashboard(read_only=True)
    form, _ = DONE[action]

    answer = browser.press(action, **form, sure="yes")

    assert answer.status_code == 403
    assert "This dashboard only shows." in answer.text
    assert observer.done == []


def test_read_only_has_no_buttons(open_dashboard) -> None:
    browser = open_dashboard(read_only=True)

    for page in ("/", "/queues/mail", "/workers/w1@shop", f"/tasks/{RUNNING}", "/dead", "/schedules"):
        shown = browser.get(page).text
        assert "/do/" not in shown, page
        assert "read-only" in shown
    assert "/do/" in open_dashboard().get("/workers/w1@shop").text


def test_every_form_of_every_page_carries_the_token(browser) -> None:
    count = 0
    for page in (
        "/",
        "/queues",
        "/queues/mail",
        "/workers/w1@shop",
        f"/tasks/{RUNNING}",
        "/dead",
        "/schedules",
    ):
        for form in re.findall(r'<form method="post".*?</form>', browser.get(page).text, re.DOTALL):
            assert len(TOKEN.findall(form)) == 1, form
            count += 1
    assert count > 30


def test_each_button_is_on_some_page(browser, observer) -> None:
    found = set()
    for page in (
        "/",
        "/queues",
        "/queues/mail",
        "/workers/w1@shop",
        "/workers/w2@shop",
        f"/tasks/{RUNNING}",
        "/dead",
        "/schedules",
    ):
        found |= set(re.findall(r'action="/do/(\w+)"', browser.get(page).text))

    assert set(ACTIONS) - found == set()


def test_calls_that_have_not_ended_can_be_marked_and_revoked(browser, open_dashboard, observer) -> None:
    boxes = re.compile(r'<input type="checkbox" name="id" value="([^"]+)"')

    assert boxes.findall(browser.get("/tasks?state=STARTED").text) == [RUNNING]
    assert not boxes.findall(browser.get("/tasks").text)
    assert not boxes.findall(browser.get("/tasks?state=FAILURE").text)
    assert not boxes.findall(open_dashboard(read_only=True).get("/tasks?state=STARTED").text)

    browser.press("revoke", id=[RUNNING, "other"])
    assert observer.done[-1] == ("revoke", (RUNNING, "other"), False)
    browser.press("revoke", id=[])
    assert "mark some calls" in browser.told()
    browser.press("revoke", id=[RUNNING, "x" * 300])
    assert "255" in browser.told()
    assert observer.done[-1] == ("revoke", (RUNNING, "other"), False)


def test_a_rate_limit_for_every_worker(browser, observer) -> None:
    shown = browser.get("/tasks?name=shop.mail").text
    assert "Rate limit of shop.mail, on every worker" in shown

    browser.press("rate_limit", task="shop.mail", rate="5/m")

    assert observer.done == [("rate_limit", "shop.mail", "5/m", None)]


def test_a_form_is_read_by_get_no_more_than_by_anything_else(browser, observer) -> None:
    assert browser.get("/do/shutdown?node=w1@shop&sure=yes").status_code == 405
    for method in ("put", "delete", "patch"):
        assert getattr(browser, method)("/do/shutdown?node=w1@shop&sure=yes").status_code in (403, 405)
    assert observer.done == []


@pytest.mark.parametrize(
    ("action", "form", "said"),
    [
        ("rate_limit", {"task": "shop.mail", "rate": "often"}, "'often' is no rate"),
        ("rate_limit", {"task": "", "rate": "1/s"}, "Name the task."),
        ("pool_grow", {**NODE, "n": "0"}, "'0' is no number from 1 to 1000."),
        ("pool_grow", {**NODE, "n": "\u0663"}, "is no number from 1 to 1000."),
        ("pool_shrink", {**NODE, "n": "99999"}, "is no number from 1 to 1000."),
        ("pool_shrink", {"n": "1"}, "Name the worker."),
        ("autoscale", {**NODE, "most": "1", "least": "2"}, "The least, 2, is more than the most, 1."),
        ("time_limit", {"task": "shop.mail", "soft": "soon"}, "'soon' is no number of seconds."),
        ("add_consumer", {**NODE, "queue": " "}, "Name the queue."),
        ("add_consumer", {**NODE, "queue": "q" * 300}, "No name has more than 255 characters."),
        ("purge", {}, "Name the queue."),
        ("replay", {}, "Nothing is selected"),
        ("drop", {"sure": "yes"}, "Nothing is selected"),
        ("schedule_run", {}, "Name the entry."),
    ],
)
def test_what_cannot_be_meant_is_told_and_not_done(browser, observer, action, form, said) -> None:
    browser.press(action, **form)

    told = html.unescape(browser.told())
    assert 'class="notice bad"' in told
    assert said in told
    assert observer.done == []


def test_what_the_broker_says_is_told(browser, observer) -> None:
    observer.error = BrokerUnavailable("nothing answers on <rabbit>; is it running?")
    browser.press("shutdown", **NODE, sure="yes")
    observer.error = None

    assert "Nothing answers on &lt;rabbit&gt;; is it running?" in browser.told()


def test_what_workers_answer_is_told_for_each(browser, observer) -> None:
    observer.answers = (
        Answer(node="w1@shop", text="ok"),
        Answer(node="w2@shop", ok=False, text="no such task"),
    )
    browser.press("rate_limit", task="shop.mail", rate="1/s")

    assert browser.told().splitlines() == [
        '<div class="notice good"><div>w1@shop: ok</div></div>',
        '<div class="notice bad"><div>w2@shop: no such task</div></div>',
    ]


def test_a_hundred_answers_are_not_told_one_by_one(browser, observer) -> None:
    observer.answers = tuple(Answer(node=f"w{at}@shop", text="ok" * 1000) for at in range(100))

    answer = browser.press("enable_events")

    assert len(answer.headers["set-cookie"]) < 4096
    assert "94 more." in browser.get("/workers").text


def test_nobody_answering_is_no_success(browser, observer) -> None:
    observer.answers = ()
    browser.press("enable_events")

    told = browser.told()
    assert 'class="notice warn"' in told
    assert "no worker answered" in told


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\r\nx: y", "\t//evil"]
)
def test_nobody_is_led_to_another_site(browser, back) -> None:
    answer = browser.press("enable_events", back=back)

    assert answer.headers["location"] == "/"


def test_an_unknown_button_and_a_huge_form(browser, observer) -> None:
    assert browser.press("format_disk").status_code == 404
    assert browser.press("replay", id="x" * 300_000).status_code == 413
    assert browser.press("replay", id=["x"] * 3000).status_code == 413
    assert observer.done == []


def test_a_refresh_does_not_take_what_is_told(browser) -> None:
    browser.press("enable_events")
    browser.get("/workers", headers={"x-amqptasks-refresh": "1"})

    assert "w1@shop: ok" in browser.told()
