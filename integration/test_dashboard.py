"""The dashboard in headless Chromium, beside a real worker, beat and broker: each page, each button, each refusal.

| button | what is asserted on the broker, the worker or the beat |
|---|---|
| Revoke | the call, consumed later, does not run; one sent after it does |
| Terminate | the running call ends as REVOKED, its child is another process |
| Set (rate limit) | the worker's own limit; 0 lifts it |
| Set (time limit) | a call that runs longer ends as TimeLimitExceeded |
| Grow, Shrink | the worker's processes |
| Autoscale | the worker's bounds |
| Restart pool | every child is another process |
| Consume, Stop (on the worker's page, and on the queue's) | what the worker consumes |
| Events off, Events on | what the dashboard hears of |
| Purge | the queue is empty |
| Replay, Replay all, Drop, Drop all | what lies among the dead letters, and what waits |
| Pause, Resume, Run now, Remove | what the beat answers; a call that runs |
| Shut down | the worker exits with code 0 |

No page may complain on its console, fail to load something, or want anything from another host.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode, free_ports
from playwright.sync_api import Browser, Page, expect

from amqptasks import App, chain, group
from amqptasks.beat.asking import ask
from amqptasks.errors import TimeLimitExceeded
from amqptasks.schedules import schedule
from integration.apps import dashboard_tasks
from integration.support import Proxy, WorkerProcess, wait_until
from integration.support.browser import Tab, tab
from integration.support.processes import ROOT, Process

APP = "integration.apps.dashboard_tasks"
NODE = "w1@shop"
LISTENS = r"amqptasks dashboard on (http://\S+?)/?\s"
PICTURES = os.environ.get("AMQPTASKS_TEST_PICTURES")
"""A folder for a picture of each page, for whoever wants to look."""
TOO_WIDE = """[...document.querySelectorAll("*")].filter(each =>
    each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll, .tabs, .canvas")
).map(each => each.outerHTML.slice(0, 120))"""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}

Open = Callable[..., AbstractContextManager[Tab]]


def dashboard(log: Path, broker_url: str, *words: str, app: str = APP, **env: str) -> Process:
    """`amqptasks -A app -b broker_url dashboard --port 0 ...`; it listens when this returns."""
    said = ["-A", app] if app else []
    command = [sys.executable, "-m", "amqptasks", *said, "-b", broker_url, "dashboard", "--port", "0", *words]
    return Process(command, ready=LISTENS, log=log, env=env).start()


def address(process: Process) -> str:
    return process.wait_log(LISTENS)[1]


@dataclass
class Shop:
    """A system with a worker, a beat and a dashboard."""

    url: str
    folder: Path
    app: App
    worker: WorkerProcess
    base: str

    def ask(self, command: str, node: str = NODE, **arguments: Any) -> Any:
        """What the worker itself answers."""
        replies = self.app.control.broadcast(command, arguments, [node], reply=True, timeout=5.0, limit=1)
        return replies[0][node] if replies else None

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.base}/api/{path}", timeout=10) as answer:
            return json.load(answer)

    def known(self, task_id: str, state: str) -> dict[str, Any]:
        """The call, once the dashboard knows it in this state."""

        def look() -> Any:
            return next((row for row in self.api(f"tasks?search={task_id}") if row["state"] == state), None)

        return wait_until(look, 15, lambda: f"{state}; {self.api(f'tasks?search={task_id}')}")

    def children(self) -> set[int]:
        return set(self.ask("stats")["pool"]["processes"])

    def queues(self) -> set[str]:
        return {queue["name"] for queue in self.ask("active_queues")}

    def waiting(self, queue: str) -> int:
        return self.app.connection.inspect(queue).messages

    def schedule(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in ask(self.app, "list")["entries"]}


@pytest.fixture(scope="module")
def shop(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    app = dashboard_tasks.app
    app.conf.update(broker_url=broker_url)
    beat = [sys.executable, "-m", "amqptasks", "-A", APP, "-b", broker_url, "beat", "-l", "INFO"]
    with ExitStack() as stack:
        stack.callback(app.close)
        words = (APP, "-n", NODE, "-c", "2", "-Q", "orders", "-E")
        worker = stack.enter_context(WorkerProcess(*words, log=folder / "worker.log", broker_url=broker_url))
        stack.enter_context(Process(beat, ready="leads", log=folder / "beat.log"))
        # There from the beginning: a queue that is missing is looked for again only after a while.
        dashboard_tasks.bill.apply_async(("first",), queue="later")
        app.connection.purge("later")
        pages = stack.enter_context(dashboard(folder / "dashboard.log", broker_url))
        found = Shop(broker_url, folder, app, worker, address(pages))
        wait_until(lambda: found.api("workers"), 15, "the worker is heard of")
        yield found
        (folder / "go").touch()


@pytest.fixture
def opened(browser: Browser, shop: Shop) -> Open:
    """`opened(path)`: a tab there, which complains at the end if anything went wrong."""

    @contextmanager
    def open_(path: str = "/", *, base: str = "", quiet: bool = True, **options: Any) -> Iterator[Tab]:
        with tab(browser, base or shop.base, **options) as made:
            made.open(path)
            yield made
            if quiet:
                made.assert_quiet()

    return open_


def press(page: Page, name: str, *, sure: bool = False, within: str = "main") -> None:
    """Press a button, and where it asks whether that is meant, say so."""
    page.locator(within).get_by_role("button", name=re.compile(rf"^{re.escape(name)}")).first.click()
    if sure:
        asked = page.get_by_role("alertdialog")
        expect(asked).to_be_visible()
        asked.get_by_role("button").click()
    expect(page.locator("#told")).to_be_visible()


def told(page: Page, text: str) -> None:
    expect(page.locator("#told .notice.good")).to_contain_text(text)


# --- the pages -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(shop: Shop) -> dict[str, str]:
    """A call of each kind, by the state that it has come to."""
    add = dashboard_tasks
    flow = chain(add.bill.s(1), group(add.bill.s(2), add.bill.s(3)))()
    sent = {
        "SUCCESS": add.bill.delay("<script>alert(1)</script>").id,
        "FAILURE": add.charge.delay(7).id,
        "PENDING": add.bill.apply_async(("waits",), queue="later").id,
        "STARTED": add.held.delay(str(shop.folder / "go")).id,
    }
    add.refuse.delay(8)
    for state, each in sent.items():
        shop.known(each, state)
    flow.get(timeout=15)
    root = flow.children[0].parent or flow.parent if flow.parent is None else flow.parent
    return sent | {"flow": root.id if root is not None else flow.children[0].id}


def pages_of(calls: dict[str, str]) -> dict[str, str]:
    return {
        "overview": "/",
        "queues": "/queues?internal=1",
        "queue": "/queues/later",
        "workers": "/workers",
        "worker": f"/workers/{NODE}",
        "tasks": "/tasks",
        "task-success": f"/tasks/{calls['SUCCESS']}",
        "task-failure": f"/tasks/{calls['FAILURE']}",
        "task-flow": f"/tasks/{calls['flow']}",
        "dead": "/dead",
        "schedules": "/schedules",
    }


def test_every_page(opened: Open, calls: dict[str, str]) -> None:
    """Light and dark, wide and narrow: nothing complains, nothing is wider than its screen."""
    with opened() as made:
        for name, path in pages_of(calls).items():
            page = made.open(path)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", shade)[:3])) > 600) is (scheme == "light"), (
                    name,
                    shade,
                )
                for size in (WIDE, NARROW):
                    page.set_viewport_size(size)
                    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert over <= 0, (
                        f"{name} is {over} wider than {size['width']}: {page.evaluate(TOO_WIDE)}"
                    )
                    if PICTURES:
                        made.screenshot(Path(PICTURES) / f"{name}-{scheme}-{size['width']}.png")
            made.assert_quiet()


def test_what_the_pages_say(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    with opened() as made:
        expect(made.page.locator("#attention")).to_contain_text("Nobody consumes later.")
        assert "Nobody consumes dull." not in made.text("#attention")  # no worker and no call has declared it
        expect(made.page.locator("#tiles")).to_contain_text("Workers1online")
        made.open("/queues")
        expect(made.page.get_by_role("row", name="later")).to_contain_text("nobody consumes this")
        assert "The management plugin does not answer." in made.text("main")
        made.open(f"/workers/{NODE}")
        assert "shop.held" in made.text("#active")
        assert "6 tasks" in made.text() or "5 tasks" in made.text()
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
        assert "is not wanted" in made.text("pre") or "shop.refuse" in made.text("pre")
        made.open("/schedules")
        assert "nightly" in made.text("main table")
        assert "0 3 * * *" in made.text("main table")


def test_a_page_renews_itself_and_can_be_held(shop: Shop, opened: Open) -> None:
    with opened("/tasks") as made:
        first = dashboard_tasks.bill.delay("seen without a reload").id
        expect(made.page.locator("#calls")).to_contain_text(first[:8])
        made.page.locator("#live").click()
        expect(made.page.locator("#live-text")).to_have_text("Paused")
        second = dashboard_tasks.bill.delay("not seen").id
        shop.known(second, "SUCCESS")
        assert second[:8] not in made.text("#calls")
        made.page.locator("#live").click()
        expect(made.page.locator("#calls")).to_contain_text(second[:8])


def test_calls_are_found(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    with opened("/tasks") as made:
        made.page.get_by_label("State").select_option("FAILURE")
        made.page.wait_for_url("**state=FAILURE*")
        expect(made.page.locator("#calls tbody tr")).to_have_count(1)
        made.page.get_by_role("link", name="Clear").click()
        made.page.get_by_label("Search").fill("declined")
        made.page.get_by_role("button", name="Show").click()
        expect(made.page.locator("#calls tbody tr")).to_have_count(1)
        made.page.get_by_label("Id of a call").fill(calls["SUCCESS"])
        made.page.get_by_role("button", name="Go").click()
        expect(made.page).to_have_url(f"{shop.base}/tasks/{calls['SUCCESS']}")


def test_the_colours_are_switched_and_kept(opened: Open) -> None:
    with opened(scheme="light") as made:
        shade = "getComputedStyle(document.body).backgroundColor"
        light = made.page.evaluate(shade)
        made.page.locator("#theme button").click()
        expect(made.page.locator("html[data-theme=dark]")).to_be_attached()
        assert made.page.evaluate(shade) != light
        made.open("/queues")
        assert made.page.locator("html[data-theme=dark]").count() == 1


# --- buttons: calls --------------------------------------------------------------------------------------


def test_revoke(shop: Shop, opened: Open) -> None:
    shop.app.connection.purge("later")
    revoked = dashboard_tasks.bill.apply_async(("revoked",), queue="later").id
    shop.known(revoked, "PENDING")
    with opened(f"/tasks/{revoked}") as made:
        press(made.page, "Revoke")
        told(made.page, NODE)
    assert revoked in shop.ask("revoked")

    after = dashboard_tasks.bill.apply_async(("after",), queue="later")
    shop.ask("add_consumer", queue="later")
    assert after.get(timeout=15) == {"order": "after"}
    shop.known(revoked, "REVOKED")
    shop.ask("cancel_consumer", queue="later")


def test_terminate(shop: Shop, opened: Open, calls: dict[str, str]) -> None:
    before = shop.children()
    with opened(f"/tasks/{calls['STARTED']}") as made:
        press(made.page, "Terminate", sure=True)
        told(made.page, NODE)
        expect(made.page.locator("#state")).to_have_text("REVOKED")
    wait_until(lambda: not shop.ask("active"), 10, "nothing runs")
    assert len(before - wait_until(lambda: len(found := shop.children()) == 2 and found)) == 1


def test_events_off_and_on(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        press(made.page, "Events off")
        told(made.page, NODE)
        unheard = dashboard_tasks.bill.delay("unheard")
        unheard.get(timeout=15)
        press(made.page, "Events on")
        told(made.page, NODE)
        heard = dashboard_tasks.bill.delay("heard")
        heard.get(timeout=15)
    shop.known(heard.id, "SUCCESS")
    shop.known(unheard.id, "PENDING")  # its sender told of it, its worker did not


# --- buttons: the worker ---------------------------------------------------------------------------------


def limits(shop: Shop) -> list[str]:
    return [text for text in shop.ask("registered", taskinfoitems=["rate_limit"]) if "shop.bill" in text]


def test_rate_limits(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        made.page.get_by_label("Rate limit of shop.bill").fill("10/s")
        made.page.get_by_label("Rate limit of shop.bill").press("Enter")
        told(made.page, NODE)
        expect(made.page.get_by_role("row", name="shop.bill").last).to_contain_text("10/s")
        assert "10/s" in limits(shop)[0]

        made.page.get_by_label("Rate limit of shop.bill").fill("0")
        made.page.get_by_label("Rate limit of shop.bill").press("Enter")
        told(made.page, NODE)
        assert "10/s" not in limits(shop)[0]


def test_time_limits(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}") as made:
        form = made.page.locator("form[action$=time_limit]")
        form.get_by_label("Task").fill("shop.held")
        form.get_by_label("Hard, s").fill("0.5")
        form.get_by_role("button").click()
        told(made.page, NODE)
    late = dashboard_tasks.held.delay(str(shop.folder / "never"))
    with pytest.raises(TimeLimitExceeded):
        late.get(timeout=15)
    shop.known(late.id, "FAILURE")


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
        made.page.get_by_label("Most").fill("3")
        press(made.page, "Autoscale")
        told(made.page, "w2@shop")
        scaled = shop.ask("stats", "w2@shop")["autoscaler"]
        assert (scaled["max"], scaled["min"]) == (3, 1)

        press(made.page, "Shut down", sure=True)
        told(made.page, "w2@shop")
        assert other.wait(20) == 0
        made.open("/workers")
        expect(made.page.get_by_role("row", name="w2@shop")).to_contain_text("offline")


# --- buttons: queues, dead letters, the schedule ---------------------------------------------------------


def test_purge(shop: Shop, opened: Open) -> None:
    for order in range(3):
        dashboard_tasks.bill.apply_async((order,), queue="later")
    waiting = wait_until(lambda: shop.waiting("later"))
    with opened("/queues/later") as made:
        press(made.page, "Purge", sure=True)
        told(made.page, f"{waiting} messages of later removed.")
    assert shop.waiting("later") == 0


def test_replay_and_drop(shop: Shop, opened: Open) -> None:
    """Dead letters of a queue whose worker was taken away, so that what is replayed waits to be counted."""
    shop.ask("add_consumer", queue="later")
    ids = [dashboard_tasks.refuse.apply_async((order,), queue="later").id for order in range(6)]
    wait_until(lambda: shop.waiting("later.dead") == 6, 15)
    shop.ask("cancel_consumer", queue="later")
    wait_until(lambda: "later" not in shop.queues())

    with opened("/dead?queue=later") as made:
        for task_id in ids[:2]:
            made.page.get_by_label(f"Mark shop.refuse {task_id}").check()
        expect(made.page.locator("#marked")).to_have_text("2 marked")
        press(made.page, "Replay")
        told(made.page, "2 replayed")
        assert (shop.waiting("later"), shop.waiting("later.dead")) == (2, 4)

        made.page.get_by_label(f"Mark shop.refuse {ids[2]}").check()
        press(made.page, "Drop", sure=True)
        told(made.page, "1 dropped")
        assert (shop.waiting("later"), shop.waiting("later.dead")) == (2, 3)

        made.page.get_by_label(f"Mark shop.refuse {ids[3]}").check()
        made.page.get_by_role("link", name=ids[3][:8]).click()
        press(made.page, "Replay")
        told(made.page, "1 replayed")
        assert (shop.waiting("later"), shop.waiting("later.dead")) == (3, 2)

        made.open("/dead?queue=later")
        press(made.page, "Replay all", sure=True)
        told(made.page, "2 replayed")
        assert (shop.waiting("later"), shop.waiting("later.dead")) == (5, 0)


def test_drop_all(shop: Shop, opened: Open) -> None:
    dashboard_tasks.refuse.delay("dropped")
    wait_until(lambda: shop.waiting("orders.dead") >= 1, 15)
    with opened("/dead?queue=orders") as made:
        press(made.page, "Drop all", sure=True)
        told(made.page, "dropped")
    assert shop.waiting("orders.dead") == 0


def test_the_schedule(shop: Shop, opened: Open) -> None:
    line = {"task": "shop.tick", "schedule": schedule(3600).spec(), "args": ["extra"], "catch_up": "latest"}
    assert "error" not in ask(shop.app, "add", "extra", {**line, "kwargs": {}, "options": {}})
    with opened("/schedules") as made:
        press(made.page, "Pause: Pause nightly")
        assert shop.schedule()["nightly"]["paused"]
        expect(made.page.get_by_role("row", name="nightly")).to_contain_text("paused")
        press(made.page, "Resume: Resume nightly")
        assert not shop.schedule()["nightly"]["paused"]
        press(made.page, "Run now: Run extra now")
        press(made.page, "Remove…: Remove extra", sure=True)
        assert "extra" not in shop.schedule()

    def ran() -> bool:
        rows = shop.api("tasks?name=shop.tick&state=SUCCESS")
        return any("extra" in row["args"] for row in rows)

    wait_until(ran, 15, "the entry's call has run")


# --- who may, and what happens without ------------------------------------------------------------------


def test_a_login(shop: Shop, opened: Open, tmp_path: Path) -> None:
    secret = {"AMQPTASKS_DASHBOARD_PASSWORD": "open sesame"}
    with dashboard(tmp_path / "log", shop.url, "--user", "ann", **secret) as process:
        with opened("/workers", base=address(process), quiet=False) as made:
            expect(made.page.get_by_role("heading", name="Log in")).to_be_visible()
            for password, heading in (("wrong", "Log in"), ("open sesame", "Workers")):
                made.page.get_by_label("User").fill("ann")
                made.page.get_by_label("Password").fill(password)
                made.page.get_by_role("button", name="Log in").click()
                expect(made.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
            assert made.complaints == [f"401: {address(process)}/login"]
            assert made.page.evaluate("document.cookie") == ""
            made.page.get_by_role("button", name="Log out").click()
            made.open("/queues")
            expect(made.page.get_by_role("heading", name="Log in")).to_be_visible()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.log() == f"amqptasks dashboard on {address(process)}/\n"


def test_read_only(shop: Shop, opened: Open, tmp_path: Path) -> None:
    """Without an app, too: the broker's URL is enough."""
    with dashboard(tmp_path / "log", shop.url, "--read-only", app="") as process:
        wait_until(lambda: json.load(urllib.request.urlopen(f"{address(process)}/api/workers")), 15)
        with opened(f"/workers/{NODE}", base=address(process)) as made:
            assert made.page.locator("main button").count() == 0
            assert "read-only" in made.text(".tools")
            form = f"{{method: 'POST', body: 'node={NODE}&sure=yes'}}"
            assert made.page.evaluate(f"fetch('/do/shutdown', {form}).then(r => r.status)") == 403
            made.complaints.clear()
        process.signal(signal.SIGINT)
        assert process.wait() == 0
        assert process.log() == f"amqptasks dashboard on {address(process)}/\n"
    assert shop.ask("ping") == {"ok": "pong"}


def test_without_a_script(shop: Shop, opened: Open) -> None:
    with opened(f"/workers/{NODE}", java_script_enabled=False) as made:
        assert made.page.locator("meta[http-equiv=refresh]").count() == 1
        press(made.page, "Events on")
        told(made.page, NODE)
        made.open("/queues/dull")
        press(made.page, "Purge", sure=True)
        told(made.page, "0 messages of dull removed.")


def test_the_broker_away_and_back(
    browser: Browser, shop: Shop, node: PrivateNode, vhost: str, proxy: Proxy, tmp_path: Path
) -> None:
    with dashboard(tmp_path / "log", proxy.url(vhost)) as process, tab(browser, address(process)) as made:
        page = made.open("/")
        expect(page.locator("#some-workers")).to_contain_text(NODE)
        proxy.refuse()
        proxy.rst()
        expect(page.locator("#notices")).to_contain_text("The broker is away.")
        expect(page.locator("#some-workers")).to_contain_text(NODE)  # as it was last known
        made.open("/workers")
        expect(page.locator("#notices")).to_contain_text("The broker is away.")
        proxy.accept()
        expect(page.locator("#notices")).not_to_contain_text("The broker is away.", timeout=30_000)
        made.assert_quiet()


def test_with_the_management_plugin_there_is_more(
    browser: Browser, managed: tuple[PrivateNode, str], tmp_path: Path
) -> None:
    broker, api = managed
    broker.add_vhost("rich")
    url = broker.url("rich")
    app = App("rich", broker=url)
    with (
        app,
        dashboard(tmp_path / "log", url, "--management-url", api.removesuffix("/api/"), app="") as process,
        tab(browser, address(process)) as made,
    ):
        app.send_task("shop.bill", (1,))
        page = made.open("/queues")
        expect(page.get_by_role("row", name="amqptasks")).to_contain_text("nobody consumes this")
        assert "management plugin does not answer" not in made.text("main")
        expect(page.get_by_role("row", name="amqptasks").locator("td").nth(1)).to_have_text(
            "0"
        )  # held: known
        made.assert_quiet()


# --- the command -----------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "amqptasks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_a_port_in_use_is_a_line(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("-b", shop.url, "dashboard", "--port", str(taken.getsockname()[1]))

    assert ran.returncode == 73
    assert re.fullmatch(
        r"error: 127.0.0.1 port \d+ cannot be listened on: .*; choose another .*\n", ran.stderr
    )


def test_no_broker_is_a_line() -> None:
    (port,) = free_ports(1)

    ran = run("-b", f"amqp://guest@127.0.0.1:{port}//", "dashboard")

    assert ran.returncode == 69
    assert ran.stderr.count("\n") == 1
