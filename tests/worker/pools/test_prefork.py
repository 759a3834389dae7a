"""The prefork pool: what it owes to tasks that take long, die, overstep limits, or bring their process down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amqptasks.errors import AppImportFailed, ImproperlyConfigured, PoolFailed
from amqptasks.worker.outcome import Cause
from amqptasks.worker.pools import ends, sharing, slot
from amqptasks.worker.pools.opening import open_pool
from amqptasks.worker.pools.prefork import PreforkPool
from amqptasks.worker.pools.threads import ThreadsPool

from .contract import Make, PoolContract, loads
from .hearing import Heard, errors_in, on_loop, run_all, spec, task, until

PARENT = """
import asyncio, sys
from tests.worker.pools.hearing import Heard, spec, task
from amqptasks.worker.pools.{module} import {pool}

async def main():
    pool, heard = {pool}(spec(), 2), Heard()
    await pool.start(heard)
    runs = [task("sleep 200"), task("sleep 200")]
    for run in runs:
        pool.submit(run)
    while len(heard.starts) < 2:
        await asyncio.sleep(0.01)
    print(pool.zygote_pid, *pool.pids, flush=True)
    await asyncio.sleep(200)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestPreforkPool(PoolContract):
    unheard = 30
    """Of a hundred killed runs, those that may have ended without the parent knowing."""

    @pytest.fixture
    def make(self) -> Make:
        return lambda size, app=None, **options: PreforkPool(loads(app), size, **options)

    # --- reporting ---------------------------------------------------------------------------------------

    @on_loop
    async def test_a_child_that_becomes_idle_says_so_itself(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody who waits for a short task waits for the parent's next look."""
        monkeypatch.setattr(sharing, "LOOK", 3600)
        pool, heard = make(1), Heard()
        await pool.start(heard)

        for run in (task("noop"), task("noop")):
            pool.submit(run)
            await heard.ends(run)
        await pool.stop(60)

        assert len(heard.outcomes) == 2

    @on_loop
    async def test_a_start_with_a_time_limit_is_told_at_once(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sharing, "LOOK", 3600)
        pool, heard, run = make(1), Heard(), task("sleep 200", hard=0.2)
        await run_all(pool, heard, run)

        assert heard.losses[run.key][2] is Cause.TIMEOUT

    # --- sharing -----------------------------------------------------------------------------------------

    @on_loop
    async def test_no_task_waits_behind_a_long_one_while_a_child_is_idle(
        self, make: Make, tmp_path: Path
    ) -> None:
        pool, heard = make(2), Heard()
        long, short = task(f"until {tmp_path}/go"), [task("noop") for _ in range(40)]
        await pool.start(heard)

        for run in [long, *short]:
            pool.submit(run)
        await heard.ends(*short)
        ended = list(heard.outcomes)
        (tmp_path / "go").touch()
        await heard.ends(long)
        await pool.stop(60)

        assert long.key not in ended
        assert len({heard.starts[run.key] for run in short} - {heard.starts[long.key]}) == 1

    @on_loop
    async def test_new_ones_do_not_overtake_what_waits_behind_a_long_one(
        self, make: Make, tmp_path: Path
    ) -> None:
        pool, heard = make(2), Heard()
        long, early = task(f"until {tmp_path}/go"), [task("noop") for _ in range(20)]
        await pool.start(heard)

        # The other child is never idle: each end submits another.
        heard.on_end = lambda key: pool.submit(task("sleep 0.001")) if len(heard.outcomes) < 500 else None
        for run in [long, *early, task("sleep 0.001"), task("sleep 0.001")]:
            pool.submit(run)
        await heard.ends(*early)
        before = len(heard.outcomes)
        (tmp_path / "go").touch()
        await heard.ends(long)
        await pool.stop(60)

        assert before < 200

    @on_loop
    async def test_children_share_the_work(self, make: Make, tmp_path: Path) -> None:
        """As many run at a time as there are children, and a child that comes late is waited for."""
        pool, heard = make(3), Heard()
        await pool.start(heard)

        shares = []
        for number in range(20):
            runs = [task(f"until {tmp_path}/{number}") for _ in range(3)]
            for run in runs:
                pool.submit(run)
            for run in runs:
                await heard.begins(run)
            shares.append({heard.starts[run.key] for run in runs})
            (tmp_path / str(number)).touch()
            await heard.ends(*runs)
        await pool.stop(60)

        assert [len(pids) for pids in shares] == [3] * 20

    # --- death -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ("die 11", "signal 11 (SIGSEGV)"),
            ("die 9", "signal 9 (SIGKILL), perhaps the kernel's: out of memory"),
            ("exit 3", "exited with status 3"),
            ("leave 4", "exited with status 4"),
        ],
    )
    @on_loop
    async def test_a_task_that_ends_its_child_costs_itself_alone(
        self, make: Make, body: str, reason: str
    ) -> None:
        pool, heard = make(1), Heard()
        runs = [task("noop"), task("noop"), task(body), *(task("noop") for _ in range(10))]
        await run_all(pool, heard, *runs)

        assert heard.losses == {runs[2].key: (reason, False, Cause.LOST)}
        assert len(heard.outcomes) == 12
        assert pool.replaced == 1

    @on_loop
    async def test_what_kills_before_it_starts_costs_nobody_else(self, make: Make) -> None:
        """The outcome before it, on its way with the next start, is noted and survives."""
        pool, heard = make(1), Heard()
        runs = [*(task("noop") for _ in range(8)), task("unreadable"), *(task("noop") for _ in range(8))]
        await run_all(pool, heard, *runs)

        reason, *_ = heard.losses.pop(runs[8].key)
        assert "before the task started, 5 times" in reason
        assert not heard.losses
        assert len(heard.outcomes) == 16
        assert runs[8].key not in heard.starts

    @on_loop
    async def test_after_a_hundred_kills_each_run_ended_once(self, make: Make, tmp_path: Path) -> None:
        """Killed at random moments: what the tasks wrote says which really began and ended."""
        pool, heard = make(3), Heard()
        runs = []
        await pool.start(heard)

        for _ in range(100):
            # However slowly the kills come, there is always something that one can hit.
            if pool.waiting < 1000:
                runs += (more := [task(f"append {tmp_path}/log 0.0005") for _ in range(2000)])
                for run in more:
                    pool.submit(run)
            await until(lambda: pool.running, "a task that runs")
            with contextlib.suppress(ProcessLookupError):
                os.kill(heard.starts[list(pool.running)[-1]], signal.SIGKILL)
            await asyncio.sleep(0.004)
        await heard.ends(*runs)
        await pool.stop(60)

        lines = (tmp_path / "log").read_text().split("\n")[:-1]
        began = [int(line[6:]) for line in lines if line.startswith("start")]
        ended = {int(line[4:]) for line in lines if line.startswith("end")}
        assert len(began) == len(set(began)), "a run started twice"
        assert heard.outcomes.keys() <= ended
        assert heard.losses.keys() <= heard.starts.keys()
        assert heard.outcomes.keys() | heard.losses.keys() == {run.key for run in runs}
        # A kill may come between the end of a task and its note; but most of the lost ones are half done.
        assert len(heard.losses) <= 100
        assert len(heard.losses.keys() & ended) <= self.unheard

    @on_loop
    async def test_a_large_body_survives_the_child_that_was_reading_it(
        self, make: Make, tmp_path: Path
    ) -> None:
        pool, heard = make(1), Heard()
        first, large = task("noop"), task(b"answer 1 ".ljust(20_000_000))
        await pool.start(heard)
        pool.submit(first)
        await heard.ends(first)

        pool.submit(large)
        os.kill(heard.starts[first.key], signal.SIGKILL)
        await heard.ends(large)
        await pool.stop(60)

        assert heard.states(large) == ["20000000"]

    @on_loop
    async def test_a_new_zygote_takes_the_place_of_one_that_died(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        running, later = task(f"until {tmp_path}/go"), [task("noop") for _ in range(5)]
        await pool.start(heard)
        pool.submit(running)
        await heard.begins(running)

        os.kill(pool.zygote_pid, signal.SIGKILL)
        await heard.ends(running)
        for run in later:
            pool.submit(run)
        await heard.ends(*later)
        await pool.stop(60)

        reason, innocent, _ = heard.losses[running.key]
        assert "the process that forked it ended: signal 9" in reason
        assert innocent
        assert heard.states(*later) == ["SUCCESS"] * 5

    @on_loop
    async def test_an_executor_that_raises_is_answered_by_an_obituary(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("raises")
        await run_all(pool, heard, run)

        assert heard.states(run) == ["LOST:ValueError('an executor never raises')"]

    # --- limits ------------------------------------------------------------------------------------------

    @on_loop
    async def test_the_soft_limit_is_raised_inside_the_task(self, make: Make) -> None:
        pool, heard = make(1), Heard()
        long, short = task("patient 90", soft=1.5), task("patient 0.2", soft=90)
        await run_all(pool, heard, long, short)

        assert heard.states(long, short) == ["soft limit 1.5", "SUCCESS"]

    @on_loop
    async def test_the_hard_limit_kills_the_child_and_spares_the_rest(self, make: Make) -> None:
        pool, heard = make(1), Heard()
        runs = [
            task("noop", hard=90), task("sleep 200", hard=0.2), *(task("noop", hard=90) for _ in range(5))
        ]  # fmt: skip
        await pool.start(heard)
        began = time.monotonic()

        for run in runs:
            pool.submit(run)
        await heard.ends(*runs)
        took = time.monotonic() - began
        await pool.stop(60)

        assert heard.losses == {runs[1].key: ("0.2", False, Cause.TIMEOUT)}
        assert took >= 0.2

    @on_loop
    async def test_terminating_hits_that_run_and_no_other(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        one, other = task(f"until {tmp_path}/go"), task(f"until {tmp_path}/go")
        after = [task("noop") for _ in range(5)]
        await pool.start(heard)
        for run in (one, other, *after):
            pool.submit(run)
        await heard.begins(one)
        await heard.begins(other)

        terminated = pool.terminate(one.key, "revoked by hand")
        again = pool.terminate(one.key, "twice")
        (tmp_path / "go").touch()
        await heard.ends(one, other, *after)
        unknown = pool.terminate(one.key, "too late")
        await pool.stop(60)

        assert (terminated, again, unknown) == (True, False, False)
        assert heard.losses == {one.key: ("revoked by hand", False, Cause.TERMINATED)}
        assert len(heard.outcomes) == 6

    @on_loop
    async def test_terminating_at_any_moment_hits_no_other(self, make: Make) -> None:
        pool, heard = make(2), Heard()
        runs = [task("noop") for _ in range(3000)]
        killed: set[int] = set()
        await pool.start(heard)

        def kill_one(_: int) -> None:
            if len(heard.outcomes) % 50 == 0:
                for key in list(pool.running):
                    if pool.terminate(key, "now"):
                        killed.add(key)

        heard.on_end = kill_one
        for run in runs:
            pool.submit(run)
        await heard.ends(*runs)
        await pool.stop(60)

        assert heard.losses.keys() <= killed
        assert heard.outcomes.keys() | heard.losses.keys() == {run.key for run in runs}

    @on_loop
    async def test_killing_what_has_ended_unheard_spares_what_its_child_runs_now(
        self, make: Make, tmp_path: Path
    ) -> None:
        pool, heard, log = make(1), Heard(), tmp_path / "log"
        first, second = task("sleep 0.05"), task(f"append {log} 0.3")
        await pool.start(heard)
        pool.submit(first)
        pool.submit(second)
        await heard.begins(first)

        (slot,) = pool._slots.values()  # type: ignore[attr-defined]

        def has_gone_on() -> bool:
            """The child has ended the first; it has begun the second, unless it waits for being given it."""
            return (
                log.exists()
                if ends.window() > 1
                else bool(select.select([slot._near.fileno()], [], [], 0)[0])
            )

        deadline = time.monotonic() + 60
        while not has_gone_on():
            assert time.monotonic() < deadline
            time.sleep(0.005)  # noqa: ASYNC251  (the parent is slow, and hears nothing)
        pool.terminate(first.key, "too late")

        await heard.ends(first, second)
        await pool.stop(60)
        assert not heard.losses
        assert (tmp_path / "log").read_text().count("start") == 1

    # --- replacing ---------------------------------------------------------------------------------------

    @on_loop
    async def test_a_child_is_replaced_after_its_number_of_tasks(self, make: Make) -> None:
        pool, heard = make(1, max_tasks_per_child=3), Heard()
        runs = [task("pid") for _ in range(10)]
        await run_all(pool, heard, *runs)

        pids = heard.states(*runs)
        assert [len(set(pids[at : at + 3])) for at in range(0, 10, 3)] == [1, 1, 1, 1]
        assert len(set(pids)) == 4
        assert pool.replaced == 0

    @on_loop
    async def test_a_child_is_replaced_after_a_task_that_takes_too_much_memory(self, make: Make) -> None:
        pool, heard = make(1, max_memory_per_child=150_000), Heard()
        runs = [task("pid"), task("pid"), task("hog 200"), task("pid"), task("pid")]
        await run_all(pool, heard, *runs)

        before, same, hog, after, later = heard.states(*runs)
        assert before == same == hog
        assert after == later != before

    @on_loop
    async def test_a_child_that_hangs_when_it_should_end_is_killed_and_replaced(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slot, "LAST", 0.1)
        pool, heard = make(1, max_tasks_per_child=1), Heard()
        await pool.start(heard)
        runs = [task("at_close hang"), task("noop"), task("noop")]

        for run in runs:
            pool.submit(run)
        await heard.ends(*runs)

        assert await pool.stop(60)
        assert not heard.losses

    @on_loop
    async def test_a_child_that_hangs_when_it_is_told_to_end_is_killed(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slot, "LAST", 0.1)
        pool, heard = make(2), Heard()
        await pool.start(heard)
        runs = [task("at_close hang") for _ in range(2)]
        for run in runs:
            pool.submit(run)
        await heard.ends(*runs)
        before = pool.pids

        await pool.restart()
        await until(lambda: not any(alive(pid) for pid in before))

        await pool.stop(60)

    @on_loop
    async def test_resizing_adds_and_removes_children(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        runs = [task(f"until {tmp_path}/go") for _ in range(3)]
        await pool.start(heard)

        await pool.resize(3)
        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 3)
        await pool.resize(1)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await until(lambda: len(pool.pids) == 1)
        await pool.stop(60)

        assert not heard.losses

    @on_loop
    async def test_restarting_lets_running_tasks_end_and_replaces_all(
        self, make: Make, tmp_path: Path
    ) -> None:
        pool, heard = make(2), Heard()
        running, later = task(f"until {tmp_path}/go"), [task("pid") for _ in range(10)]
        await pool.start(heard)
        pool.submit(running)
        await heard.begins(running)
        before, zygote = set(pool.pids), pool.zygote_pid

        await pool.restart()
        for run in later:
            pool.submit(run)
        await heard.ends(*later)
        (tmp_path / "go").touch()
        await heard.ends(running)
        await until(lambda: len(pool.pids) == 2 and not before & set(pool.pids))
        await until(lambda: not alive(zygote), "the end of the old zygote")
        await pool.stop(60)

        assert not heard.losses
        assert not before & {int(state) for state in heard.states(*later)}

    # --- the worker's own signals ------------------------------------------------------------------------

    @on_loop
    async def test_a_receiver_that_kills_costs_its_own_signal_alone(self, make: Make, tmp_path: Path) -> None:
        noted = tmp_path / "hooks"
        pool, heard, run = make(1, spec(hooks=str(noted))), Heard(), task("pid")
        await pool.start(heard)

        for signal_name in ("worker_ready", "deadly", "task_received"):
            pool.hook(signal_name)
        pool.submit(run)
        await heard.ends(run)
        await until(lambda: noted.exists() and noted.read_text().count("\n") == 3, "three signals")
        await pool.stop(60)

        assert noted.read_text().split() == ["worker_ready", "deadly", "task_received"]
        assert not heard.losses

    # --- starting ----------------------------------------------------------------------------------------

    @on_loop
    async def test_an_import_error_arrives_with_the_users_traceback(self, make: Make) -> None:
        with pytest.raises(AppImportFailed, match="boom in the user's module") as caught:
            await make(1, spec("broken")).start(Heard())

        assert "fake_app.py" in caught.value.remote_traceback
        assert "raise ValueError" in caught.value.remote_traceback

    @on_loop
    async def test_a_module_that_exits_is_an_import_error(self, make: Make) -> None:
        with pytest.raises(AppImportFailed, match=r"sys\.exit\(3\)"):
            await make(1, spec("exits")).start(Heard())

    @on_loop
    async def test_an_import_that_kills_the_process_is_said(self, make: Make) -> None:
        with pytest.raises(PoolFailed, match="signal 9"):
            await make(1, spec("dies")).start(Heard())

    @on_loop
    async def test_children_that_cannot_start_fail_the_pool(self, make: Make) -> None:
        with pytest.raises(PoolFailed, match="no executor today"):
            await make(2, spec("stillborn")).start(Heard())

    @on_loop
    async def test_children_that_take_too_long_to_start_fail_the_pool(self, make: Make) -> None:
        with pytest.raises(PoolFailed, match="worker_proc_alive_timeout"):
            await make(2, spec("slow"), proc_alive_timeout=0.1).start(Heard())

    @on_loop
    async def test_children_that_cannot_start_any_more_are_tried_slower_and_slower(
        self, make: Make, tmp_path: Path
    ) -> None:
        flag = tmp_path / "flag"
        pool, heard = make(1, spec("fragile", flag=str(flag))), Heard()
        await pool.start(heard)
        flag.touch()
        began = time.monotonic()
        run = task("die 9")
        pool.submit(run)

        await until(lambda: len(flag.read_text().splitlines()) >= 4)
        patience = time.monotonic() - began
        flag.unlink()
        again = task("noop")
        pool.submit(again)
        await heard.ends(run, again)

        assert patience >= (1 + 2 + 4) * 0.05, "they were forked in a tight loop"
        await pool.stop(60)

    @on_loop
    async def test_threads_that_the_import_started_are_counted(self, make: Make) -> None:
        pool = make(1, spec("threads"))

        manifest = await pool.start(Heard())
        await pool.stop(60)

        assert manifest.threads == 2

    @on_loop
    async def test_a_manifest_of_any_size_arrives(self, make: Make) -> None:
        pool = make(1, spec("big", comment="x" * 1_000_000))

        manifest = await pool.start(Heard())
        await pool.stop(60)

        assert len(manifest.settings["comment"]) == 1_000_000

    @on_loop
    async def test_settings_of_the_app_are_the_default(self) -> None:
        pool = PreforkPool(spec(worker_concurrency=3, worker_max_tasks_per_child=1))
        heard = Heard()
        runs = [task("pid") for _ in range(4)]
        await run_all(pool, heard, *runs)

        assert pool.size == 3
        assert len(set(heard.states(*runs))) == 4

    # --- ending ------------------------------------------------------------------------------------------

    @on_loop
    async def test_stopping_kills_after_the_timeout_and_reports_the_loss(self, make: Make) -> None:
        pool, heard = make(2), Heard()
        long, short = task("sleep 200"), task("sleep 0.05")
        await pool.start(heard)
        pool.submit(long)
        pool.submit(short)
        await heard.begins(long)
        await heard.ends(short)
        pids = [*pool.pids, pool.zygote_pid]

        clean = await pool.stop(1.0)
        await until(lambda: not any(alive(pid) for pid in pids), "the end of the killed")

        assert not clean
        assert heard.states(short) == ["SUCCESS"]
        assert list(heard.losses) == [long.key]

    @on_loop
    async def test_signals_to_children_do_not_reach_tasks(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(1), Heard(), task(f"until {tmp_path}/go")
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(pool.pids[0], number)
            os.kill(pool.zygote_pid, number)
        (tmp_path / "go").touch()
        await heard.ends(run)
        await pool.stop(60)

        assert heard.states(run) == ["SUCCESS"]

    @on_loop
    async def test_children_are_in_a_session_of_their_own(self, make: Make) -> None:
        pool = make(1)
        await pool.start(Heard())

        sessions = {os.getsid(pool.pids[0]), os.getsid(pool.zygote_pid)}
        await pool.stop(60)

        assert sessions == {pool.zygote_pid} or os.getsid(0) not in sessions

    @on_loop
    async def test_what_a_task_forks_can_be_terminated(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("spawn")
        await run_all(pool, heard, run)

        assert heard.states(run) == ["-15"]

    @on_loop
    async def test_stacks_are_dumped_without_harm(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(1), Heard(), task(f"until {tmp_path}/go")
        with errors_in(tmp_path / "stderr") as said:
            await pool.start(heard)
            pool.submit(run)
            await heard.begins(run)

            pool.dump()
            await until(lambda: "in until" in said(), "its stacks")
        (tmp_path / "go").touch()
        await heard.ends(run)
        await pool.stop(60)

        assert heard.states(run) == ["SUCCESS"]


class TestPreforkPoolOverStreams(TestPreforkPool):
    """As on systems without SEQPACKET sockets and memory files: one run a child, and nothing to read back."""

    unheard = 100  # what a child is sending when it is killed is gone

    @pytest.fixture(autouse=True)
    def _poor_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ends, "KIND", socket.SOCK_STREAM)
        monkeypatch.setattr(slot, "open_journal", lambda: None)


@pytest.mark.parametrize(("module", "pool"), [("prefork", "PreforkPool"), ("threads", "ThreadsPool")])
@on_loop
async def test_a_killed_parent_leaves_no_process(module: str, pool: str) -> None:
    program = PARENT.format(module=module, pool=pool)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert all(alive(pid) for pid in pids)

        parent.kill()
        # Long before the end of what they run.
        await until(lambda: not any(alive(pid) for pid in pids), "the end of zygote and children")

    assert len(pids) == (3 if module == "prefork" else 2)


@pytest.mark.parametrize(
    ("setting", "kind"), [(None, PreforkPool), ("prefork", PreforkPool), ("threads", ThreadsPool)]
)
@on_loop
async def test_the_settings_choose_the_pool(setting: str | None, kind: type) -> None:
    pool = await open_pool(spec(worker_pool=setting, worker_concurrency=2))

    await pool.start(Heard())
    await pool.stop(60)

    assert type(pool) is kind
    assert pool.size == 2


@on_loop
async def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="no pool 'gevent'"):
        await open_pool(spec(worker_pool="gevent"))
