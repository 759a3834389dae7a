"""How busy a lane is, read off the dispatch when somebody asks. Changes nothing."""

from __future__ import annotations

import asyncio

from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.lane import Lane


def longest_running(dispatch: Dispatch, lane: Lane) -> float:
    """Seconds that the lane's longest running task has taken so far."""
    flights = dispatch.flights
    mine = [
        start for key, start in dispatch.pool.running.items() if key in flights and flights[key].lane is lane
    ]
    return asyncio.get_running_loop().time() - min(mine) if mine else 0.0


def early(dispatch: Dispatch, lane: Lane) -> int:
    """How many of the lane's deliveries wait until they are due."""
    flights = dispatch.flights
    return sum(1 for key in dispatch.holding.due if key in flights and flights[key].lane is lane)
