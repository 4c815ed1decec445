"""What the control socket may be asked: plain data about the node, and to stop it."""

import asyncio
import os
import time
from typing import Any

from kdht import __version__
from kdht.daemon.capabilities import REASONS
from kdht.daemon.control import Method, Params
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.settings import Settings
from kdht.daemon.wiring import SOCKET_LANE, Parts
from kdht.datapath.nfqueue import QUEUE_LANES
from kdht.errors import KdhtError


class Methods:
    """The methods of one daemon. They answer about the node while there is one."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self.settings = settings
        self._stopping = stopping
        self._started = time.monotonic()
        self._state = "starting"
        self.capabilities: list[str] = []
        """What the process kept of root's rights."""
        self._running: tuple[Parts, Datapaths] | None = None

    def table(self) -> dict[str, Method]:
        return {
            "status": Method(self._status),
            "table": Method(self._table),
            "stats": Method(self._stats),
            "datapath": Method(self._datapath),
            "switch": Method(self._switch, owner_only=True),
            "stop": Method(self._stop, owner_only=True),
        }

    def serve(self, parts: Parts, datapaths: Datapaths) -> None:
        """From now on answer about this node."""
        self._running = (parts, datapaths)
        self._state = "running"

    def end(self) -> None:
        """From now on the node is going away."""
        self._running = None
        self._state = "stopping"

    def _troubles(self) -> list[str]:
        failed = self._running[0].writer.stats().failed if self._running else 0
        return [f"{failed} writes failed: is the disk full? Its next sweep logs why"] if failed else []

    def _node(self) -> tuple[Parts, Datapaths]:
        if self._running is None:
            raise KdhtError(f"the node is {self._state}")
        return self._running

    async def _status(self, params: Params) -> dict[str, Any]:
        """The same fields in every state, so that a caller can wait for a node to be ready."""
        settings = self.settings
        return {
            "state": self._state,
            "version": __version__,
            "pid": os.getpid(),
            "uptime": time.monotonic() - self._started,
            "address": str(settings.address),
            "own": [str(address) for address in settings.own],
            "data_dir": str(settings.data_dir),
            "key_epochs": [key.epoch for key in settings.keys],
            "capabilities": {name: REASONS.get(name, "") for name in self.capabilities},
            "cookies": settings.config.node.cookies,
            "warnings": [*settings.warnings, *self._troubles()],
            **_ABSENT,
            **(await _living(*self._running) if self._running else {}),
        }

    async def _table(self, params: Params) -> dict[str, Any]:
        parts, _ = self._node()
        status = parts.driver.status()
        return {"node_id": status["id"], "buckets": status["buckets"]}

    async def _stats(self, params: Params) -> dict[str, Any]:
        parts, datapaths = self._node()
        store = parts.store.stats()._asdict()
        store.pop("detail")
        return {
            "packets": _packets(parts, datapaths),
            "requests": parts.service.counters(),
            "storage": {**store, **parts.writer.stats()._asdict()},
            "node": {**parts.driver.status()["counters"], "control_overflowed": parts.inbox.overflowed},
            "datapaths": {
                path.name: await asyncio.to_thread(path.status)
                for path in (parts.transport, *datapaths.running())
            },
        }

    async def _datapath(self, params: Params) -> dict[str, Any]:
        """Which datapath runs, how it is, and what there is to switch to."""
        parts, datapaths = self._node()
        return {
            "kind": datapaths.kind,
            "kinds": datapaths.kinds,
            "datapaths": (await _living(parts, datapaths))["datapaths"],
        }

    async def _switch(self, params: Params) -> dict[str, Any]:
        """Change the datapath while traffic flows; the old one stays if the new one cannot start."""
        _, datapaths = self._node()
        await asyncio.to_thread(datapaths.switch, str(params.get("kind")))
        return await self._datapath(params)

    async def _stop(self, params: Params) -> dict[str, Any]:
        self._stopping.set()
        return {"pid": os.getpid(), "address": str(self.settings.address)}


_ABSENT: dict[str, Any] = {"node_id": None, "contacts": 0, "joined": False, "records": 0, "datapaths": []}


async def _living(parts: Parts, datapaths: Datapaths) -> dict[str, Any]:
    """What only a running node has to tell."""
    return {
        "node_id": parts.contact.id.hex(),
        "contacts": len(parts.driver.contacts()),
        "joined": parts.driver.joined,
        "records": parts.store.stats().records,
        "datapaths": [
            {"name": path.name, **await asyncio.to_thread(path.status)}
            for path in (parts.transport, *datapaths.running())
        ],
    }


def _packets(parts: Parts, datapaths: Datapaths) -> dict[str, dict[str, int]]:
    """Verdicts by reason: of the socket's thread, of the queues' workers together, of the XDP program, of all."""
    socket_lane = parts.core.counters(SOCKET_LANE)
    queues = [parts.core.counters(lane) for lane in QUEUE_LANES]
    queued = {reason: sum(lane[reason] for lane in queues) for reason in socket_lane}
    in_kernel = datapaths.xdp_counters() or dict.fromkeys(socket_lane, 0)
    total = {reason: count + in_kernel[reason] for reason, count in parts.core.counters().items()}
    return {"socket": socket_lane, "nfqueue": queued, "ebpf": in_kernel, "all": total}
