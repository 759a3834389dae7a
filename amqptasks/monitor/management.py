"""What the broker's management plugin tells of the queues of a vhost, asked every few seconds in a thread of its own.

Without the plugin nothing fails: `told` says in a sentence why there is nothing. Knows HTTP and the broker's URL; the
password goes into a header and is shown nowhere.
"""

from __future__ import annotations

import base64
import ssl
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_url
from amqptasks.transport.url import BrokerURL

EVERY = 5.0
"""Seconds between two questions: the plugin itself counts every five seconds."""
AGAIN = 30.0
"""Seconds after which a plugin that did not answer is asked again."""
TIMEOUT = 3.0
MOST = 32 * 1024 * 1024
"""Bytes of an answer that are read."""

COLUMNS = (
    "name", "type", "state", "consumers", "messages_ready", "messages_unacknowledged", "memory",
    "head_message_timestamp", "message_stats.publish_details.rate", "message_stats.deliver_get_details.rate",
    "message_stats.ack_details.rate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """The last answer: queues by name, as the plugin writes them, or why there are none."""

    available: bool = False
    message: str = "the management plugin has not been asked yet"
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Management:
    """Asks from `start` to `stop`. `told` is swapped whole, and may be read in any thread."""

    def __init__(self, brokers: Sequence[BrokerURL], url: str | None, every: float = EVERY) -> None:
        """`url` None: at the brokers' hosts; "": nowhere. Raises ImproperlyConfigured for what is no HTTP URL."""
        self._broker = brokers[0]
        self._every = every
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        wanted = [_found(broker) for broker in brokers] if url is None else [url.rstrip("/")]
        self._urls = deque(dict.fromkeys(filter(None, wanted)))
        """Where the plugin may be; the first one is asked first."""
        for each in self._urls:
            if urlsplit(each).scheme not in ("http", "https"):
                raise ImproperlyConfigured(
                    f"the management URL {mask_url(each)!r} is none; write for example http://rabbit:15672"
                )
        self.told = (
            Told() if self._urls else Told(message="the management plugin is not asked, as configured")
        )

    @property
    def url(self) -> str:
        """Where it is asked; empty: nowhere."""
        return self._urls[0] if self._urls else ""

    def start(self) -> None:
        if self._urls and (self._thread is None or self._ended.is_set()):
            # One for each thread: an old one may still be at its last question.
            ended = self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._ask_on, args=(ended,), name="amqptasks-management", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ask no more; a question that is under way is left to its end."""
        self._ended.set()

    def _ask_on(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.told = self._asked()
            ended.wait(self._every if self.told.available else AGAIN)

    def _asked(self) -> Told:
        """Ask at each place until one answers; what is told otherwise is why the first one did not."""
        why = ""
        for _ in range(len(self._urls)):
            try:
                return Told(available=True, message="", queues=self.ask())
            except Exception as error:
                why = why or self._why(error)
                self._urls.rotate(-1)
        return Told(message=why)

    def ask(self) -> dict[str, Mapping[str, Any]]:
        """Return the vhost's queues. Blocks, three seconds at most; raises OSError, HTTPException or ValueError."""
        path = f"/api/queues/{quote(self._broker.vhost, safe='')}?columns={','.join(COLUMNS)}"
        parts = urlsplit(self.url)
        password = self._broker.password if parts.password is None else unquote(parts.password)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        secret = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        request = urllib.request.Request(bare + path, headers={"Authorization": f"Basic {secret}"})  # noqa: S310 (checked)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:  # noqa: S310 (checked)
            found = orjson.loads(answer.read(MOST))
        if not isinstance(found, list):
            raise ValueError("the answer is no list of queues")  # noqa: TRY004 (as other answers that are none)
        return {str(queue["name"]): queue for queue in found if isinstance(queue, dict) and "name" in queue}

    @property
    def _user(self) -> str:
        name = urlsplit(self.url).username
        return self._broker.user if name is None else unquote(name)

    def _why(self, error: Exception) -> str:
        where = mask_url(self.url)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code in (401, 403):
                return (
                    f"the management plugin at {where} does not let the user {self._user!r} look at the vhost "
                    f"{self._broker.vhost!r}; give it the tag `monitoring`"
                )
            return f"the management plugin at {where} answered {error.code} {error.reason}"
        if not isinstance(error, OSError):
            return f"what answers at {where} is no management plugin: {str(error) or type(error).__name__}"
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return (
            f"no management plugin answers at {where} ({reason}); with it there are rates, unacknowledged messages and "
            "ages: rabbitmq-plugins enable rabbitmq_management"
        )


def _found(broker: BrokerURL) -> str:
    if broker.scheme == "memory":
        return ""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    return f"https://{host}:15671" if broker.tls is not None else f"http://{host}:15672"
