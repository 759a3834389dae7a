"""The asyncio pool: one child with n coroutines on a loop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from amqptasks.worker.outcome import Cause
from amqptasks.worker.pools.aio import CONCURRENCY, AsyncioPool

from .contract import Make, PoolContract, loads
from .hearing import Heard, errors_in, on_loop, run_all, spec, task, until


class TestAsyncioPool(PoolContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda size, app=None: AsyncioPool(loads(app), size)

    @on_loop
    async def test_one_process_runs_as_many_coroutines_as_asked_for(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(300), Heard()
        runs = [task(f"wait {tmp_path}/go") for _ in range(400)]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 300)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await pool.stop(60)

        assert len(set(heard.starts.values())) == 1

    @on_loop
    async def test_what_the_child_has_no_room_for_is_recalled(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(3), Heard()
        runs = [task(f"wait {tmp_path}/go") for _ in range(10)]
        await pool.start(heard)
        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 3)

        recalled = pool.recall()
        (tmp_path / "go").touch()
        await heard.ends(*runs[:3])
        await pool.stop(60)

        assert recalled == runs[3:]

    @on_loop
    async def test_a_blocking_task_does_not_stop_coroutines(self, make: Make, tmp_path: Path) -> None:
        pool, heard, blocking, other = make(2), Heard(), task(f"until {tmp_path}/go"), task("rest 0")
        await pool.start(heard)

        pool.submit(blocking)
        await heard.begins(blocking)
        pool.submit(other)
        await heard.ends(other)
        running = list(pool.running)
        (tmp_path / "go").touch()
        await heard.ends(blocking)
        await pool.stop(60)

        assert running == [blocking.key]

    @on_loop
    async def test_each_run_has_a_context_of_its_own(self, make: Make) -> None:
        pool, heard, runs = make(1), Heard(), [task("own") for _ in range(10)]
        await run_all(pool, heard, *runs)

        assert set(heard.states(*runs)) == {"nobody"}

    @on_loop
    async def test_a_soft_limit_is_raised_at_the_await(self, make: Make) -> None:
        pool, heard, run, other = make(2), Heard(), task("mind 30", soft=0.05), task("mind 0.2")
        await run_all(pool, heard, run, other)

        assert heard.states(run, other) == ["soft limit 0.05", "SUCCESS"]

    @on_loop
    async def test_a_hard_limit_ends_its_coroutine_alone(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        run, other = task(f"tidy {tmp_path}/note", hard=0.05), task(f"wait {tmp_path}/note")
        await pool.start(heard)

        pool.submit(other)
        pool.submit(run)
        await heard.ends(run, other)
        await pool.stop(60)

        assert heard.losses == {run.key: ("0.05", False, Cause.TIMEOUT)}
        assert heard.states(other) == ["SUCCESS"]
        assert (tmp_path / "note").read_text() == "tidied\n"

    @on_loop
    async def test_one_coroutine_is_terminated(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        run, other = task(f"tidy {tmp_path}/note"), task(f"wait {tmp_path}/note")
        await pool.start(heard)
        for each in (run, other):
            pool.submit(each)
            await heard.begins(each)

        answers = pool.terminate(run.key, "because"), pool.terminate(12345, "because")
        await heard.ends(run, other)
        await pool.stop(60)

        assert answers == (True, False)
        assert heard.losses == {run.key: ("because", False, Cause.TERMINATED)}
        assert heard.states(other) == ["SUCCESS"]

    @on_loop
    async def test_all_of_many_are_terminated_at_once(self, make: Make) -> None:
        pool, heard = make(1000), Heard()
        runs = [task("rest 60") for _ in range(1000)]
        await pool.start(heard)
        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 1000)

        for run in runs:
            pool.terminate(run.key, "because")
        await heard.ends(*runs)
        clean = await pool.stop(60)

        assert set(heard.losses.values()) == {("because", False, Cause.TERMINATED)}
        assert clean

    @on_loop
    async def test_a_coroutine_that_ignores_its_cancellation_is_given_up(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool, heard = make(1), Heard()
        run, later = task(f"stubborn {tmp_path}/go", hard=0.01), task("rest 0")
        await pool.start(heard)

        pool.submit(run)
        pool.submit(later)
        await heard.ends(run, later)
        (tmp_path / "go").touch()
        await pool.stop(60)

        assert heard.losses == {run.key: (f"{0.01:g}", False, Cause.TIMEOUT)}
        assert heard.states(later) == ["SUCCESS"]
        assert run.key not in heard.outcomes

    @on_loop
    async def test_what_runs_in_a_thread_is_not_ended(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(2), Heard(), task(f"until {tmp_path}/go", hard=0.01)
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        pool.terminate(run.key, "because")
        (tmp_path / "go").touch()
        await heard.ends(run)
        await pool.stop(60)

        assert heard.states(run) == ["SUCCESS"]

    @on_loop
    async def test_nobody_is_blamed_when_several_ran(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        bystander, victim, later = task(f"wait {tmp_path}/go"), task(f"wait {tmp_path}/go"), task("noop")
        await pool.start(heard)
        for run in (bystander, victim):
            pool.submit(run)
            await heard.begins(run)

        pool.submit(later)
        os.kill(pool.pids[0], signal.SIGKILL)  # type: ignore[attr-defined]
        await heard.ends(bystander, victim, later)
        await pool.stop(60)

        assert [heard.losses[run.key][1] for run in (bystander, victim)] == [True, True]
        assert heard.states(later) == ["SUCCESS"]

    @on_loop
    async def test_sys_exit_in_a_coroutine_ends_the_child(self, make: Make) -> None:
        pool, heard, run, later = make(2), Heard(), task("quit 3"), task("noop")
        await pool.start(heard)

        pool.submit(run)
        await heard.ends(run)
        pool.submit(later)
        await heard.ends(later)
        await pool.stop(60)

        assert "3" in heard.losses[run.key][0]

    @on_loop
    async def test_an_executor_that_raises_leaves_an_outcome(self, make: Make) -> None:
        pool, heard, run = make(2), Heard(), task("raises")
        await run_all(pool, heard, run)

        assert heard.states(run) == ["LOST:ValueError('an executor never raises')"]

    @on_loop
    @pytest.mark.parametrize("word", ["closes", "acloses"])
    async def test_a_generator_exit_of_the_task_s_own_leaves_an_outcome(self, make: Make, word: str) -> None:
        pool, heard, run, later = make(1), Heard(), task(word), task("noop")
        await run_all(pool, heard, run, later)

        assert heard.states(run, later) == ['LOST:GeneratorExit("of the task\'s own")', "SUCCESS"]

    @on_loop
    async def test_what_ends_its_child_in_a_thread_has_begun(self, make: Make, tmp_path: Path) -> None:
        """An early-acknowledged task would run again else: its start is told before its body begins."""
        pool, heard = make(4), Heard()
        runs = [task("leave 7") for _ in range(10)]
        await pool.start(heard)
        for run in runs:
            pool.submit(run)
            await heard.ends(run)
        await pool.stop(60)

        assert [run.key for run in runs if run.key not in heard.starts] == []

    @on_loop
    async def test_limits_and_termination_that_race_with_the_end(self, make: Make) -> None:
        pool, heard = make(200), Heard()
        runs = [
            task(f"mind {0.001 * (number % 7)}", soft=0.003 if number % 3 else None, hard=0.004)
            for number in range(2000)
        ]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
            if run.key % 5 == 0:
                await asyncio.sleep(0)
                for key in list(pool.running)[::7]:
                    pool.terminate(key, "because")
        await heard.ends(*runs)
        after = task("rest 0")
        pool.submit(after)
        await heard.ends(after)
        clean = await pool.stop(60)

        causes = {cause for _, innocent, cause in heard.losses.values() if not innocent}
        states = {outcome.state for outcome in heard.outcomes.values()}
        assert Cause.TIMEOUT in causes <= {Cause.TIMEOUT, Cause.TERMINATED}
        assert states <= {"SUCCESS", "soft limit 0.003"}
        assert len(heard.losses) + len(heard.outcomes) == len(runs) + 1
        assert clean

    @on_loop
    async def test_signals_to_the_group_do_not_end_it(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(2), Heard(), task(f"wait {tmp_path}/go")
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pool.pids[0], number)  # type: ignore[attr-defined]
        other = task("rest 0.01")
        pool.submit(other)
        await heard.ends(other)
        (tmp_path / "go").touch()
        await heard.ends(run)
        await pool.stop(60)

        assert heard.states(run, other) == ["SUCCESS", "SUCCESS"]

    @on_loop
    async def test_a_coroutine_can_wait_for_a_process(self, make: Make) -> None:
        pool, heard, run = make(2), Heard(), task("command 3")
        await run_all(pool, heard, run)

        assert heard.states(run) == ["3"]

    @on_loop
    async def test_a_dump_shows_where_coroutines_wait(self, make: Make, tmp_path: Path) -> None:
        pool, heard, runs = make(3), Heard(), [task(f"wait {tmp_path}/go") for _ in range(3)]
        with errors_in(tmp_path / "stderr") as said:
            await pool.start(heard)
            for run in runs:
                pool.submit(run)
                await heard.begins(run)

            pool.dump()
            await until(lambda: "await asyncio.sleep(0.02)" in said(), "where they wait")
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await pool.stop(60)

        assert f"--- coroutines of runs {', '.join(str(run.key) for run in runs)}" in said()
        assert "fake_app.py" in said()

    @on_loop
    async def test_resizing_keeps_the_child(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        runs = [task(f"wait {tmp_path}/go") for _ in range(3)]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
        await pool.resize(3)
        await until(lambda: len(pool.running) == 3)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await pool.stop(60)

        assert pool.size == 3
        assert len(set(heard.starts.values())) == 1

    @on_loop
    async def test_a_child_that_replaces_another_has_the_new_size(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        runs = [task(f"wait {tmp_path}/go") for _ in range(3)]
        await pool.start(heard)
        await pool.resize(3)

        await pool.restart()
        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 3)
        (tmp_path / "go").touch()
        await heard.ends(*runs)

        assert await pool.stop(60)

    @on_loop
    async def test_without_a_number_there_is_room_for_many(self) -> None:
        pool = AsyncioPool(spec())

        await pool.start(Heard())
        await pool.stop(60)

        assert pool.size == CONCURRENCY

    @on_loop
    async def test_the_settings_number_counts(self) -> None:
        pool = AsyncioPool(spec(worker_concurrency=7))

        await pool.start(Heard())
        await pool.stop(60)

        assert pool.size == 7

    @on_loop
    async def test_uvloop_runs_them_where_it_is_installed(self) -> None:
        pytest.importorskip("uvloop")
        loops = []
        for app in ("fake", "plain"):
            pool, heard, run = AsyncioPool(spec(app), 2), Heard(), task("loop")
            await pool.start(heard)
            pool.submit(run)
            await heard.ends(run)
            await pool.stop(60)
            loops += heard.states(run)

        assert loops == ["uvloop", "asyncio"]


class TestOnPlainAsyncio(TestAsyncioPool):
    """The same, on a machine without uvloop."""

    @pytest.fixture
    def make(self) -> Make:
        return lambda size, app=None: AsyncioPool(app or spec("plain"), size)
