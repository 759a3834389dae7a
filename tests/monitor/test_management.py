"""The management plugin, by a server that stands for it; and its absence."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from amqptasks.errors import ImproperlyConfigured
from amqptasks.monitor.management import Management, Told
from amqptasks.transport.url import parse

BROKER = parse("amqp://shop:s3cret@127.0.0.1:5672/shop%2Fone")


class Plugin:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.code, self.body = 200, json.dumps([{"name": "mail", "messages_ready": 3}])
        self.asked: list[tuple[str, str]] = []
        plugin = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                plugin.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(plugin.code)
                self.end_headers()
                self.wfile.write(plugin.body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers is waited for, however slow the machine is."""
    monkeypatch.setattr("amqptasks.monitor.management.TIMEOUT", 60.0)


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    made = Plugin()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def told(management: Management, wanted: Callable[[Told], bool]) -> Told:
    management.start()
    deadline = time.monotonic() + 60
    while not wanted(management.told):
        assert time.monotonic() < deadline, management.told
        time.sleep(0.005)
    management.stop()
    return management.told


def test_queues_are_asked_for_with_the_brokers_user(plugin: Plugin) -> None:
    management = Management(BROKER, plugin.url)

    found = told(management, lambda told: told.available)

    assert found.queues == {"mail": {"name": "mail", "messages_ready": 3}}
    path, secret = plugin.asked[0]
    assert path.startswith("/api/queues/shop%2Fone?columns=name,")
    assert base64.b64decode(secret.removeprefix("Basic ")) == b"shop:s3cret"


def test_a_user_of_its_own_comes_from_the_url(plugin: Plugin) -> None:
    management = Management(BROKER, plugin.url.replace("http://", "http://looker:pass%2Fword@") + "/")

    told(management, lambda told: told.available)

    assert base64.b64decode(plugin.asked[0][1].removeprefix("Basic ")) == b"looker:pass/word"


@pytest.mark.parametrize(
    ("code", "body", "sentence"),
    [
        (401, "{}", "give it the tag `monitoring`"),
        (404, "{}", "answered 404"),
        (200, "<html>", "is no management plugin"),
        (200, '{"error": 1}', "is no management plugin"),
    ],
)
def test_why_there_is_nothing_is_said_in_a_sentence(
    plugin: Plugin, code: int, body: str, sentence: str
) -> None:
    plugin.code, plugin.body = code, body

    found = told(Management(BROKER, plugin.url), lambda told: "not been asked" not in told.message)

    assert not found.available
    assert sentence in found.message
    assert "s3cret" not in found.message


def test_an_absent_plugin_is_named_with_the_cure() -> None:
    found = told(
        Management(BROKER, "http://a:pw@127.0.0.1:9"), lambda told: "not been asked" not in told.message
    )

    assert "rabbitmq-plugins enable rabbitmq_management" in found.message
    assert "pw@" not in found.message


def test_what_was_known_goes_with_the_plugin(plugin: Plugin) -> None:
    management = Management(BROKER, plugin.url, every=0.01)
    management.start()
    deadline = time.monotonic() + 60
    while not management.told.available:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    plugin.code = 500

    found = told(management, lambda told: not told.available)

    assert found.queues == {}


def test_where_the_plugin_is_looked_for() -> None:
    assert Management(BROKER, None).url == "http://127.0.0.1:15672"
    assert Management(parse("amqps://u:p@[::1]//"), None).url == "https://[::1]:15671"
    assert Management(parse("memory://x"), None).url == ""
    with pytest.raises(ImproperlyConfigured, match="http://rabbit:15672"):
        Management(BROKER, "rabbit:15672")


def test_of_several_hosts_the_one_that_answers_is_asked(plugin: Plugin, monkeypatch) -> None:
    brokers = parse("amqp://a@nowhere:1//;amqp://a@here:2//")
    monkeypatch.setattr(
        "amqptasks.monitor.management._found",
        lambda b: plugin.url if b.host == "here" else "http://127.0.0.1:9",
    )
    management = Management(brokers, None)

    found = told(management, lambda told: "not been asked" not in told.message)

    assert found.available
    assert management.url == plugin.url


def test_what_speaks_no_http_is_no_plugin() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            peer.recv(1000)
            peer.sendall(b"AMQP\x00\x00\x09\x01\r\n\r\n")
            peer.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        found = told(Management(BROKER, url), lambda told: "not been asked" not in told.message)

    assert "is no management plugin" in found.message


def test_one_that_is_left_alone_is_not_asked() -> None:
    before = set(threading.enumerate())
    management = Management(BROKER, "")
    management.start()

    assert "not asked" in management.told.message
    assert not [each for each in set(threading.enumerate()) - before if each.name == "amqptasks-management"]
