"""Applying what is revoked to what a worker already holds. Knows the dispatch; decides nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.flight import Flight
from amqptasks.worker.outcome import Cause

logger = logging.getLogger(__name__)

WAITING = (Cause.RUN, Cause.EARLY)


def drop_waiting(dispatch: Dispatch) -> None:
    """Whatever is revoked, was received and has not started gets its obituary instead of its run."""
    keys = {
        flight.key
        for flight in dispatch.flights.values()
        if not flight.started and dispatch.revoked.covers(flight.task_id, flight.delivery)
    }
    if not keys:
        return
    for run in dispatch.take_back(keys):
        dispatch.pool.submit(replace(run, cause=Cause.REVOKED, detail="") if run.cause in WAITING else run)


def terminate(dispatch: Dispatch, meant: Callable[[Flight], bool], signal: str) -> list[str]:
    """Kill the children that run what is meant, and no other; return the ids."""
    ended = []
    for flight in list(dispatch.flights.values()):
        if not flight.started or not meant(flight):
            continue
        logger.info("Terminating %s (%s)", flight.task_id, signal)
        if dispatch.pool.terminate(flight.key, f"revoked ({signal})"):
            ended.append(flight.task_id)
        else:
            logger.warning("%s has ended meanwhile, or runs where it cannot be stopped", flight.task_id)
    return ended
