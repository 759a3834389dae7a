"""The solo pool: a thread of this very process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.solo import SoloPool

from .contract import Make, PoolContract, loads
from .fake_app import load
from .hearing import Heard, on_loop, run_all, spec, task


class TestSoloPool(PoolContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda size, app=None: SoloPool(loads(app))

    @on_loop
    async def test_tasks_run_in_this_process(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("pid")
        await run_all(pool, heard, run)

        assert heard.states(run) == [str(os.getpid())]

    @on_loop
    async def test_an_app_that_is_loaded_already_is_used_as_it_is(self) -> None:
        heard, run = Heard(), task("noop")
        pool = SoloPool(load(LoadSpec("", "mine")))

        manifest = await pool.start(heard)
        pool.submit(run)
        await heard.ends(run)
        await pool.stop(60)

        assert manifest.app == "mine"

    @on_loop
    async def test_a_task_that_does_not_end_is_left_alone(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(1), Heard(), task(f"until {tmp_path}/go")
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        clean = await pool.stop(0.05)
        (tmp_path / "go").touch()

        assert not clean

    @on_loop
    async def test_an_executor_that_cannot_be_made_is_said_by_start(self, make: Make) -> None:
        pool = make(1, spec("stillborn"))

        with pytest.raises(RuntimeError, match="no executor today"):
            await pool.start(Heard())

    @on_loop
    async def test_nothing_can_be_terminated(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("sleep 0.05")
        await pool.start(heard)
        pool.submit(run)
        await heard.begins(run)

        assert not pool.terminate(run.key, "because")
        await asyncio.sleep(0)
        assert await pool.stop(60)
