"""An app that needs no app: its tasks are words in the body. `load` is the loader that the zygote calls."""

import asyncio
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial

from amqptasks.amqp import Parcel
from amqptasks.errors import AppNotFound, SoftTimeLimitExceeded
from amqptasks.worker.awaiting import Guard
from amqptasks.worker.outcome import Cause, LoadSpec, Manifest, Outcome, Run, Verdict
from amqptasks.worker.pools.base import Loaded, Stage

LOADER = f"{__name__}:load"

setter: ContextVar[str] = ContextVar("setter", default="nobody")


def parcel(body: bytes) -> Parcel:
    return Parcel("replies", "client", b"header", body, "message-1", "drop")


def append(path: str, line: str) -> None:
    """One write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def is_there(path: str) -> bool:
    return os.path.exists(path)


class FakeExecutor:
    """A body is a word and its arguments; the word names the method."""

    def __init__(self, hooks: str = "") -> None:
        self.closing = ""
        self.hooks = hooks

    def run(self, run: Run, started: Callable[[Sequence[Parcel]], None]) -> Outcome:
        if run.cause is Cause.HOOK:
            return self.hook(run)
        if run.cause is not Cause.RUN:
            return Outcome(state=f"{run.cause.name}:{run.detail}")
        word, *args = run.delivery.body[:200].decode().split(" ")
        if word == "unreadable":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "tracked":
            started((parcel(b"STARTED"),))
        else:
            started(())
        return getattr(self, word)(run, *args)

    async def arun(self, run: Run, stage: Stage) -> Outcome:
        word, *args = run.delivery.body[:200].decode().split(" ")
        method = getattr(self, word, None)
        if run.cause is not Cause.RUN or not inspect.iscoroutinefunction(method):
            return await stage.thread(partial(self.run, run, stage.started))
        stage.started(())
        outcome: Outcome = await stage.watch(Guard(method(run, *args)))
        return outcome

    def hook(self, run: Run) -> Outcome:
        """Notes the signal in the file that the spec names; `deadly` kills the child."""
        append(self.hooks, f"{run.detail} {run.delivery.body.decode()}".strip())
        if run.detail == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome()

    def close(self) -> None:
        if self.closing == "hang":
            time.sleep(60)
        elif self.closing:
            append(self.closing, "closed")

    def noop(self, run: Run) -> Outcome:
        return Outcome(state="SUCCESS")

    tracked = noop

    def describe(self, run: Run) -> Outcome:
        return Outcome(Verdict.REQUEUE, (parcel(repr(run).encode()), parcel(b"second")), "SUCCESS")

    def answer(self, run: Run, size: str, *_: str) -> Outcome:
        """An outcome of `size` bytes, which says how long the body was."""
        return Outcome(publish=(parcel(b"x" * int(size)),), state=str(len(run.delivery.body)))

    def pid(self, run: Run) -> Outcome:
        return Outcome(state=str(os.getpid()))

    def thread(self, run: Run) -> Outcome:
        return Outcome(state=threading.current_thread().name)

    def sleep(self, run: Run, seconds: str) -> Outcome:
        time.sleep(float(seconds))
        return Outcome(state="SUCCESS")

    def patient(self, run: Run, seconds: str) -> Outcome:
        """Sleeps, and minds its soft limit."""
        try:
            time.sleep(float(seconds))
        except SoftTimeLimitExceeded as limit:
            return Outcome(state=f"soft limit {limit}")
        return Outcome(state="SUCCESS")

    def append(self, run: Run, path: str, seconds: str = "0") -> Outcome:
        append(path, f"start {run.key}")
        time.sleep(float(seconds))
        append(path, f"end {run.key}")
        return Outcome(state="SUCCESS")

    def until(self, run: Run, path: str) -> Outcome:
        """Runs until a file is there."""
        while not os.path.exists(path):
            time.sleep(0.005)
        return Outcome(state="SUCCESS")

    def at_close(self, run: Run, path: str) -> Outcome:
        self.closing = path
        return Outcome(state="SUCCESS")

    def exit(self, run: Run, status: str) -> Outcome:
        sys.exit(int(status))

    def leave(self, run: Run, status: str) -> Outcome:
        os._exit(int(status))

    def die(self, run: Run, number: str) -> Outcome:
        os.kill(os.getpid(), int(number))
        time.sleep(10)
        return Outcome()

    def hog(self, run: Run, mebibytes: str) -> Outcome:
        kept = b"x" * (int(mebibytes) << 20)
        return Outcome(state=str(os.getpid() if kept else 0))

    def spawn(self, run: Run) -> Outcome:
        """A process that the task forks can be terminated as anywhere."""
        pid = os.fork()
        if not pid:
            time.sleep(30)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        return Outcome(state=str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))

    async def wait(self, run: Run, path: str) -> Outcome:
        """As `until`, in a coroutine."""
        while not is_there(path):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return Outcome(state="SUCCESS")

    async def rest(self, run: Run, seconds: str) -> Outcome:
        await asyncio.sleep(float(seconds))
        return Outcome(state="SUCCESS")

    async def mind(self, run: Run, seconds: str) -> Outcome:
        """Rests, and minds its soft limit."""
        try:
            await asyncio.sleep(float(seconds))
        except SoftTimeLimitExceeded as limit:
            return Outcome(state=f"soft limit {limit}")
        return Outcome(state="SUCCESS")

    async def tidy(self, run: Run, path: str) -> Outcome:
        """Rests, and notes that it was cancelled."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            append(path, "tidied")
            raise
        return Outcome(state="SUCCESS")

    async def stubborn(self, run: Run, path: str) -> Outcome:
        """Is not to be cancelled before a file is there."""
        while not is_there(path):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return Outcome(state="SUCCESS")

    async def own(self, run: Run) -> Outcome:
        """What the context held before this run set it."""
        before = setter.get()
        setter.set(str(run.key))
        return Outcome(state=before)

    async def command(self, run: Run, status: str) -> Outcome:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"raise SystemExit({status})")
        return Outcome(state=str(await process.wait()))

    async def quit(self, run: Run, status: str) -> Outcome:
        sys.exit(int(status))

    async def loop(self, run: Run) -> Outcome:
        return Outcome(state=type(asyncio.get_running_loop()).__module__.partition(".")[0])

    def closes(self, run: Run) -> Outcome:
        raise GeneratorExit("of the task's own")

    async def acloses(self, run: Run) -> Outcome:
        raise GeneratorExit("of the task's own")

    def raises(self, run: Run) -> Outcome:
        raise ValueError("an executor never raises")


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
        case "plain":
            sys.modules["uvloop"] = None  # type: ignore[assignment]
        case "threads":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    settings = {**spec.overrides, "sys.path": tuple(sys.path), "cwd": os.getcwd()}
    make = {"stillborn": stillborn, "slow": slow_start}.get(
        spec.app, partial(FakeExecutor, settings.get("hooks", ""))
    )
    if spec.app == "fragile":
        make = partial(fragile, settings["flag"])
    hooks = frozenset({"worker_ready", "task_received", "deadly"})
    return Loaded(Manifest(spec.app, settings, (), {}, hooks=hooks), make)


def stillborn() -> FakeExecutor:
    raise RuntimeError("no executor today")


def fragile(flag: str) -> FakeExecutor:
    """Cannot be made while there is a file `flag`, which gets a line then."""
    try:
        descriptor = os.open(flag, os.O_WRONLY | os.O_APPEND)  # never made here: the test takes it away
    except FileNotFoundError:
        return FakeExecutor()
    os.write(descriptor, b"tried\n")
    os.close(descriptor)
    raise RuntimeError("no executor for now")


def slow_start() -> FakeExecutor:
    time.sleep(60)
    return FakeExecutor()
