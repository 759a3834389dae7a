"""Who is at the browser: a signed cookie, the token that its forms carry, and how often somebody may guess.

A cookie is valid because it is signed and young; only sessions that were ended before their time are remembered. Pure;
knows no HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

LIFETIME = 12 * 3600.0
"""Seconds that a login lasts."""
GUESSES = 10
"""Wrong passwords that an address may give in a minute."""
_MINUTE = 60.0
_ADDRESSES = 1000
_ENDED = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """`user` is empty for somebody who did not log in: his session only ties the forms to his browser."""

    id: str
    user: str
    ends: float


class Sessions:
    """Makes and reads cookies with one secret. Thread-safe.

    Processes that share the secret take each other's, also of a session that another of them has ended.
    """

    def __init__(self, secret: bytes = b"", clock: Callable[[], float] = time.time) -> None:
        self._secret = hashlib.sha256(secret).digest() if secret else os.urandom(32)
        self._clock = clock
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, user: str = "") -> Session:
        return Session(os.urandom(16).hex(), user, self._clock() + LIFETIME)

    def end(self, session: Session) -> None:
        """Take its cookie no more, whoever has a copy; of the latest 10,000 sessions that were ended."""
        with self._lock:
            now = self._clock()
            while self._ended and (len(self._ended) >= _ENDED or next(iter(self._ended.values())) <= now):
                del self._ended[next(iter(self._ended))]
            self._ended[session.id] = session.ends

    def cookie(self, session: Session) -> str:
        return self.sign("session", f"{session.id}:{session.ends:.0f}:{session.user}")

    def read(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None for one that we did not make, or that is too old."""
        text = self.unsign("session", cookie)
        if text is None:
            return None
        name, ends, user = text.split(":", 2)
        if float(ends) <= self._clock() or name in self._ended:
            return None
        return Session(name, user, float(ends))

    def form_token(self, session: Session) -> str:
        """Return what every form of this session carries: no other site can know it."""
        return self._mark("form", session.id)

    def is_form_token(self, session: Session, given: str) -> bool:
        return same(given, self.form_token(session))

    def sign(self, purpose: str, text: str) -> str:
        """Return the text as a cookie's value that nobody else can make. It can be read by whoever has it."""
        body = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        return f"{body}.{self._mark(purpose, body)}"

    def unsign(self, purpose: str, value: str | None) -> str | None:
        body, _, mark = (value or "").partition(".")
        if not mark or not same(mark, self._mark(purpose, body)):
            return None
        return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()

    def _mark(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Compare two secrets in a time that tells neither their contents nor their lengths."""
    return hmac.compare_digest(
        hashlib.sha256(given.encode()).digest(), hashlib.sha256(wanted.encode()).digest()
    )


class Guesses:
    """Wrong passwords of the last minute, by address; of the latest 1,000 addresses. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._wrong: dict[str, list[float]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def spent(self, address: str) -> bool:
        with self._lock:
            since = self._clock() - _MINUTE
            return sum(at > since for at in self._wrong.get(address, ())) >= GUESSES

    def wrong(self, address: str) -> None:
        with self._lock:
            kept = [*self._wrong.pop(address, ())[-GUESSES:], self._clock()]
            self._wrong[address] = kept
            while len(self._wrong) > _ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
