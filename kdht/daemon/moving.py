"""A move: the node gives its records away, takes another ID and joins again, in the same process.

    running --move--> giving away --all are given--> choosing --an ID--> running
                          |                              |
                          | the daemon ends              | the daemon ends
                          v                              v
             the next start has the old ID      the next start chooses one

So an interrupted move leaves a working node, and every record is on some node.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from kdht.config.settings import Settings
from kdht.daemon.bootstrap import tell_failure
from kdht.daemon.datadir import DataDir
from kdht.daemon.everyone import MAX_LOOKUPS, everyone, number_of
from kdht.daemon.wiring import Parts, drain
from kdht.errors import ConfigError, KdhtError
from kdht.node.place.shares import depths

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# Five seconds. A node that leaves without a word is probed by all others until they take it for dead.
GOODBYE_LOOKS = 50
"""After the handoff, wait for the LEAVE messages to go out: so many looks at most."""


class Moves:
    """The moves of one daemon. `again` restarts the node with another ID. `on_failure` ends the daemon."""

    def __init__(
        self, data: DataDir, again: Callable[[], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._data = data
        self._again = again
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None
        self.moving = False
        """True from the start of the handoff until the node runs with its new ID."""
        self.has_left = False
        """The handoff is over, and the old ID is deleted."""

    async def start(self, parts: Parts, settings: Settings, *, anyway: bool) -> None:
        """Begin. Raises KdhtError if a move is impossible or useless."""
        if self.moving:
            return
        if settings.config.node.id.id is not None:
            raise ConfigError(
                'node.id names this node\'s ID: set it to "balanced" and restart the node, then move it'
            )
        if not parts.driver.contacts():
            raise KdhtError("no other node is known, so there is nowhere to move to")
        if not parts.driver.readiness.ready:
            raise KdhtError(
                f"the node still waits for {', '.join(parts.driver.readiness.missing)}: move it when it is ready"
            )
        if not anyway:
            await _must_help(parts)
            if self.moving:
                return  # another asked meanwhile
        log.info("moving: records are given away")
        self.moving = True
        drain(parts)
        self._task = asyncio.create_task(self._run(parts))
        self._task.add_done_callback(partial(tell_failure, self._on_failure))

    def cancel(self) -> None:
        """The drain was cancelled: the node keeps its ID."""
        self.moving = False

    def done(self) -> None:
        """The node runs with its new ID."""
        self.moving = self.has_left = False

    async def stop(self) -> None:
        """The node ends: cancel the wait."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, parts: Parts) -> None:
        """Wait for the end of the handoff, then restart."""
        while not (repair := parts.driver.status()["repair"])["drained"]:
            if not repair["draining"]:
                log.info("not moving: the drain was cancelled")
                self.moving = False
                return
            await asyncio.sleep(LOOK_SECONDS)
        for _ in range(GOODBYE_LOOKS):
            if not parts.driver.status()["notices"]:
                break
            await asyncio.sleep(LOOK_SECONDS)
        # Only now: until the last record is given away, a crash must bring the node back under its old ID.
        self._data.forget_node_id()
        self.has_left = True
        self._again()


async def _must_help(parts: Parts) -> None:
    """Raises KdhtError if the move would not balance the cluster better."""
    nodes, _ = await everyone(parts, MAX_LOOKUPS)
    ids = sorted(number_of(contact.id) for contact in nodes)
    found = depths(ids)
    own, most = found[ids.index(number_of(parts.contact.id))], min(found)
    # With a difference of one branch, the move would only swap two shares.
    if own < most + 2:
        raise KdhtError(
            f"this node owns 1/{1 << own} of all keys, and elsewhere it would own 1/{2 << most}: "
            "moving it makes nothing more even (--anyway moves it all the same)"
        )
