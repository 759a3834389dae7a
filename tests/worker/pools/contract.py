"""What every pool does. Subclass `PoolContract` and give it the fixture `make`: size -> a pool, not started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amqptasks.errors import AppImportFailed, AppNotFound
from amqptasks.worker.outcome import Cause, LoadSpec, Verdict
from amqptasks.worker.pools.base import Pool

from .hearing import Heard, on_loop, run_all, spec, task, until

Make = Callable[..., Pool]


class PoolContract:
    """The slots of `make(size)` may be fewer than asked for."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @on_loop
    async def test_a_run_is_started_and_then_finished(self, make: Make) -> None:
        pool, heard, run = make(2), Heard(), task("noop")
        await run_all(pool, heard, run)

        assert heard.order == [("started", run.key), ("finished", run.key)]
        assert heard.outcomes[run.key].state == "SUCCESS"

    @on_loop
    async def test_run_and_outcome_travel_unchanged(self, make: Make) -> None:
        pool, heard = make(1), Heard()
        run = task("describe", header=bytes(range(256)), soft=2.5, hard=7.0, detail="über 'alles'")
        await run_all(pool, heard, run)

        outcome = heard.outcomes[run.key]
        assert outcome.verdict is Verdict.REQUEUE
        assert [parcel.body.decode() for parcel in outcome.publish] == [repr(run), "second"]
        assert [(p.exchange, p.routing_key, p.header, p.message_id, p.fate) for p in outcome.publish] == [
            ("replies", "client", b"header", "message-1", "drop")
        ] * 2

    @on_loop
    async def test_the_started_state_comes_with_the_start(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("tracked")
        await run_all(pool, heard, run)

        assert [parcel.body for parcel in heard.start_parcels[run.key]] == [b"STARTED"]

    @on_loop
    async def test_an_obituary_finishes_without_having_started(self, make: Make) -> None:
        pool, heard, run = make(1), Heard(), task("noop", cause=Cause.LOST, detail="signal 9")
        await run_all(pool, heard, run)

        assert heard.order == [("finished", run.key)]
        assert heard.states(run) == ["LOST:signal 9"]

    @on_loop
    async def test_one_slot_starts_runs_in_the_order_of_submission(self, make: Make) -> None:
        pool, heard = make(1), Heard()
        runs = [task("noop") for _ in range(100)]
        await run_all(pool, heard, *runs)

        assert [key for what, key in heard.order if what == "started"] == [run.key for run in runs]

    @on_loop
    async def test_many_runs_all_finish_once(self, make: Make) -> None:
        pool, heard = make(3), Heard()
        runs = [task("noop") for _ in range(2000)]
        await run_all(pool, heard, *runs)

        assert len(heard.outcomes) == 2000
        assert not heard.losses

    @pytest.mark.parametrize("size", [100, 130_000, 131_072, 200_000, 3_000_000])
    @on_loop
    async def test_bodies_and_outcomes_of_any_size_pass(self, make: Make, size: int) -> None:
        pool, heard = make(2), Heard()
        runs = [task(f"answer {size} ".encode().ljust(size)) for _ in range(4)]
        small = [task("noop") for _ in range(20)]
        await pool.start(heard)

        for run in [*small[:10], *runs, *small[10:]]:
            pool.submit(run)
        await heard.ends(*runs, *small)
        await pool.stop(60)

        assert heard.states(*runs) == [str(max(size, len(f"answer {size} ")))] * 4
        assert {len(heard.outcomes[run.key].publish[0].body) for run in runs} == {size}

    @on_loop
    async def test_a_paused_pool_starts_nothing(self, make: Make) -> None:
        pool, heard, run = make(2), Heard(), task("noop")
        await pool.start(heard)

        pool.pause(True)
        pool.submit(run)
        await asyncio.sleep(0)
        assert (pool.waiting, heard.order) == (1, [])
        pool.pause(False)
        await heard.ends(run)
        await pool.stop(60)

        assert heard.states(run) == ["SUCCESS"]

    @on_loop
    async def test_what_is_recalled_is_never_reported(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        first, *others = runs = [task(f"until {tmp_path}/go"), *(task("noop") for _ in range(50))]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
        await heard.begins(first)
        recalled = pool.recall()
        (tmp_path / "go").touch()
        await heard.ends(first)
        await pool.stop(60)

        assert recalled == others
        assert heard.order == [("started", first.key), ("finished", first.key)]

    @on_loop
    async def test_it_says_what_runs_and_how_much_waits(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        runs = [task(f"until {tmp_path}/go") for _ in range(4)]
        await pool.start(heard)

        for run in runs:
            pool.submit(run)
        await heard.begins(runs[0])
        shown = (pool.size, list(pool.running), pool.waiting)
        (tmp_path / "go").touch()
        await heard.ends(*runs)
        after = (dict(pool.running), pool.waiting)
        await pool.stop(60)

        assert shown == (1, [runs[0].key], 3)
        assert after == ({}, 0)

    @on_loop
    async def test_stopping_waits_for_what_runs(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(1), Heard(), task(f"until {tmp_path}/go")
        await pool.start(heard)

        pool.submit(run)
        await heard.begins(run)
        stopping = asyncio.create_task(pool.stop(None))
        await asyncio.sleep(0)
        (tmp_path / "go").touch()
        clean = await stopping

        assert clean
        assert heard.states(run) == ["SUCCESS"]

    @on_loop
    async def test_stopping_closes_every_executor(self, make: Make, tmp_path: Path) -> None:
        pool, heard, run = make(1), Heard(), task(f"at_close {tmp_path}/closed")
        await pool.start(heard)
        pool.submit(run)
        await heard.ends(run)

        await pool.stop(60)

        assert (tmp_path / "closed").read_text() == "closed\n"

    @on_loop
    async def test_stopping_twice_or_before_the_start_is_harmless(self, make: Make) -> None:
        pool, unstarted = make(1), make(1)
        await pool.start(Heard())

        answers = [await pool.stop(60), await pool.stop(0), await unstarted.stop(0)]

        assert answers == [True, True, True]

    @on_loop
    async def test_restarting_goes_on_with_new_executors(self, make: Make, tmp_path: Path) -> None:
        pool, heard = make(1), Heard()
        first, second = task(f"at_close {tmp_path}/closed"), task("noop")
        await pool.start(heard)
        pool.submit(first)
        await heard.ends(first)

        await pool.restart()
        await until((tmp_path / "closed").exists)
        pool.submit(second)
        await heard.ends(second)
        await pool.stop(60)

        assert heard.states(second) == ["SUCCESS"]

    @on_loop
    async def test_sys_exit_in_a_task_loses_it_and_no_other(self, make: Make) -> None:
        pool, heard = make(1), Heard()
        runs = [task("noop"), task("exit 3"), task("noop")]
        await run_all(pool, heard, *runs)

        assert heard.states(runs[0], runs[2]) == ["SUCCESS", "SUCCESS"]
        reason, innocent, cause = heard.losses[runs[1].key]
        assert "3" in reason
        assert (innocent, cause) == (False, Cause.LOST)

    @on_loop
    async def test_the_workers_own_signals_are_sent_in_order_and_in_time(
        self, make: Make, tmp_path: Path
    ) -> None:
        noted = tmp_path / "hooks"
        pool, heard = make(1, spec(hooks=str(noted))), Heard()
        await pool.start(heard)

        pool.hook("worker_ready")
        for number in range(100):
            pool.hook("task_received", task(str(number)).delivery)
        pool.hook("nobody_listens")
        await pool.stop(60)

        assert noted.read_text().splitlines() == ["worker_ready", *(f"task_received {n}" for n in range(100))]
        assert heard.order == []

    @on_loop
    async def test_the_manifest_is_the_loaders(self, make: Make) -> None:
        pool = make(1, spec("proj", broker_url="amqp://here"))

        manifest = await pool.start(Heard())
        await pool.stop(60)

        assert manifest.app == "proj"
        assert manifest.settings["broker_url"] == "amqp://here"
        assert manifest.settings["cwd"] == os.getcwd()

    @on_loop
    async def test_an_app_that_is_not_found_is_said_by_start(self, make: Make) -> None:
        pool = make(1, spec("missing"))

        with pytest.raises(AppNotFound, match="no app named missing"):
            await pool.start(Heard())
        await pool.stop(0)


def loads(app: LoadSpec | None) -> LoadSpec:
    return app or spec()


__all__ = ["AppImportFailed", "Make", "PoolContract", "loads"]
