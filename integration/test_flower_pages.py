"""The pages of the real Flower in headless Chromium, beside two workers of ours; buttons are pressed.

| page | text and effect that are asserted |
|---|---|
| / | both workers Online, what they have processed, failed, succeeded, their load; after a worker's end Offline |
| /worker, Pool | implementation, concurrency, processes, pid; Grow, Shrink, Restart Pool, Autoscale range |
| /worker, Broker | host, port, virtual host, user |
| /worker, Queues | queue, key, arguments; Add, Cancel Consumer |
| /worker, Tasks | counts by task; the running one with its pid; the revoked one |
| /worker, Limits | every task; Apply of a rate, Hard of a limit, on a Flower that knows the tasks |
| /worker, Config | what differs from the defaults, the password hidden |
| /worker, System | processor time, memory |
| /worker, Other | our counters |
| /worker after a restart | the new pid, one child more, an empty count |
| /tasks | rows of every state, the buttons that filter, a search, the worker's name |
| /task, succeeded | name, arguments, result, times, runtime, worker |
| /task, failed | exception and traceback |
| /task, retried | RETRY with exception and retries; Revoke; REVOKED |
| /task, running | STARTED; Terminate; REVOKED |
| /task of a chain, a chord | root, parent, children as links |
| /broker | URL without password; depth and consumers of each queue |

No page may complain on its console, fail to load something, or want anything from another host.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from broker import PrivateNode
from playwright.sync_api import Browser, expect

from amqptasks import chord
from integration.support import flower as watching
from integration.support import wait_until
from integration.support.browser import Tab, tab
from integration.support.flower import APP, FIRST, OTHER, SECOND, Flower, Watched
from integration.support.peers import printed_queues

Opened = Callable[..., AbstractContextManager[Tab]]
PICTURES = os.environ.get("AMQPTASKS_TEST_PICTURES")
"""A folder for a picture of each page as it is left, for whoever wants to look."""


@pytest.fixture(scope="module")
def watched(managed: tuple[PrivateNode, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching.watched(*managed, "pages", tmp_path_factory.mktemp("pages")) as both:
        yield both


@pytest.fixture(scope="module")
def flower(watched: Watched) -> Flower:
    started = watched.flower()
    started.online(FIRST, SECOND)
    return started


@pytest.fixture
def opened(browser: Browser, flower: Flower, request: pytest.FixtureRequest) -> Opened:
    """`with opened("/tasks") as tab:`; nothing may have gone wrong when it is left."""

    @contextmanager
    def open_page(path: str, base: str = flower.base, allowed: str = "") -> Iterator[Tab]:
        with tab(browser, base) as made:
            made.open(path)
            yield made
            if PICTURES:
                made.screenshot(Path(PICTURES) / f"{request.node.name}{re.sub(r'[^a-z]+', '-', path)}.png")
            made.complaints = [said for said in made.complaints if not allowed or allowed not in said]
            made.assert_quiet()

    return open_page


def show(tab: Tab, name: str) -> str:
    """Choose one of a worker page's tabs; what it shows."""
    tab.page.click(f"#worker-tab-{name}")
    expect(tab.page.locator(f"#tab-{name}")).to_be_visible()
    return tab.text(f"#tab-{name}")


KEEP = """() => {
  window.said = "";
  new MutationObserver((_, observer) => {
    const box = document.querySelector(".toast-body");
    if (box === null) return;
    window.said = box.textContent;
    observer.disconnect();
  }).observe(document.body, { childList: true, subtree: true });
}"""


def pressed(tab: Tab, selector: str) -> str:
    """Press a button; what Flower then says in a box of its own, which is closed again."""
    # It closes by itself after some seconds: what it says is kept as soon as it is there.
    tab.page.evaluate(KEEP)
    tab.page.click(selector)
    said = str(tab.page.wait_for_function("() => window.said", timeout=90_000).json_value())
    tab.page.evaluate("() => document.querySelectorAll('.toast .btn-close').forEach((each) => each.click())")
    expect(tab.page.locator(".toast")).to_have_count(0)
    return said


def rows(tab: Tab, table: str) -> dict[str, str]:
    """The rows of a table, by the text of their first cell."""
    found = [row.locator("td").all_inner_texts() for row in tab.page.locator(f"{table} tbody tr").all()]
    return {cells[0].strip(): " ".join(" ".join(cells[1:]).split()) for cells in found if cells}


# --- workers ---------------------------------------------------------------------------------------------


def test_the_list_of_workers(flower: Flower, watched: Watched, opened: Opened) -> None:
    good = [watched.send("add", number, 1, queue=OTHER) for number in range(3)]
    bad = watched.send("fail", "listed", queue=OTHER)
    for call in good:
        flower.task(call.id, "SUCCESS")
    flower.task(bad.id, "FAILURE")

    with opened("/") as tab:
        expect(tab.page.locator("#workers-online")).to_have_text("2")
        expect(tab.page.locator("#workers-succeeded")).to_have_text("3")
        expect(tab.page.locator("#workers-failed")).to_have_text("1")
        # Online, active, processed, failed, succeeded, and three averages of the load. What is active a worker says
        # every two seconds.
        patterns = {node: rf"Online {counts} [\d.]+ [\d.]+ [\d.]+" for node, counts in
                    ((FIRST, "0 0 0 0"), (SECOND, "0 4 1 3"))}  # fmt: skip

        def shown() -> bool:
            now = rows(tab, "#workers-table")
            return now.keys() == {FIRST, SECOND} and all(
                re.fullmatch(pattern, now[node]) for node, pattern in patterns.items()
            )

        wait_until(shown, 15, lambda: str(rows(tab, "#workers-table")))
        tab.page.click(f"text={SECOND}")
        expect(tab.page.locator("#workername")).to_have_text(SECOND)


def test_the_pool_of_a_worker_and_its_buttons(watched: Watched, opened: Opened) -> None:
    stats = watched.ask("stats")
    with opened(f"/worker/{FIRST}") as tab:
        pool = rows(tab, "#tab-pool")
        assert (pool["Implementation"], pool["Max concurrency"]) == ("Amqptasks:prefork", "2")
        assert pool["Worker PID"] == str(stats["pid"])
        assert [int(pid) for pid in re.findall(r"\d+", pool["Processes"])] == stats["pool"]["processes"]

        assert pressed(tab, "#worker-pool-grow") == f"Growing '{FIRST}' worker's pool by 1"
        assert watched.ask("stats")["pool"]["max-concurrency"] == 3
        assert pressed(tab, "#worker-pool-shrink") == f"Shrinking '{FIRST}' worker's pool by 1"
        assert watched.ask("stats")["pool"]["max-concurrency"] == 2

        tab.page.click("#worker-group")
        assert pressed(tab, "#worker-pool-restart") == f"Restarting '{FIRST}' worker's pool"
        before = set(stats["pool"]["processes"])
        wait_until(lambda: not before & set(watched.ask("stats")["pool"]["processes"]), 15)
        for button, says in (("", "Successfully refreshed"), ("-all", "Refreshed All Workers")):
            tab.page.click("#worker-group")
            assert pressed(tab, f"#worker-refresh{button}") == says

    with opened(f"/worker/{FIRST}", allowed="403: ") as tab:
        tab.page.fill("#min-autoscale", "1")
        tab.page.fill("#max-autoscale", "3")
        assert "Autoscale not enabled" in pressed(tab, "#worker-pool-autoscale")


def test_the_broker_and_the_queues_of_a_worker(flower: Flower, watched: Watched, opened: Opened) -> None:
    with opened(f"/worker/{SECOND}") as tab:
        broker = tab.text("#tab-broker") or show(tab, "broker")
        assert f"Port {watched.app.connection.server.port}" in broker
        for line in ("Hostname 127.0.0.1", "Virtual host pages", "Userid guest", "Transport amqp"):
            assert line in broker

        show(tab, "queues")
        [(name, queue)] = rows(tab, "#tab-queues").items()
        assert name == OTHER
        # Exclusive, durable, key, no ack, alias, arguments.
        assert queue.startswith(f"False True {OTHER} False None {{'x-queue-type': 'quorum'"), queue

        tab.page.fill("#add-consumer-name", "more")
        assert pressed(tab, "#worker-add-consumer") == "add consumer more"
        assert watched.send("add", 1, 2, queue="more").get(timeout=30) == 3
        flower.worker(SECOND)  # a page shows what was last heard
        tab.page.goto(tab.page.url.partition("#")[0])
        tab.page.reload()
        show(tab, "queues")
        assert rows(tab, "#tab-queues").keys() == {OTHER, "more"}
        assert pressed(tab, "#worker-cancel-consumer-more") == "no longer consuming from more"
        assert [queue["name"] for queue in watched.ask("active_queues", SECOND)] == [OTHER]


def test_the_tasks_of_a_worker(flower: Flower, watched: Watched, opened: Opened, tmp_path: Path) -> None:
    done, held = watched.send("add", 1, 1), watched.send("held", str(tmp_path / "go"))
    flower.task(done.id, "SUCCESS")
    flower.task(held.id, "STARTED")
    watched.app.control.revoke("never-sent")
    [active] = watched.ask("active")
    flower.worker(FIRST)

    with opened(f"/worker/{FIRST}") as tab:
        shown = show(tab, "tasks")
        assert re.search(rf"Processed tasks .*{re.escape(APP)}\.add \d+", shown)
        assert f"{APP}.held {held.id} True {active['worker_pid']} ('{tmp_path}/go',)" in shown
        assert "never-sent" in shown
        for heading in ("Scheduled tasks", "Reserved tasks", "Revoked tasks"):
            assert heading in shown
    (tmp_path / "go").touch()
    assert held.get(timeout=30) == "let go"


def test_config_system_and_counters_of_a_worker(watched: Watched, opened: Opened) -> None:
    with opened(f"/worker/{FIRST}") as tab:
        config = show(tab, "config")
        assert "worker_pool_restarts True" in config
        assert "guest:**@127.0.0.1" in config
        assert "guest:guest" not in config
        system = show(tab, "system")
        assert re.search(r"utime [\d.]+ m?s", system)
        assert re.search(r"maxrss \d{4,}", system)
        other = show(tab, "other")
        assert re.search(r"uptime [\d.]+ m?s", other)
        assert "'received': " in other


def test_limits_are_set_by_the_buttons(
    watched: Watched, opened: Opened, browser: Browser, tmp_path: Path
) -> None:
    queues = printed_queues(watched.url, watched.folder, APP)
    knowing = watched.flower("-A", watching.NAMES, env={"FLOWER_QUEUES": queues})
    knowing.online(FIRST)
    name = f"{APP}.held"
    with opened(f"/worker/{FIRST}", knowing.base) as tab:
        assert {f"{APP}.{task}" for task in ("add", "fail", "flaky", "held")} <= {
            row.split()[0] for row in show(tab, "limits").split() if row.startswith(APP)
        }
        tab.page.get_by_label(f"Rate limit for {name}").fill("9")
        assert pressed(tab, f"[id='task-rate-limit-{name}']") == "new rate limit set successfully"
        assert f"{name} [rate_limit=9]" in watched.ask("registered")
        tab.page.get_by_label(f"Timeout for {name}").fill("1")
        assert pressed(tab, f"[id='task-timeout-hard-{name}']") == "time limits set successfully"
        killed = watched.send("held", str(tmp_path / "never"))
        assert knowing.task(killed.id, "FAILURE")["exception"] == "TimeLimitExceeded(1)"
        knowing.worker(FIRST)
        tab.page.reload()
        assert f"{name} [rate_limit=9]" in show(tab, "limits")
    watched.app.control.time_limit(name, hard=0, destination=[FIRST], reply=True)
    watched.app.control.rate_limit(name, 0, destination=[FIRST], reply=True)


def test_a_worker_that_is_restarted_is_shown_as_it_is_now(
    flower: Flower, watched: Watched, opened: Opened
) -> None:
    node = "again@here"
    old = watched.worker(node, "-c", "1", "-Q", "again")
    flower.online(node)
    watched.send("add", 1, 1, queue="again").get(timeout=30)
    flower.worker(node)
    with opened(f"/worker/{node}") as tab:
        assert rows(tab, "#tab-pool")["Worker PID"] == str(old.pid)
        assert f"{APP}.add 1" in show(tab, "tasks")
        tab.page.click("#worker-group")
        assert pressed(tab, "#worker-shutdown") == "Shutting down!"
    assert old.wait(15) == 0

    with opened("/") as tab:
        row = tab.page.locator(f"[id='{node}'], tr:has-text('{node}')").first
        expect(row).to_contain_text("Offline")
        new = watched.worker(node, "-c", "2", "-Q", "again")
        expect(row).to_contain_text("Online")

    flower.worker(node)
    with opened(f"/worker/{node}") as tab:
        pool = rows(tab, "#tab-pool")
        assert (pool["Worker PID"], pool["Max concurrency"]) == (str(new.pid), "2")
        assert f"{APP}.add" not in show(tab, "tasks")
    new.stop()


# --- tasks -----------------------------------------------------------------------------------------------


def test_the_table_of_tasks(flower: Flower, watched: Watched, opened: Opened, tmp_path: Path) -> None:
    good, bad = watched.send("add", 700_123, 1), watched.send("fail", "tabled")
    held = watched.send("held", str(tmp_path / "go"))
    retried = watched.send("flaky", 1, 3600)
    states = {good: "SUCCESS", bad: "FAILURE", held: "STARTED", retried: "RETRY"}
    for call, state in states.items():
        flower.task(call.id, state)

    with opened("/tasks") as tab:
        table = tab.page.locator("#tasks-table tbody")
        for call, state in states.items():
            row = table.locator("tr", has_text=call.id)
            expect(row).to_contain_text(state)
            expect(row).to_contain_text(FIRST)
        for call, state in states.items():
            tab.page.click(f"[data-task-state={state}]")
            expect(table).to_contain_text(call.id)
            expect(table.locator(".badge").first).to_have_text(state)
            wait_until(lambda want=state: set(table.locator(".badge").all_inner_texts()) == {want}, 10)
        tab.page.fill("input[type=search]", f"args:700123 worker:{FIRST}")
        expect(table.locator("tr")).to_have_count(1)
        tab.page.click(f"text={good.id}")
        expect(tab.page.locator(".task-name-value")).to_have_text(f"{APP}.add")
    (tmp_path / "go").touch()
    watched.app.control.revoke(retried.id)


def test_the_page_of_a_call_that_succeeded(flower: Flower, watched: Watched, opened: Opened) -> None:
    call = watched.send("add", 40, 2)
    flower.task(call.id, "SUCCESS")

    with opened(f"/task/{call.id}") as tab:
        shown = tab.text("#task-page")
        for line in (
            f"Name {APP}.add", f"UUID {call.id}", "Status SUCCESS", "Arguments (40, 2)", "Keyword arguments {}",
            "Result 42", "Retries 0", f"Worker {FIRST}", f"Root id {call.id}",
        ):  # fmt: skip
            assert line in shown, shown
        assert re.search(
            r"Received 20\d\d-\d\d-\d\d .* Started 20.* Succeeded 20.* Runtime [\d.]+ m?s", shown
        )
        assert tab.page.locator("#task-terminate, #task-revoke").count() == 0
        tab.page.click(f"a[href='/worker/{FIRST}'], a[href='/worker/{FIRST.replace('@', '%40')}']")
        expect(tab.page.locator("#workername")).to_have_text(FIRST)


def test_the_page_of_a_call_that_failed(flower: Flower, watched: Watched, opened: Opened) -> None:
    call = watched.send("fail", "a reason")
    flower.task(call.id, "FAILURE")

    with opened(f"/task/{call.id}") as tab:
        shown = tab.text("#task-page")
        assert "Status FAILURE" in shown
        assert "Exception ValueError('a reason')" in shown
        assert "Traceback (most recent call last):" in shown
        assert "raise ValueError(why) ValueError: a reason" in shown


def test_a_call_that_is_retried_is_revoked_by_the_button(
    flower: Flower, watched: Watched, opened: Opened
) -> None:
    call = watched.send("flaky", 1000, 1)
    flower.task(call.id, "RETRY")

    with opened(f"/task/{call.id}") as tab:
        # It runs again every second, for a moment.
        shown = wait_until(
            lambda: tab.page.reload() and "Status RETRY" in (text := tab.text("#task-page")) and text, 30
        )
        assert "Exception OSError('not yet')" in shown
        assert pressed(tab, "#task-revoke") == f"Revoked '{call.id}'"
        flower.task(call.id, "REVOKED")
        tab.page.reload()
        assert "Status REVOKED" in tab.text("#task-page")


def test_a_call_that_runs_is_ended_by_the_button(
    flower: Flower, watched: Watched, opened: Opened, tmp_path: Path
) -> None:
    call = watched.send("held", str(tmp_path / "never"))
    flower.task(call.id, "STARTED")

    with opened(f"/task/{call.id}") as tab:
        assert "Status STARTED" in tab.text("#task-page")
        assert pressed(tab, "#task-terminate") == f"Revoked '{call.id}'"
        flower.task(call.id, "REVOKED")
        wait_until(call.ready, 10)
        assert call.state == "REVOKED"
        tab.page.reload()
        assert re.search(r"Status REVOKED .* Revoked 20\d\d-", tab.text("#task-page"))


def test_the_pages_of_a_workflow_lead_to_each_other(flower: Flower, watched: Watched, opened: Opened) -> None:
    app = watched.app
    add = app.signature(f"{APP}.add", (1, 1))
    flow = add | chord([app.signature(f"{APP}.add", (n,)) for n in (1, 2)], app.signature(f"{APP}.total"))
    total = flow.apply_async()
    assert total.get(timeout=30) == 7
    members = total.parent.results
    root = total.parent.parent.id
    for call in (root, total.id, *(member.id for member in members)):
        flower.task(call, "SUCCESS")

    with opened(f"/task/{root}") as tab:
        children = tab.page.locator(".detail-row", has_text="Children")
        for member in members:
            expect(children).to_contain_text(member.id)
        tab.page.click(f"a:has-text('{members[0].id}')")
        tab.page.wait_for_url(f"**/task/{members[0].id}")
        shown = tab.text("#task-page")
        assert f"UUID {members[0].id}" in shown
        assert (f"Root id {root}" in shown, f"Parent id {root}" in shown) == (True, True), shown
        tab.open(f"/task/{total.id}")
        shown = tab.text("#task-page")
        assert "Arguments ([3, 4],)" in shown
        assert f"Root id {root}" in shown


# --- the broker ------------------------------------------------------------------------------------------


def test_the_page_of_the_broker(flower: Flower, watched: Watched, opened: Opened) -> None:
    for node in (FIRST, SECOND):
        flower.worker(node)

    def shown() -> dict[str, str]:
        with opened("/broker") as tab:
            assert f"amqp://guest:**@127.0.0.1:{watched.app.connection.server.port}/pages" in tab.text()
            return rows(tab, "#queue-table")

    # Messages, unacknowledged, ready, consumers.
    assert wait_until(lambda: shown().get(OTHER, "").startswith("0 0 0 1"), 15, lambda: str(shown()), 0.5)
    assert shown().keys() >= {"amqptasks", OTHER}
