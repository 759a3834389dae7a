"""Every button of the dashboard that changes something, pressed in headless Chromium wherever it stands.

| button | page | what is asserted on the broker, the worker or the beat |
|---|---|---|
| Revoke | a call's; Tasks, of the marked; a worker's, of what waits there | the call, come to its turn, does not run; one sent after it does |
| Terminate | a call's; a worker's, of what runs there | it ends as REVOKED, its child is another process |
| Set (rate limit) | a worker's; Tasks, for all workers | the worker's own limit; 0 lifts it |
| Set (time limits) | a worker's | a call that runs longer ends as TimeLimitExceeded or SoftTimeLimitExceeded |
| Grow, Shrink | a worker's | its processes |
| Autoscale | a worker's | its bounds |
| Restart pool | a worker's | every child is another process |
| Consume, Stop | a worker's; a queue's | what the worker consumes |
| Events off, Events on | a worker's | what the dashboard hears of |
| Switch events on | Overview; Tasks | the worker sends them: being told to end that, it does not say that it had |
| Purge | a queue's | the queue is empty |
| Replay, Drop | Dead letters, of the marked; one letter's | what lies among the dead letters, and what waits |
| Replay all, Drop all | Dead letters | the same |
| Pause, Resume, Run now, Remove | Schedules | what the beat answers; a call that runs |
| Shut down | a worker's | it exits with code 0 |
| Cancel | the question that the dangerous ones ask | nothing has happened |

The last test knows from the pages themselves, and from their templates, whether anything is missing here.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from amqptasks import dashboard as product
from amqptasks.beat.asking import ask
from amqptasks.dashboard.actions import ACTIONS
from amqptasks.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from amqptasks.schedules import schedule
from integration.apps import dashboard_tasks
from integration.support import WorkerProcess, wait_until
from integration.support.controls import Control, Controls
from integration.support.shop import APP, NODE, Open, Shop, address, dashboard, press, told

# --- calls -----------------------------------------------------------------------------------------------


@pytest.fixture
def held(shop: Shop, tmp_path: Path) -> Iterator[list[str]]:
    """The ids of as many calls as the worker can run at once; they end with the test."""
    ids = [dashboard_tasks.held.delay(str(tmp_path / "go")).id for _ in range(2)]
    wait_until(lambda: shop.running() == set(ids), 15, "both run")
    yield ids
    (tmp_path / "go").touch()
    wait_until(lambda: not shop.running(), 15, "none runs")


def test_revoke(shop: Shop, opened: Open) -> None:
    revoked = dashboard_tasks.bill.apply_async(("revoked",), queue="later").id
    shop.known(revoked, "PENDING")
    with opened(f"/tasks/{revoked}") as made:
        press(made.page, "Revoke")
        told(made.page, NODE)
    assert revoked in shop.ask("revoked")

    after = dashboard_tasks.bill.apply_async(("after",), queue="later")
    shop.ask("add_consumer", queue="later")
    assert after.get(timeout=60) == {"order": "after"}
    shop.known(revoked, "REVOKED")
    shop.ask("cancel_consumer", queue="later")
    wait_until(lambda: "later" not in shop.queues())


def test_revoke_of_those_that_are_marked(shop: Shop, opened: Open) -> None:
    """The marks outlast the renewal that shows one call more."""
    ids = [dashboard_tasks.bill.apply_async((order,), queue="later").id for order in range(3)]
    for each in ids:
        shop.known(each, "PENDING")
    with opened("/tasks?state=PENDING&queue=later") as made:
        page = made.page
        page.get_by_label("Mark all on this page").check()
        expect(page.get_by_label("Mark shop.bill").and_(page.locator(":not(:checked)"))).to_have_count(0)
        page.get_by_label("Mark all on this page").uncheck()
        for each in ids[:2]:
            page.get_by_label(f"Mark shop.bill {each}").check()
        page.get_by_label("Search").focus()  # while somebody marks, nothing moves
        ids.append(dashboard_tasks.bill.apply_async(("one more",), queue="later").id)
        expect(page.get_by_label(f"Mark shop.bill {ids[3]}")).to_be_visible()
        expect(page.locator("#marked")).to_have_text("2 marked")
        press(page, "Revoke")
        told(page, NODE)
    assert {*ids} & {*shop.ask("revoked")} == {*ids[:2]}
    shop.app.connection.purge("later")


def test_revoke_of_what_waits_in_a_worker(shop: Shop, opened: Open, held: list[str], tmp_path: Path) -> None:
    """The page shows it as soon as it comes, and no longer than it waits."""
    with opened(f"/workers/{NODE}") as made:
        waits = made.page.locator("#reserved")
        expect(waits).to_be_hidden()
        revoked = dashboard_tasks.bill.delay("revoked in the worker").id
        waits.get_by_role("row", name=revoked[:8]).get_by_role("button", name="Revoke").click()
        told(made.page, NODE)
        assert revoked in shop.ask("revoked")
        (tmp_path / "go").touch()
        expect(waits).to_be_hidden()
    shop.known(revoked, "REVOKED")
    for each in held:
        shop.known(each, "SUCCESS")


def test_terminate(shop: Shop, opened: Open, held: list[str]) -> None:
    """On the call's page, which then offers it no more, and on its worker's."""
    before = shop.children()
    shop.known(held[0], "STARTED")
    with opened(f"/tasks/{held[0]}") as made:
        button = made.page.get_by_role("button", name="Terminate")
        expect(button).to_be_visible()
        press(made.page, "Terminate", sure=True)
        told(made.page, NODE)
        expect(made.page.locator("#state")).to_have_text("REVOKED")
        expect(button).to_have_count(0)
        wait_until(lambda: shop.running() == {held[1]}, 10, "the other one runs on")

        made.open(f"/workers/{NODE}")
        press(made.page, "Terminate", sure=True, within="#active")
        told(made.page, NODE)
    shop.known(held[1], "REVOKED")
    wait_until(lambda: len(found := shop.children()) == 2 and not found & before, 10, "two others")


def test_events_off_and_on(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        press(made.page, "Events off")
        told(made.page, NODE)
        unheard = dashboard_tasks.bill.delay("unheard")
        unheard.get(timeout=60)
        press(made.page, "Events on")
        told(made.page, NODE)
        heard = dashboard_tasks.bill.delay("heard")
        heard.get(timeout=60)
    shop.known(heard.id, "SUCCESS")
    shop.known(unheard.id, "PENDING")  # its sender told of it, its worker did not


def test_switch_events_on(shop: Shop, opened: Open, tmp_path: Path) -> None:
    """A dashboard that has heard of no call offers it on two pages; `disable_events` tells whether they were on."""
    shop.ask("disable_events")
    assert shop.ask("disable_events") == {"ok": "task events already disabled"}
    with dashboard(tmp_path / "log", shop.url) as process:
        base = address(process)
        wait_until(lambda: shop.api("workers", base), 15)
        for path in ("/tasks", "/"):
            with opened(path, base=base) as made:
                press(made.page, "Switch events on")
                told(made.page, NODE)
            if path == "/tasks":
                assert shop.ask("disable_events") == {"ok": "task events disabled"}
        call = dashboard_tasks.bill.delay("heard by the new one").id
        shop.known(call, "SUCCESS", base)
        with opened("/", base=base) as made:
            expect(made.page.get_by_role("button", name="Switch events on")).to_have_count(0)


# --- a worker --------------------------------------------------------------------------------------------


def limit(shop: Shop) -> str:
    [found] = [text for text in shop.ask("registered", taskinfoitems=["rate_limit"]) if "shop.bill" in text]
    return str(found)


def test_rate_limits(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        row = made.page.get_by_role("row", name="shop.bill").last
        row.get_by_label("Rate limit of shop.bill").fill("10/s")
        row.get_by_role("button", name="Set").click()
        told(made.page, NODE)
        expect(row).to_contain_text("10/s")
        wait_until(lambda: "10/s" in limit(shop))
        row.get_by_label("Rate limit of shop.bill").fill("0")
        row.get_by_label("Rate limit of shop.bill").press("Enter")
        told(made.page, NODE)
        wait_until(lambda: "10/s" not in limit(shop))


def test_rate_limits_of_all_workers(shop: Shop, opened: Open) -> None:
    with opened("/tasks?name=shop.bill") as made:
        for rate in ("7/m", "0"):
            made.page.get_by_label("Rate limit of shop.bill, on every worker").fill(rate)
            press(made.page, "Set")
            told(made.page, NODE)
            wait_until(lambda rate=rate: ("7/m" in limit(shop)) is (rate == "7/m"))


def test_grow_and_shrink(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        made.page.get_by_label("Children").fill("2")
        press(made.page, "Grow")
        told(made.page, NODE)
        wait_until(lambda: len(shop.children()) == 4, 10, "four children")
        made.page.get_by_label("Children").fill("2")
        press(made.page, "Shrink")
        told(made.page, NODE)
        wait_until(lambda: len(shop.children()) == 2, 10, "two children")


def test_restart_of_the_pool(shop: Shop, opened: Open) -> None:
    before = shop.children()
    with opened(f"/workers/{NODE}") as made:
        press(made.page, "Restart pool", sure=True)
        told(made.page, NODE)
    wait_until(lambda: len(found := shop.children()) == 2 and not found & before, 15, "two others")


def test_consuming_a_queue_and_no_more(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        made.page.get_by_label("Consume one more").fill("later")
        press(made.page, "Consume")
        told(made.page, NODE)
        wait_until(lambda: "later" in shop.queues())
        expect(made.page.locator("#consumes")).to_contain_text("later")
        press(made.page, "Stop: Stop consuming later", sure=True)
        wait_until(lambda: "later" not in shop.queues())

        made.open("/queues/later")
        made.page.get_by_label("Have a worker consume it").select_option(NODE)
        press(made.page, "Consume")
        wait_until(lambda: "later" in shop.queues())
        press(made.page, "Stop", sure=True, within="#consumers")
        wait_until(lambda: "later" not in shop.queues())


def test_autoscale_and_shut_down(shop: Shop, opened: Open, worker: Callable[..., WorkerProcess]) -> None:
    words = ("-n", "w2@shop", "--autoscale", "2,1", "-Q", "dull", "-E")
    other = worker(APP, *words, broker_url=shop.url)
    wait_until(lambda: any(row["node"] == "w2@shop" and row["autoscale"] for row in shop.api("workers")), 15)
    with opened("/workers/w2@shop") as made:
        made.page.get_by_label("Least").fill("2")
        made.page.get_by_label("Most").fill("3")
        press(made.page, "Autoscale")
        told(made.page, "w2@shop")
        scaled = shop.ask("stats", "w2@shop")["autoscaler"]
        assert (scaled["max"], scaled["min"]) == (3, 2)

        press(made.page, "Shut down", sure=True)
        told(made.page, "w2@shop")
        assert other.wait(20) == 0
        made.open("/workers")
        expect(made.page.get_by_role("row", name="w2@shop")).to_contain_text("offline")


# --- queues, dead letters, the schedule ------------------------------------------------------------------


def test_purge_once_it_is_meant(shop: Shop, opened: Open) -> None:
    for order in range(3):
        dashboard_tasks.bill.apply_async((order,), queue="later")
    waiting = wait_until(lambda: (found := shop.waiting("later")) >= 3 and found)
    with opened("/queues/later") as made:
        made.page.get_by_role("button", name="Purge").click()
        made.page.get_by_role("alertdialog").get_by_role("link", name="Cancel").click()
        expect(made.page).to_have_url(f"{shop.base}/queues/later")
        assert made.page.locator("#told").count() == 0
        assert shop.waiting("later") == waiting

        press(made.page, "Purge", sure=True)
        told(made.page, f"{waiting} messages of later removed.")
    assert shop.waiting("later") == 0


def test_replay_and_drop(shop: Shop, opened: Open) -> None:
    """Dead letters of a queue whose worker was taken away, so that what is replayed waits to be counted."""
    shop.ask("add_consumer", queue="later")
    ids = [dashboard_tasks.refuse.apply_async((order,), queue="later").id for order in range(7)]
    wait_until(lambda: shop.waiting("later.dead") == 7, 15)
    shop.ask("cancel_consumer", queue="later")
    wait_until(lambda: "later" not in shop.queues())

    def lie(waiting: int, dead: int) -> None:
        """Whoever has looked at them gives them back, a page too, which takes the broker a moment."""

        def counts() -> tuple[int, int]:
            return shop.waiting("later"), shop.waiting("later.dead")

        wait_until(lambda: counts() == (waiting, dead), 10, lambda: f"{(waiting, dead)}; {counts()}")

    with opened("/dead?queue=later") as made:
        page = made.page
        page.get_by_label("Mark all on this page").check()
        expect(page.locator("#marked")).to_have_text("7 marked")
        page.get_by_label("Mark all on this page").uncheck()
        expect(page.locator("#marked")).to_have_text("Mark some")
        for task_id in ids[:2]:
            page.get_by_label(f"Mark shop.refuse {task_id}").check()
        expect(page.locator("#marked")).to_have_text("2 marked")
        press(page, "Replay")
        told(page, "2 replayed")
        lie(2, 5)

        made.open("/dead?queue=later")
        lie(2, 5)
        page.get_by_label(f"Mark shop.refuse {ids[2]}").check()
        press(page, "Drop", sure=True)
        told(page, "1 dropped")
        lie(2, 4)

        made.open("/dead?queue=later")
        lie(2, 4)
        page.get_by_role("link", name=ids[3][:8]).click()
        page.wait_for_url("**/dead/letter?*")
        lie(2, 4)
        press(page, "Replay")
        told(page, "1 replayed")
        lie(3, 3)

        made.open("/dead?queue=later")
        lie(3, 3)
        page.get_by_role("link", name=ids[4][:8]).click()
        page.wait_for_url("**/dead/letter?*")
        lie(3, 3)
        press(page, "Drop", sure=True)
        told(page, "1 dropped")
        lie(3, 2)

        made.open("/dead?queue=later")
        lie(3, 2)
        press(page, "Replay all", sure=True)
        told(page, "2 replayed")
        lie(5, 0)


def test_drop_all(shop: Shop, opened: Open) -> None:
    dashboard_tasks.refuse.delay("dropped")
    wait_until(lambda: shop.waiting("orders.dead") >= 1, 15)
    with opened("/dead?queue=orders") as made:
        wait_until(lambda: shop.waiting("orders.dead") >= 1, 15, "it is given back by who has looked at it")
        press(made.page, "Drop all", sure=True)
        told(made.page, "dropped")
    assert shop.waiting("orders.dead") == 0


def test_the_schedule(shop: Shop, opened: Open) -> None:
    line = {"task": "shop.tick", "schedule": schedule(3600).spec(), "args": ["extra"], "catch_up": "latest"}
    assert "error" not in ask(shop.app, "add", "extra", {**line, "kwargs": {}, "options": {}}, 60.0)
    with opened("/schedules") as made:
        press(made.page, "Pause: Pause nightly")
        wait_until(lambda: shop.schedule()["nightly"]["paused"])
        expect(made.page.get_by_role("row", name="nightly")).to_contain_text("paused")
        press(made.page, "Resume: Resume nightly")
        wait_until(lambda: not shop.schedule()["nightly"]["paused"])
        expect(made.page.get_by_role("row", name="nightly")).not_to_contain_text("paused")
        press(made.page, "Run now: Run extra now")
        press(made.page, "Remove…: Remove extra", sure=True)
        wait_until(lambda: "extra" not in shop.schedule())

    def ran() -> bool:
        rows = shop.api("tasks?name=shop.tick&state=SUCCESS")
        return any("extra" in row["args"] for row in rows)

    wait_until(ran, 15, "the entry's call has run")


def test_time_limits(shop: Shop, opened: Open) -> None:
    """The last of them: the limits stay."""
    for field, seconds, error in (
        ("Hard, s", "0.5", TimeLimitExceeded),
        ("Soft, s", "0.3", SoftTimeLimitExceeded),
    ):
        with opened(f"/workers/{NODE}") as made:
            form = made.page.locator("form[action$=time_limit]")
            form.get_by_label("Task").fill("shop.held")
            form.get_by_label(field).fill(seconds)
            form.get_by_role("button").click()
            told(made.page, NODE)
        late = dashboard_tasks.held.delay(str(shop.folder / "never"))
        with pytest.raises(error):
            late.get(timeout=60)


# --- all of them -----------------------------------------------------------------------------------------

TEMPLATES = Path(product.__file__).with_name("templates")
KINDS = {
    "overview": "/",
    "queue": "/queues/*",
    "worker": "/workers/*",
    "tasks": "/tasks",
    "task": "/tasks/*",
    "dead": "/dead",
    "letter": "/dead/letter",
    "schedules": "/schedules",
}
"""The page that a template makes."""


def placed() -> set[tuple[str, str]]:
    """Each action with each page that the templates give its button to, whatever it takes to see it there."""
    named = re.compile(r"""button\("(\w+)"|/do/(\w+)'""")
    macros = {
        text.split("(")[0]: {one or other for one, other in named.findall(text)}
        for text in (TEMPLATES / "parts.html").read_text().split("{% macro ")[1:]
    }
    found = set()
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text()
        actions = {one or other for one, other in named.findall(text)}
        actions = actions.union(*(macros[name] for name in re.findall(r"parts\.(\w+)\(", text)))
        if template.stem != "parts":
            found |= {(KINDS.get(template.stem, template.name), action) for action in actions}
    return found


def changes_something(control: Control) -> bool:
    return control.target.startswith("/do/") or control.page == "/do/*"


@pytest.mark.usefixtures("whole")
def test_each_button_was_pressed_in_each_of_its_places(controls: Controls) -> None:
    assert not controls.unused(changes_something)
    pressed = {(control.page, control.target.removeprefix("/do/")) for control in controls.used}
    assert {action for _, action in placed()} == set(ACTIONS)
    assert placed() <= pressed, placed() - pressed
