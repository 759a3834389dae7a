"""The threads pool: one child with n threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from amqptasks.worker.pools.threads import ThreadsPool

from .contract import Make, PoolContract, loads
from .hearing import Heard, on_loop, task, until


class TestThreadsPool(PoolContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda size, app=None: ThreadsPool(loads(app), size)

    @on_loop
    async def test_one_process_runs_as_many_tasks_as_it_has_threads(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(4), Heard()
        runs = [task(f"until {tmp_path}/go") for _ in range(6)]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 4)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await pool.stop(60)

        assert len(set(heard.starts.values())) == 1

    @on_loop
    async def test_nobody_is_blamed_when_several_ran(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(2), Heard()
        bystander, killer, later = task(f"until {tmp_path}/go"), task("die 9"), task("noop")
        await pool.start(heard)

        pool.submit(bystander)
        await heard.begins(bystander)
        pool.submit(killer)
        pool.submit(later)
        await heard.ends(bystander, killer, later)
        await pool.stop(60)

        assert [heard.losses[run.key][1] for run in (bystander, killer)] == [True, True]
        assert heard.states(later) == ["SUCCESS"]

    @on_loop
    async def test_a_limit_that_it_cannot_keep_is_said_once(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool, heard = make(2), Heard()
        await pool.start(heard)
        runs = [task("sleep 0.01", hard=0.001), task("sleep 0.01", soft=0.001), task("noop")]

        for run in runs:
            pool.submit(run)
        await heard.ends(*runs)
        await pool.stop(60)

        assert heard.states(*runs) == ["SUCCESS"] * 3
        assert sum("keeps no time limits" in record.message for record in caplog.records) == 1

    @on_loop
    async def test_nothing_can_be_terminated(self, make: Make) -> None:
        pool, heard, run = make(2), Heard(), task("sleep 0.05")
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        assert not pool.terminate(run.key, "because")
        await heard.ends(run)
        assert await pool.stop(60)

    @on_loop
    async def test_resizing_changes_the_number_of_threads(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        runs = [task(f"until {tmp_path}/go") for _ in range(3)]
        await pool.start(heard)

        await pool.resize(3)
        for run in runs:
            pool.submit(run)
        await until(lambda: len(pool.running) == 3)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        await pool.stop(60)

        assert pool.size == 3
