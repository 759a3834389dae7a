"""An app that needs no app: a loader and an executor whose tasks are words in the body. Lives in the children."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from amqptasks.amqp import Parcel
from amqptasks.errors import AppNotFound, SoftTimeLimitExceeded
from amqptasks.worker.outcome import Cause, LoadSpec, Manifest, Outcome, Run
from amqptasks.worker.pools.base import Loaded


def parcel(body: bytes) -> Parcel:
    return Parcel("replies", "client", b"header", body, "message-1", "drop")


class FakeExecutor:
    """Body: a word and its arguments, in words."""

    def run(self, run: Run, started: Callable[[Sequence[Parcel]], None]) -> Outcome:
        if run.cause is not Cause.RUN:
            return Outcome(state=f"{run.cause.name}:{run.detail}")
        word, *args = run.delivery.body[:200].decode().split(" ")
        if word == "early-death":
            os.kill(os.getpid(), signal.SIGKILL)
        started(())
        return getattr(self, word)(run, *args)

    def close(self) -> None:
        path = os.environ.get("FAKE_CLOSED")
        if path:
            with open(path, "a") as file:
                file.write(f"{os.getpid()}\n")

    def noop(self, run: Run) -> Outcome:
        return Outcome(state="SUCCESS")

    def echo(self, run: Run, *words: str) -> Outcome:
        return Outcome(publish=(parcel(run.delivery.header + b"|" + run.delivery.body),), state="SUCCESS")

    def size(self, run: Run, size: str, *_: str) -> Outcome:
        return Outcome(publish=(parcel(b"x" * int(size)),), state=str(len(run.delivery.body)))

    def pid(self, run: Run) -> Outcome:
        return Outcome(state=str(os.getpid()))

    def sleep(self, run: Run, seconds: str) -> Outcome:
        time.sleep(float(seconds))
        return Outcome(state="SUCCESS")

    def patient(self, run: Run, seconds: str) -> Outcome:
        try:
            time.sleep(float(seconds))
        except SoftTimeLimitExceeded as limit:
            return Outcome(state=f"soft {limit}")
        return Outcome(state="SUCCESS")

    def append(self, run: Run, path: str, seconds: str = "0") -> Outcome:
        with open(path, "a") as file:
            file.write(f"{run.key} {os.getpid()}\n")
        time.sleep(float(seconds))
        return Outcome(state="SUCCESS")

    def exit(self, run: Run, status: str) -> Outcome:
        sys.exit(int(status))

    def die(self, run: Run, number: str) -> Outcome:
        os.kill(os.getpid(), int(number))
        time.sleep(10)
        return Outcome()

    def hog(self, run: Run, mebibytes: str) -> Outcome:
        return Outcome(state=str(len(b"x" * (int(mebibytes) << 20)) and os.getpid()))


def load(spec: LoadSpec) -> Loaded:
    match spec.app:
        case "missing":
            raise AppNotFound("there is no app named missing")
        case "broken":
            raise ValueError("boom in the user's module")
        case "exits":
            sys.exit(3)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stillborn":
            return Loaded(Manifest(spec.app, {}, (), {}), stillborn)
    settings = dict(spec.overrides) | {"path": tuple(sys.path), "cwd": os.getcwd()}
    return Loaded(Manifest(spec.app, settings, (), {}), FakeExecutor)


def stillborn() -> FakeExecutor:
    raise RuntimeError("no executor today")
