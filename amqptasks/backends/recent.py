"""What an rpc client remembers of the calls it made: answers, bounded, and ids it still expects.

An answer that somebody holds a handle for is kept as long as the handle lives; the others share a bounded
cache, so 100,000 results that nobody collects cost no memory. Not thread-safe: the backend calls it under its
lock.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

from amqptasks import states
from amqptasks.backends.base import Meta
from amqptasks.backends.wire import from_body
from amqptasks.bounded import drop_oldest
from amqptasks.errors import MessageError

Standing = Literal["expected", "evicted", "unknown"]

BITS = 1 << 22


class Answer:
    """The newest state of one task: read as it came, made into a `Meta` by the thread that asks first.

    So the constructors of exceptions, which are the user's code, never run in the I/O thread.
    """

    __slots__ = ("body", "error", "meta", "size")

    def __init__(self, body: Mapping[str, Any], size: int, error: MessageError | None = None) -> None:
        self.body: Mapping[str, Any] = body
        self.error = error
        self.meta: Meta | None = None
        self.size = size + 512

    @property
    def final(self) -> bool:
        return self.error is not None or self.body.get("status") in states.READY_STATES

    def read(self) -> Meta:
        """Return the state; raise MessageError when it could not be decoded."""
        if self.error is not None:
            raise self.error
        if self.meta is None:
            self.meta = from_body(self.body)
            self.body = {"status": self.meta.status}
        return self.meta


class Claim:
    """Held by a result handle; as long as it lives, its answer is kept."""

    __slots__ = ("__weakref__", "answer")

    def __init__(self) -> None:
        self.answer: Answer | None = None


class IdSet:
    """Ids, in fixed memory (512 KiB once one is added): never forgets one, errs in one of thousands of
    others.
    """

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits: bytearray | None = None

    def add(self, id: str) -> None:
        if self._bits is None:
            self._bits = bytearray(BITS // 8)
        for position in self._positions(id):
            self._bits[position >> 3] |= 1 << (position & 7)

    def __contains__(self, id: str) -> bool:
        bits = self._bits
        return bits is not None and all(
            bits[position >> 3] & (1 << (position & 7)) for position in self._positions(id)
        )

    @staticmethod
    def _positions(id: str) -> tuple[int, int, int]:
        # Python's string hash is salted per process, which suits ids that live in one process.
        mixed = hash(id) & 0xFFFFFFFFFFFFFFFF
        return mixed % BITS, (mixed >> 21) % BITS, (mixed >> 42) % BITS


class Recent:
    """Answers and expectations, by task id."""

    def __init__(
        self, *, limit_answers: int = 10_000, limit_bytes: int = 32 << 20, limit_expected: int = 500_000
    ):
        self.limit_answers = limit_answers
        self.limit_bytes = limit_bytes
        self.limit_expected = limit_expected
        self.expected: dict[str, None] = {}
        self._claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0
        self._overflow = IdSet()
        self._evicted = IdSet()

    def expect(self, id: str) -> Claim:
        claim = self._claims.get(id)
        if claim is None:
            claim = Claim()
            self._claims[id] = claim
        self.expected[id] = None
        if len(self.expected) > self.limit_expected:
            for oldest in drop_oldest(self.expected, self.limit_expected):
                self._overflow.add(oldest)
        return claim

    def put(self, id: str, answer: Answer) -> None:
        """Keep the newest state of `id`."""
        claim = self._claims.get(id)
        if claim is not None:
            claim.answer = answer
        self._drop(id)
        self._answers[id] = answer
        self._bytes += answer.size
        while len(self._answers) > self.limit_answers or self._bytes > self.limit_bytes:
            oldest, dropped = self._answers.popitem(last=False)
            self._bytes -= dropped.size
            self._evicted.add(oldest)

    def get(self, id: str) -> Answer | None:
        claim = self._claims.get(id)
        if claim is not None and claim.answer is not None:
            return claim.answer
        answer = self._answers.get(id)
        if answer is not None:
            self._answers.move_to_end(id)
        return answer

    def settle(self, id: str) -> None:
        """The final state of `id` has come: nothing more is expected."""
        self.expected.pop(id, None)

    def knows(self, id: str) -> bool:
        return id in self.expected or id in self._claims or id in self._answers

    def standing(self, id: str) -> Standing:
        """What is to be said of an id that has no answer here."""
        if id in self.expected:
            return "expected"
        if id in self._evicted:
            return "evicted"
        return "expected" if id in self._overflow else "unknown"

    def forget(self, id: str) -> None:
        claim = self._claims.pop(id, None)
        if claim is not None:
            claim.answer = None
        self.expected.pop(id, None)
        self._drop(id)

    def _drop(self, id: str) -> None:
        dropped = self._answers.pop(id, None)
        if dropped is not None:
            self._bytes -= dropped.size

    def __len__(self) -> int:
        return len(self._answers)
