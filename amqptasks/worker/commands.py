"""Remote control of a worker: the commands by name, its mailbox, and what they act on, put together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from amqptasks.errors import PoolFailed
from amqptasks.pidbox import Request
from amqptasks.transport.base import Link
from amqptasks.worker import revoking
from amqptasks.worker.controlling import CONTROL
from amqptasks.worker.inspecting import ALIASES, INSPECT
from amqptasks.worker.mailbox import Mailbox
from amqptasks.worker.pools.base import Pool
from amqptasks.worker.revokes import Revokes
from amqptasks.worker.station import Station

logger = logging.getLogger(__name__)

COMMANDS = {**INSPECT, **CONTROL}


class Remote:
    """What a worker opens on each new link before it consumes. Used in the loop only."""

    def __init__(self, station: Station) -> None:
        self._station = station
        settings = station.manifest.settings
        self._revokes: Revokes | None = None
        if settings["worker_enable_remote_control"]:
            self._revokes = Revokes(
                station.node,
                settings,
                station.publisher,
                station.dispatch.revoked,
                partial(revoking.drop_waiting, station.dispatch),
            )
            station.remember = self._revokes.remember
        self._mailbox = (
            Mailbox(station.node, settings, station.publisher, station.clock, self.execute)
            if settings["worker_enable_remote_control"]
            else None
        )

    async def prepare(self, link: Link) -> None:
        """Learn what is revoked, then open the mailbox. Raises nothing; without them the worker works on."""
        await self._station.events.prepare(link)
        if self._revokes is not None:
            await self._revokes.open(link)
        if self._mailbox is not None:
            await self._mailbox.open(link)

    def execute(self, request: Request) -> Any:
        """Carry out a command; the answer, or a coroutine of it. Raises what the command raises, KeyError for none."""
        command = COMMANDS.get(ALIASES.get(request.method, request.method))
        if command is None:
            limit = self._station.manifest.commands.get(request.method)
            if limit is None:
                raise KeyError(request.method)
            return _own(self._station.pool, request.method, request.arguments, limit)
        everyone = not request.destination and not request.pattern
        return command(self._station, everyone=everyone, **request.arguments)

    def close(self) -> None:
        if self._revokes is not None:
            self._revokes.close()
        if self._mailbox is not None:
            self._mailbox.close()


async def _own(pool: Pool, name: str, arguments: Mapping[str, Any], limit: float) -> Any:
    """Have one of the app's own commands carried out; what goes wrong is the answer."""
    try:
        return json.loads(await pool.command(name, json.dumps(arguments).encode(), limit))
    except TimeoutError:
        said = f"the command {name} did not answer within {limit:g} s and was ended; see its `time_limit`"
    except PoolFailed as error:
        said = f"the command {name} was not carried out: {error}"
    logger.error("%s", said)
    return {"error": said}
