"""The dashboard's pages in headless Chromium, beside a real worker, beat and broker: their looks, and ways through them.

No page may complain on its console, fail to load something, want anything from another host, or be wider than its
screen. The buttons that change something are pressed in `test_dashboard_buttons.py`, those of the login in
`test_dashboard_access.py`; the last test here says which of all the others were shown and not used.
"""

import base64
import json
import os
import re
import urllib.request
from pathlib import Path

import pytest
from broker import PrivateNode
from playwright.sync_api import Browser, expect

from amqptasks import App
from amqptasks.beat.asking import ask
from amqptasks.dashboard.pages import Pages, routes
from integration.apps import dashboard_tasks
from integration.support import wait_until
from integration.support.browser import tab
from integration.support.controls import Control, Controls
from integration.support.shop import NODE, Open, Shop, address, dashboard, kind

PICTURES = os.environ.get("AMQPTASKS_TEST_PICTURES")
"""A folder for a picture of each page, for whoever wants to look."""
TOO_WIDE = """[...document.querySelectorAll("*")].filter(each =>
    each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll, .tabs, .canvas")
).map(each => each.outerHTML.slice(0, 120))"""
CUT = """[...document.querySelectorAll(".scroll")].filter(each => each.scrollWidth > each.clientWidth)
    .map(each => each.getAttribute("aria-label"))"""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
SHADE = "getComputedStyle(document.body).backgroundColor"


def pages_of(calls: dict[str, str]) -> dict[str, str]:
    return {
        "overview": "/",
        "queues": "/queues?internal=1",
        "queue": "/queues/later",
        "workers": "/workers",
        "worker": f"/workers/{NODE}",
        "tasks": "/tasks",
        "tasks-found": "/tasks?name=shop.bill&queue=orders&limit=2",
        "tasks-marked": "/tasks?state=PENDING",
        "task-success": f"/tasks/{calls['SUCCESS']}",
        "task-failure": f"/tasks/{calls['FAILURE']}",
        "task-running": f"/tasks/{calls['STARTED']}",
        "task-flow": f"/tasks/{calls['flow']}",
        "dead": "/dead",
        "schedules": "/schedules",
        "nothing": "/queues/nothing",
    }


def test_every_page(opened: Open, calls: dict[str, str]) -> None:
    """Light and dark, wide and narrow: nothing complains, nothing is wider than its screen, no table is cut off."""
    with opened() as made:
        for name, path in pages_of(calls).items():
            page = made.open(path)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                shade = page.evaluate(SHADE)
                bright = sum(map(int, re.findall(r"\d+", shade)[:3])) > 600
                assert bright is (scheme == "light"), (name, shade)
                for size in (WIDE, NARROW):
                    page.set_viewport_size(size)
                    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert over <= 0, (
                        f"{name} is {over} wider than {size['width']}: {page.evaluate(TOO_WIDE)}"
                    )
                    assert not (cut := page.evaluate(CUT)), f"{name} at {size['width']} cuts off {cut}"
                    if PICTURES:
                        made.screenshot(Path(PICTURES) / f"{name}-{scheme}-{size['width']}.png")
            if name == "nothing":
                assert [each[:3] for each in made.complaints] == ["404"]
                made.complaints.clear()
            made.assert_quiet()


def test_what_the_pages_say(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    with opened() as made:
        expect(made.page.locator("#attention")).to_contain_text("Nobody consumes later.")
        assert "Nobody consumes dull." not in made.text("#attention")  # no worker and no call has declared it
        expect(made.page.locator("#tiles")).to_contain_text("Workers1online")
        made.open("/queues")
        expect(made.page.get_by_role("row", name="later")).to_contain_text("nobody consumes this")
        expect(made.page.locator("main")).to_contain_text("The management plugin does not answer.")
        made.open(f"/workers/{NODE}")
        expect(made.page.locator("#active")).to_contain_text("shop.held")
        wait_until(lambda: re.search(r"\b[56] tasks\b", made.text()))
        made.open(f"/tasks/{calls['FAILURE']}")
        assert "ValueError" in made.text("pre.trace")
        assert "<b>declined</b>" in made.text("#call")
        made.open(f"/tasks/{calls['SUCCESS']}")
        assert "<script>alert(1)</script>" in made.text("#call")
        assert re.search(r"PENDING .* RECEIVED .* STARTED .* SUCCESS", made.text("#timeline"))
        made.open(f"/tasks/{calls['flow']}")
        assert made.page.locator("svg.graph .node").count() >= 3
        made.page.locator("svg.graph a").last.click()
        expect(made.page.locator("svg.graph .node.here")).to_have_count(1)
        made.open("/dead")
        assert "shop.refuse" in made.text("main table")
        made.page.locator("main table a").first.click()
        made.page.wait_for_url("**/dead/letter?*")
        assert "shop.refuse" in made.text("pre")
        made.open("/schedules")
        assert "nightly" in made.text("main table")
        assert "0 3 * * *" in made.text("main table")


# --- ways through them -----------------------------------------------------------------------------------


def test_tabs_and_tiles_lead_to_their_pages(opened: Open) -> None:
    with opened() as made:
        title = made.page.get_by_role("heading", level=1)
        for name in ("Queues", "Workers", "Tasks", "Dead letters", "Schedules", "Overview"):
            made.page.locator("#tabs").get_by_role("link", name=name).click()
            expect(title).to_have_text(name)
            expect(made.page.locator("#tabs [aria-current]")).to_contain_text(name)
        made.page.locator("a.tile").filter(has_text="Failing").click()
        expect(title).to_have_text("Tasks")
        expect(made.page.get_by_label("State")).to_have_value("FAILURE")


def test_by_keys_alone_the_page_is_reached(opened: Open) -> None:
    with opened("/workers") as made:
        made.page.keyboard.press("Tab")
        expect(made.page.locator(".skip")).to_be_focused()
        made.page.keyboard.press("Enter")
        made.page.keyboard.press("Tab")
        assert made.page.evaluate("document.activeElement.closest('main') !== null")


def test_a_page_renews_itself_and_can_be_held(shop: Shop, opened: Open) -> None:
    with opened("/tasks") as made:
        first = dashboard_tasks.bill.delay("seen without a reload").id
        expect(made.page.locator("#calls")).to_contain_text(first[:8])
        made.page.locator("#live").click()
        expect(made.page.locator("#live-text")).to_have_text("Paused")
        second = dashboard_tasks.bill.delay("not seen").id
        shop.known(second, "SUCCESS")
        asked: list[str] = []
        made.page.on("request", lambda request: asked.append(request.url))
        made.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # renews what is not held
        assert second[:8] not in made.text("#calls")
        assert not asked
        made.page.locator("#live").click()
        expect(made.page.locator("#calls")).to_contain_text(second[:8])


def test_calls_are_found(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    with opened("/tasks") as made:
        page, rows = made.page, made.page.locator("#calls tbody tr")
        for label, choice, field in (
            ("State", "FAILURE", "state=FAILURE"),
            ("Task", "shop.charge", "name=shop.charge"),
            ("Worker", NODE, "worker=w1%40shop"),
        ):
            page.get_by_label(label, exact=True).select_option(choice)
            page.wait_for_url(f"**{field}*")
        expect(rows).to_have_count(1)
        page.get_by_role("link", name="Clear").click()
        expect(page.get_by_label("State")).to_have_value("")
        page.get_by_label("Search").fill("declined")
        page.get_by_role("button", name="Show").click()
        expect(rows).to_have_count(1)

        made.open("/queues/later")
        page.locator("section", has=page.get_by_role("heading", name="Latest calls")).get_by_role(
            "link", name="All calls"
        ).click()
        expect(page.get_by_label("Queue")).to_have_value("later")
        expect(page.locator("#calls")).to_contain_text(calls["PENDING"][:8])
        page.get_by_label("Queue").fill("dull")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#calls")).to_contain_text("No call fits.")

        made.open("/tasks")
        page.get_by_label("Id of a call").fill(calls["SUCCESS"])
        page.get_by_role("button", name="Go").click()
        expect(page).to_have_url(f"{shop.base}/tasks/{calls['SUCCESS']}")


def test_calls_are_leafed_through(opened: Open, calls: dict[str, str]) -> None:
    with opened("/tasks?limit=3") as made:
        ids = made.page.locator("#calls tbody th .mono")
        first = ids.all_text_contents()
        made.page.get_by_role("link", name="Older").click()
        made.page.wait_for_url("**before=*")
        second = ids.all_text_contents()
        assert len(first) == len(second) == 3
        assert not set(first) & set(second)
        made.page.get_by_role("link", name="Newest").click()
        expect(ids.first).to_have_text(first[0])


def test_inner_queues_are_shown_when_they_are_asked_for(opened: Open, calls: dict[str, str]) -> None:
    with opened("/queues") as made:
        dead = made.page.get_by_role("row", name="later.dead")
        expect(dead).to_have_count(0)
        made.page.get_by_role("link", name="Show all queues").click()
        expect(dead).to_have_count(1)
        made.page.get_by_role("link", name="Task queues only").click()
        expect(dead).to_have_count(0)
        made.open("/queues/nothing")
        made.complaints.clear()  # the 404
        made.page.get_by_role("link", name="Overview").last.click()
        expect(made.page.locator("#tiles")).to_be_visible()


def test_a_workers_settings_unfold(opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        hidden = made.page.locator("details dt", has_text="task_default_queue")
        expect(hidden).to_be_hidden()
        made.page.locator("details summary").click()
        expect(hidden).to_be_visible()


def test_a_schedule_is_asked_again(shop: Shop, opened: Open) -> None:
    with opened("/schedules") as made:
        often = made.page.get_by_role("row", name="often")
        ask(shop.app, "pause", "often", timeout=60.0)
        assert "paused" not in often.inner_text()  # it does not renew itself
        made.page.get_by_role("link", name="Ask again").click()
        expect(often).to_contain_text("paused")
        ask(shop.app, "resume", "often", timeout=60.0)


def test_dead_letters_are_chosen_and_leafed_through(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    for order in range(51 - shop.waiting("orders.dead")):
        dashboard_tasks.refuse.delay(f"dead {order}")

    def all_lie() -> None:
        """A page that has shown them gives them back, which takes the broker a moment."""
        wait_until(lambda: shop.waiting("orders.dead") == 51, 20)

    all_lie()
    shop.known(calls["SUCCESS"], "SUCCESS")
    with opened("/dead") as made:
        page, rows = made.page, made.page.locator("main tbody tr")
        wait_until(lambda: made.open("/dead").locator("option[value=orders]").count(), 15)
        all_lie()
        page.get_by_label("Queue", exact=True).select_option("orders")
        page.wait_for_url("**queue=orders*")
        expect(rows).to_have_count(50)
        assert "1 to 50 of 51" in made.text(".pages")
        all_lie()
        page.get_by_role("link", name="Next").click()
        expect(rows).to_have_count(1)
        all_lie()
        page.get_by_role("link", name="Before").click()
        expect(rows).to_have_count(50)
        all_lie()
        page.get_by_role("button", name="Show").click()
        expect(rows).to_have_count(50)


def test_the_colours_are_switched_and_kept(opened: Open) -> None:
    with opened(scheme="light") as made:
        page, button = made.page, made.page.locator("#theme button")
        light, dark = page.evaluate(SHADE), "rgb(14, 17, 22)"
        button.click()
        expect(page.locator("html[data-theme=dark] body")).to_have_css("background-color", dark)
        made.open("/queues")
        expect(page.locator("html[data-theme=dark] body")).to_have_css("background-color", dark)

        page.emulate_media(color_scheme="dark")
        button.click()
        expect(page.locator("html[data-theme=light] body")).to_have_css("background-color", light)
        button.click()
        expect(page.locator("html:not([data-theme]) body")).to_have_css("background-color", dark)


def counted(url: str) -> bool:
    """Whether the management plugin tells of what workers hold, which takes it a moment."""
    user = base64.b64encode(b"guest:guest").decode()
    plain = url.replace("guest:guest@", "")
    asked = urllib.request.Request(plain, headers={"Authorization": f"Basic {user}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return "messages_unacknowledged" in json.load(answer)


def test_with_the_management_plugin_there_is_more(
    browser: Browser, managed: tuple[PrivateNode, str], tmp_path: Path
) -> None:
    broker, api = managed
    broker.add_vhost("rich")
    url = broker.url("rich")
    # A quorum queue is counted every five seconds.
    with App("rich", broker=url, task_default_queue_type="classic") as app:
        app.send_task("shop.bill", (1,))
        wait_until(lambda: counted(f"{api}queues/rich/amqptasks"), 15, "the plugin has counted")
        process = dashboard(tmp_path / "log", url, "--management-url", api.removesuffix("/api/"), app="")
        with process, tab(browser, address(process)) as made:
            row = made.open("/queues").get_by_role("row", name="amqptasks")
            expect(row).to_contain_text("nobody consumes this")
            expect(made.page.locator("main")).not_to_contain_text("management plugin does not answer")
            expect(row.locator("td").nth(1)).to_have_text("0")  # held: known
            made.assert_quiet()


# --- all of them -----------------------------------------------------------------------------------------


def only_shows(control: Control) -> bool:
    """Whether it is one of this module's, and not one that changes something, or one of the login."""
    return not control.target.startswith(("/do/", "/login", "/logout")) and control.page != "/do/*"


@pytest.mark.usefixtures("whole")
def test_every_page_was_seen_and_each_control_used(controls: Controls) -> None:
    paths = [path for path in routes(Pages(None, None)) if path != "/find"]  # type: ignore[arg-type]
    assert {kind(re.sub(r"{.*}", "x", path)) for path in paths} <= controls.pages
    assert len(controls.used) > 15
    assert not controls.unused(only_shows)
