"""Who may see the dashboard and press its buttons, and how it does without a login, a script, or its broker."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from broker import PrivateNode, free_ports
from playwright.sync_api import Browser, expect

from integration.apps import dashboard_tasks
from integration.support import Proxy, wait_until
from integration.support.browser import tab
from integration.support.controls import Control, Controls
from integration.support.processes import ROOT
from integration.support.shop import NODE, Open, Shop, address, dashboard, press, told


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
            expect(made.page.get_by_role("heading", name="Log in")).to_be_visible()
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
        expect(made.page.locator("#live")).to_be_hidden()  # only a script holds a page
        press(made.page, "Events on")
        told(made.page, NODE)
        dashboard_tasks.bill.apply_async(("purged",), queue="later")
        wait_until(lambda: shop.waiting("later"))
        made.open("/queues/later")
        press(made.page, "Purge", sure=True)
        told(made.page, "1 message of later removed.")
        assert not shop.waiting("later")
        made.open("/tasks").get_by_label("State").select_option("SUCCESS")
        made.page.get_by_role("button", name="Show").click()
        expect(made.page).to_have_url(re.compile("state=SUCCESS"))


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
        expect(page.locator("#notices")).not_to_contain_text("The broker is away.", timeout=60_000)
        made.assert_quiet()


# --- the command -----------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "amqptasks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


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


def of_the_login(control: Control) -> bool:
    return control.target in ("/login", "/logout")


@pytest.mark.usefixtures("whole")
def test_each_control_of_the_login_was_used(controls: Controls) -> None:
    assert {control.name for control in controls.used if of_the_login(control)} == {
        "user", "password", "Log in", "Log out"
    }  # fmt: skip
    assert not controls.unused(of_the_login)
