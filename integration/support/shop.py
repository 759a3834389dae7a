"""A system to look at: a worker, a beat and a dashboard as processes, and what each of them answers when it is asked."""

import json
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from amqptasks import App
from amqptasks.beat.asking import ask
from integration.apps import dashboard_tasks
from integration.support.browser import Tab
from integration.support.processes import Process, WorkerProcess
from integration.support.waiting import wait_until

APP = "integration.apps.dashboard_tasks"
NODE = "w1@shop"
LISTENS = r"amqptasks dashboard on (http://\S+?)/?\s"
BAR = ".top, .skip"
"""The selector of what all pages have."""

PATIENT = (
    "import sys, amqptasks.cli.main as main, amqptasks.monitor.actions as actions; "
    "actions.REPLY = actions.BEAT = 12.0; sys.exit(main.main())"
)
"""As `-m amqptasks`, but who is asked by a button may take longer: how soon says how busy the machine is."""

Open = Callable[..., AbstractContextManager[Tab]]


def dashboard(log: Path, broker_url: str, *words: str, app: str = APP, **env: str) -> Process:
    """`amqptasks -A app -b broker_url dashboard --port 0 ...`; `address` of it is known once it is started."""
    said = ["-A", app] if app else []
    command = [sys.executable, "-c", PATIENT, *said, "-b", broker_url, "dashboard", "--port", "0", *words]
    return Process(command, ready=LISTENS, log=log, env=env)


def address(process: Process) -> str:
    return process.wait_log(LISTENS)[1]


def kind(path: str) -> str:
    """What a page is counted as: every worker's page is one, and so is every question."""
    return re.sub(r"^/(workers|queues|tasks|do)/.+", r"/\1/*", path)


@dataclass
class Shop:
    url: str
    folder: Path
    app: App
    worker: WorkerProcess
    base: str

    def ask(self, command: str, node: str = NODE, **arguments: Any) -> Any:
        """What the worker itself answers."""
        replies = self.app.control.broadcast(command, arguments, [node], reply=True, timeout=60.0, limit=1)
        return replies[0][node] if replies else None

    def api(self, path: str, base: str = "") -> Any:
        with urllib.request.urlopen(f"{base or self.base}/api/{path}", timeout=60) as answer:
            return json.load(answer)

    def known(self, task_id: str, state: str, base: str = "") -> dict[str, Any]:
        """The call, once the dashboard knows it in this state."""
        path = f"tasks?search={task_id}"

        def look() -> Any:
            return next((row for row in self.api(path, base) if row["state"] == state), None)

        return wait_until(look, 15, lambda: f"{state}; {self.api(path, base)}")

    def children(self) -> set[int]:
        return set(self.ask("stats")["pool"]["processes"])

    def running(self) -> set[str]:
        return {call["id"] for call in self.ask("active")}

    def queues(self) -> set[str]:
        return {queue["name"] for queue in self.ask("active_queues")}

    def waiting(self, queue: str) -> int:
        return self.app.connection.inspect(queue).messages

    def schedule(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in ask(self.app, "list", timeout=60.0)["entries"]}


@contextmanager
def running(broker_url: str, folder: Path) -> Iterator[Shop]:
    """The whole of it, in an empty vhost."""
    app = dashboard_tasks.app
    app.conf.update(broker_url=broker_url)
    words = (APP, "-n", NODE, "-c", "2", "-Q", "orders", "-E")
    worker = WorkerProcess(*words, log=folder / "worker.log", broker_url=broker_url)
    command = [sys.executable, "-m", "amqptasks", "-A", APP, "-b", broker_url, "beat", "-l", "INFO"]
    beat = Process(command, ready="leads", log=folder / "beat.log")
    pages = dashboard(folder / "dashboard.log", broker_url)
    with ExitStack() as stack:
        stack.callback(app.close)
        # There from the beginning: a queue that is missing is looked for again only after a while.
        dashboard_tasks.bill.apply_async(("first",), queue="later")
        app.connection.purge("later")
        for process in (worker, beat):
            stack.callback(process.end)
        with ThreadPoolExecutor() as together:
            list(together.map(Process.start, (worker, beat)))
        for process in (worker, beat, pages):
            stack.enter_context(process)
        found = Shop(broker_url, folder, app, worker, address(pages))
        wait_until(lambda: found.api("workers"), 15, "the worker is heard of")
        stack.callback((folder / "go").touch)
        yield found


def calls(shop: Shop) -> dict[str, str]:
    """Send a call of each kind; their ids, by the state that each has come to when this returns."""
    sent = {
        "SUCCESS": dashboard_tasks.bill.delay("<script>alert(1)</script>").id,
        "FAILURE": dashboard_tasks.charge.delay(7).id,
        "PENDING": dashboard_tasks.bill.apply_async(("waits",), queue="later").id,
        "STARTED": dashboard_tasks.held.delay(str(shop.folder / "go")).id,
    }
    flow = dashboard_tasks.workflow()
    dashboard_tasks.refuse.delay(8)
    for state, each in sent.items():
        shop.known(each, state)
    flow.get(timeout=60)
    assert flow.parent is not None
    return sent | {"flow": flow.parent.id}


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
