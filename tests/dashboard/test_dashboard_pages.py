"""The pages: what they show, that nothing in them is ever markup of a stranger, and that each link leads somewhere."""

import html
import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from amqptasks.dashboard import Access, Dashboard
from amqptasks.errors import BrokerUnavailable
from amqptasks.monitor.snapshot import DeadLetterPage, SchedulePage, TaskRow
from tests.support.browsing import Browser
from tests.support.observing import DEAD, FAILED, LETTERS, NOW, ODD, ROOT, RUNNING, TASKS

PAGES = (
    "/", "/queues", "/queues?internal=1", "/queues/mail", "/workers", "/workers/w1@shop", "/workers/w3@shop", "/tasks",
    f"/tasks/{FAILED}", f"/tasks/{ODD}", "/dead", f"/dead/letter?queue=orders.dead&id={DEAD}", "/schedules",
)  # fmt: skip
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def text_of(page: str) -> str:
    """The words of a page, without its tags."""
    shown = re.sub(r"<(script|title|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(shown).split())


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there(browser, page) -> None:
    answer = browser.get(page)

    assert answer.status_code == 200, answer.text[:500]
    assert answer.text.count("<h1") == 1
    assert answer.text.rstrip().endswith("</html>")


@pytest.mark.parametrize("page", PAGES)
def test_what_strangers_wrote_is_text(browser, observer, page) -> None:
    observer.task_rows = tuple(
        replace(row, name=EVIL, args=EVIL, kwargs=EVIL, result=EVIL, exception=EVIL, worker=EVIL, queue=EVIL)
        for row in observer.task_rows
    )
    observer.letters = tuple(replace(row, task=EVIL, error=EVIL, reason=EVIL, args=EVIL) for row in LETTERS)
    observer.worker_rows = tuple(
        replace(row, software=EVIL, pool=EVIL, queues=(EVIL,)) for row in observer.worker_rows
    )
    observer.queue_rows = (*observer.queue_rows, replace(observer.queue_rows[2], name=EVIL))
    observer.told = replace(observer.told, connected=False, message=EVIL, product=EVIL, broker=EVIL)
    rows = tuple(replace(row, schedule=EVIL, task=EVIL) for row in observer.schedule_page.rows)
    observer.schedule_page = SchedulePage(rows=rows, message=EVIL, leader=EVIL)

    answer = browser.get(page)

    assert answer.status_code == 200
    assert "alert(1)" in answer.text
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert scripts == ['<script src="/static/dashboard.js?v=0.1.0" defer>']


@pytest.mark.parametrize("page", PAGES)
def test_a_page_keeps_its_own_policy(browser, page) -> None:
    """No inline script, no inline style, nothing from another host: the policy would have refused it."""
    answer = browser.get(page)

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
    assert not re.search(r"""(?:href|src|action)=["'](?:https?:)?//""", answer.text)
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_used_without_eyes_and_mouse(browser, page) -> None:
    """Every field has a name, every table heads, every part that is renewed an id of its own."""
    shown = browser.get(page).text

    ids = re.findall(r'\sid="([^"]+)"', shown)
    assert len(ids) == len(set(ids)), sorted(ids)
    assert '<html lang="en"' in shown
    for field in re.findall(r"<(?:input|select)[^>]*>", shown):
        named = re.search(r'\sid="([^"]+)"', field)
        assert (
            'type="hidden"' in field
            or "aria-label=" in field
            or (named and f'<label for="{named[1]}"' in shown)
            or (named and f'for="{named[1]}"' in shown)
        ), field
    for table in re.findall(r"<table>.*?</table>", shown, re.DOTALL):
        assert "<caption" in table
        assert 'scope="col"' in table
        assert table.count('scope="row"') == table.count("<tr") - 1
    for live in re.findall(r"<[^>]*data-live[^>]*>", shown):
        assert ' id="' in live


def links(text: str) -> set[str]:
    return {html.unescape(found) for found in re.findall(r'(?:href|src)="([^"#]+)"', text)}


@pytest.mark.parametrize("prefix", ["", "/tasks", "/deep/in/it"])
def test_every_link_leads_somewhere_wherever_it_is_mounted(observer, prefix) -> None:
    """From the first page on, each link of each page is followed."""
    observer.queue_rows = (*observer.queue_rows, replace(observer.queue_rows[2], name="odd/name with?#%"))
    dashboard = Dashboard(observer, Access())
    app = Starlette(routes=[Mount(prefix, app=dashboard)]) if prefix else dashboard
    seen, todo = set(), {f"{prefix}/"}

    with Browser(app, base_url="http://localhost", client=("127.0.0.1", 5000)) as browser:
        while todo:
            link = todo.pop()
            seen.add(link)
            assert link.startswith(f"{prefix}/"), link
            answer = browser.get(link)
            assert answer.status_code == 200, link
            if answer.headers["content-type"].startswith("text/html"):
                todo |= links(answer.text) - seen

    assert len(seen) > 25
    assert f"{prefix}/queues/odd%2Fname%20with%3F%23%25" in seen
    assert f"{prefix}/static/mark.svg" in seen


def test_forms_stay_below_the_prefix(observer) -> None:
    app = FastAPI()
    app.mount("/tasks", Dashboard(observer, Access()))
    with Browser(app, base_url="http://localhost", client=("127.0.0.1", 5000)) as browser:
        shown = browser.get("/tasks/workers/w1@shop")
        token = re.search(r'name="form_token" value="(\w+)"', shown.text)[1]
        assert set(re.findall(r'action="([^"]+)/do/', shown.text)) == {"/tasks"}

        form = {"form_token": token, "back": "/workers/w1@shop", "node": "w1@shop", "n": "2"}
        answer = browser.post("/tasks/do/pool_grow", data=form, follow_redirects=False)

        assert answer.headers["location"] == "/tasks/workers/w1@shop"
        assert observer.done == [("pool_grow", "w1@shop", 2)]
        assert "Path=/tasks" in shown.headers["set-cookie"]


def test_a_mounted_dashboard_begins_to_watch_by_itself(observer) -> None:
    """The app that it is mounted in does not hand on its lifespan."""
    dashboard = Dashboard(observer, Access())
    app = Starlette(routes=[Mount("/tasks", app=dashboard)])
    with Browser(app, base_url="http://localhost", client=("127.0.0.1", 5000)) as browser:
        assert not observer.running

        browser.get("/tasks/")

        assert observer.running
    dashboard.stop()
    assert not observer.running


def test_by_itself_it_watches_from_its_start_to_its_end(observer) -> None:
    with Browser(Dashboard(observer, Access())):
        assert observer.running
    assert not observer.running


# --- what they say ---------------------------------------------------------------------------------------


def test_a_queue_that_nobody_consumes_stands_out(browser) -> None:
    overview, queues = browser.get("/").text, browser.get("/queues").text

    assert "Nobody consumes reports . 1,200 messages wait in it." in text_of(overview)
    assert queues.count("nobody consumes this") == 1
    assert '<tr class="alarm">' in queues


def test_without_the_management_plugin_a_page_says_what_is_missing(browser, observer) -> None:
    assert "management plugin does not answer" not in browser.get("/queues").text

    observer.told = replace(
        observer.told, management=False, management_message="Nothing listens on port 15672."
    )
    observer.queue_rows = tuple(
        replace(row, unacked=None, publish_rate=None, deliver_rate=None, ack_rate=None, oldest_age=None)
        for row in observer.queue_rows
    )

    text = text_of(browser.get("/queues").text)
    assert "The management plugin does not answer. So there are no rates" in text
    assert "Nothing listens on port 15672." in text
    assert "None" not in text


def test_sampling_is_told(browser, observer) -> None:
    assert "sampled" not in browser.get("/tasks").text

    observer.told = replace(observer.told, sampled=25, events=5012.0)

    for page in ("/", "/tasks"):
        text = text_of(browser.get(page).text)
        assert "sampled: 1 of 25. 5,012 events a second come in" in text


def test_without_events_the_cure_is_offered(browser, observer) -> None:
    observer.told = replace(observer.told, task_events=False)

    shown = browser.get("/tasks").text

    assert "No task events come in." in shown
    assert 'action="/do/enable_events"' in shown


@pytest.mark.parametrize("page", PAGES)
def test_with_the_broker_away_the_pages_stay_and_say_so(browser, observer, page) -> None:
    observer.told = replace(observer.told, connected=False, message="Nothing answers on rabbit:5672.")
    if not page.startswith(("/workers/", "/dead/letter")):  # these ask somebody, and answer that nobody spoke
        observer.error = BrokerUnavailable("nothing answers on rabbit:5672; is it running?")

    answer = browser.get(page)

    assert answer.status_code == 200
    assert "The broker is away. Nothing answers on rabbit:5672." in text_of(answer.text)


@pytest.mark.parametrize("page", ["/workers/w1@shop", f"/dead/letter?queue=orders.dead&id={DEAD}"])
def test_a_page_that_asks_says_that_the_broker_did_not_answer(browser, observer, page) -> None:
    observer.error = BrokerUnavailable("nothing answers on rabbit:5672; is it running?")

    answer = browser.get(page)

    assert answer.status_code == 502
    assert "The broker did not answer. Nothing answers on rabbit:5672; is it running?" in text_of(answer.text)


def test_a_broker_that_takes_nothing_is_told(browser, observer) -> None:
    observer.told = replace(observer.told, alarm="low on disk")

    assert "The broker takes no messages. Low on disk." in text_of(browser.get("/tasks").text)


def test_a_call_is_shown_whole(browser) -> None:
    shown = browser.get(f"/tasks/{FAILED}")

    text = text_of(shown.text)
    assert "shop.charge FAILURE" in text
    assert "ValueError('card declined')" in text
    assert 'File "shop/tasks.py", line 12, in charge' in text
    assert "PENDING" in text
    assert "RECEIVED +100 ms" in text
    assert shown.text.count('class="node') == 3
    assert 'data-poll="' not in shown.text  # it has ended: nothing will change
    assert "Terminate" not in text
    assert 'data-poll="' in browser.get(f"/tasks/{RUNNING}").text


def test_the_workflow_leads_to_its_calls(browser) -> None:
    shown = browser.get(f"/tasks/{ROOT}").text

    graph = re.search(r'<svg class="graph".*?</svg>', shown, re.DOTALL)[0]
    assert f'href="/tasks/{FAILED}"' in graph
    assert re.findall(r'aria-current="true"><g class="node here', graph)
    assert graph.count('class="edge"') == 2


def test_a_worker_that_is_gone_is_shown_as_it_was(browser) -> None:
    text = text_of(browser.get("/workers/w3@shop").text)

    assert "offline" in text
    assert "w3@shop did not answer within 1 seconds" in text


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("/queues/none", "There is no queue 'none'."),
        ("/workers/none", "Nobody named 'none' was heard of."),
        ("/tasks/none", "No call 'none' is known."),
        ("/dead/letter?queue=q&id=", "No dead letter '' lies in 'q'."),
        ("/none", "There is no such page."),
        (f"/tasks/{quote(EVIL, safe='')}", f"No call {EVIL!r} is known."),
    ],
)
def test_what_is_not_there_is_said_to_be_so(browser, page, said) -> None:
    answer = browser.get(page)

    assert answer.status_code == 404
    assert " ".join(said.split()) in " ".join(html.unescape(answer.text).split())
    assert "<script>alert" not in answer.text


def test_an_error_of_ours_shows_nothing_of_it(browser, observer) -> None:
    observer.queues = lambda **_: 1 / 0

    answer = browser.get("/queues")

    assert answer.status_code == 500
    assert "Something is wrong with the dashboard itself." in answer.text
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


def test_an_id_that_is_typed_leads_to_its_call(browser) -> None:
    assert browser.get(f"/find?id=+{ROOT}+").url.path == f"/tasks/{ROOT}"
    assert browser.get("/find?id=a/b?c").url.raw_path == b"/tasks/a%2Fb%3Fc"
    assert browser.get("/find").url.path == "/tasks"


# --- many rows -------------------------------------------------------------------------------------------


def calls(count: int) -> tuple[TaskRow, ...]:
    return tuple(replace(TASKS[1], id=f"call-{at}", at=NOW - at) for at in range(count))


def test_calls_are_leafed_through_once_each(browser, observer) -> None:
    observer.task_rows = calls(120)
    page, seen = "/tasks", []

    while page:
        shown = browser.get(page).text
        found = re.findall(r'href="/tasks/(call-\d+)"', shown)
        assert 0 < len(found) <= 50
        seen += found
        older = re.search(r'href="([^"]+)" rel="next"', shown)
        page = html.unescape(older[1]) if older else ""

    assert seen == [f"call-{at}" for at in range(120)]


@pytest.mark.parametrize("limit", ["1000000", "0", "-1", "x", "9" * 400, ""])
def test_no_limit_is_larger_than_a_page_can_be(browser, observer, limit) -> None:
    observer.task_rows = calls(500)

    shown = browser.get(f"/tasks?limit={limit}")

    assert shown.status_code == 200
    assert 1 <= len(re.findall(r'href="/tasks/call-\d+"', shown.text)) <= 200


def test_filters_are_kept_and_used(browser, observer) -> None:
    shown = browser.get("/tasks?state=FAILURE&name=shop.charge&search=declined").text

    assert set(re.findall(r'href="/tasks/([0-9a-f]{8}-[^"]+)"', shown)) == {FAILED}
    assert "<option selected>FAILURE" in shown
    assert 'value="declined"' in shown
    assert "No call fits." in browser.get("/tasks?search=nothing-like-it").text


def test_dead_letters_are_leafed_through(browser, observer) -> None:
    observer.letters = tuple(replace(LETTERS[0], id=f"dead-{at}") for at in range(120))

    first, third = browser.get("/dead").text, browser.get("/dead?offset=100").text

    assert first.count('name="id"') == 50
    assert "1 to 50 of 120" in first
    assert "101 to 120 of 120" in third
    assert 'rel="next"' not in third
    assert 'href="/dead?offset=50" rel="prev"' in third


def test_nobody_has_the_broker_hand_out_a_million_dead_letters(browser, observer, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        observer,
        "dead_letters",
        lambda queue=None, **given: asked.append(given) or DeadLetterPage(total=10**7),
    )

    browser.get("/dead?offset=999999999")
    browser.get("/api/dead?offset=999999999&limit=999999999")

    assert all(given["offset"] + given["limit"] <= 11_000 for given in asked)
    assert len(asked) == 2


# --- light, dark, live -----------------------------------------------------------------------------------


def test_the_choice_of_colours_is_kept(browser) -> None:
    assert "data-theme" not in browser.get("/").text
    form = {"form_token": browser.token(), "theme": "dark", "back": "/queues"}

    shown = browser.post("/theme", data=form)

    assert shown.url.path == "/queues"
    assert '<html lang="en" data-theme="dark">' in shown.text
    browser.cookies.set("amqptasks_theme", '"><script>', domain="localhost.local")
    assert "data-theme" not in browser.get("/", headers={"cookie": 'amqptasks_theme="><script>'}).text


def test_a_page_renews_itself_with_and_without_a_script(open_dashboard) -> None:
    shown = open_dashboard(poll=3.0).get("/").text

    assert 'data-poll="3.0"' in shown
    assert '<noscript><meta http-equiv="refresh" content="15"></noscript>' in shown
    still = open_dashboard(poll=0).get("/").text
    assert "data-poll" not in still
    assert "http-equiv" not in still


def test_older_calls_do_not_move(browser) -> None:
    assert "data-poll" not in browser.get(f"/tasks?before={NOW}").text
    assert "data-poll" in browser.get("/tasks").text
    assert "data-poll" not in browser.get("/dead").text  # each look is a delivery of every message
