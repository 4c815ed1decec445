"""Methods of the control socket: plain data about the node, reloading its configuration, stopping it.

node_status.py has the answer of `status`, network_methods.py the methods of the overlay, storage_methods.py those of the
records.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from kdht.daemon.control.network_methods import NetworkMethods
from kdht.daemon.control.node_status import status_of
from kdht.daemon.control.server import Method, Params, taken
from kdht.daemon.control.share_methods import ShareMethods
from kdht.daemon.control.state import DaemonState
from kdht.daemon.control.storage_methods import StorageMethods
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.wiring import SOCKET_LANE, Parts, drain
from kdht.datapath.nfqueue.datapath import QUEUE_LANES
from kdht.errors import KdhtError
from kdht.histogram import Histogram
from kdht.node.access import KINDS
from kdht.node.access import REASONS as DENIALS
from kdht.program.answers import (
    BucketState,
    DatapathChoice,
    DrainCancelled,
    DrainState,
    Durations,
    Latency,
    MoveBegun,
    NodeStats,
    ReloadAnswer,
    RoutingTable,
    Stopping,
    StorageCounters,
)
from kdht.program.node_status import DatapathState, FaceState, NodeStatus
from kdht.wire._shared import Op


class MoveParams(msgspec.Struct, forbid_unknown_fields=True):
    anyway: bool = False
    """Also where shares are no more even afterwards."""


class Methods:
    """The methods of one daemon. They answer about the node while there is one."""

    def __init__(
        self,
        state: DaemonState,
        stopping: asyncio.Event,
        anew: asyncio.Event,
        lost_lines: Callable[[], int],
        faces: Callable[[], list[FaceState]],
        discovery: Mapping[str, int],
    ) -> None:
        """`lost_lines`: log lines that were lost so far. `discovery`: questions of other nodes, by what became of them."""
        self._state = state
        self._lost_lines = lost_lines
        self._faces = faces
        self._discovery = discovery
        self._stopping = stopping
        self._anew = anew

    def table(self) -> dict[str, Method]:
        return {
            "status": Method(self._status),
            "table": Method(self._table),
            "stats": Method(self._stats),
            "latency": Method(self._latency),
            "datapath": Method(self._datapath),
            "switch": Method(self._switch, owner_only=True),
            "drain": Method(self._drain, owner_only=True),
            "move": Method(self._move, owner_only=True),
            "stay": Method(self._stay, owner_only=True),
            "reload": Method(self._reload, owner_only=True),
            "stop": Method(self._stop, owner_only=True),
            **NetworkMethods(self._state.node).table(),
            **ShareMethods(self._state.node).table(),
            **StorageMethods(self._state.node).table(),
        }

    async def _status(self, params: Params) -> NodeStatus:
        status = status_of(self._state, self._lost_lines())
        status.faces = self._faces()
        status.discovery = dict(self._discovery)
        if running := self._state.running:
            status.datapaths = await _datapath_states(running.parts, running.datapaths)
        return status

    async def _table(self, params: Params) -> RoutingTable:
        parts = self._state.node().parts
        status = parts.driver.status()
        return RoutingTable(status["id"], msgspec.convert(status["buckets"], list[BucketState]))

    async def _stats(self, params: Params) -> NodeStats:
        parts, datapaths, *_ = self._state.node()
        status = parts.driver.status()
        return NodeStats(
            packets=_packets(parts, datapaths),
            requests=_requests(parts),
            denied=_by_kind_and_reason(parts.access.denied),
            would_deny=_by_kind_and_reason(parts.access.would_deny),
            replication={**parts.coordinator.counters, "watchers": parts.service.watchers},
            storage=_storage(parts),
            repair=status["repair"]["counters"],
            node={
                **status["counters"],
                **parts.reflector.counters,
                "control_overflowed": parts.queue.overflowed,
            },
            datapaths=dict(await _states_by_name(parts, datapaths)),
            strangers=_strangers(parts, time.time()),
        )

    async def _latency(self, params: Params) -> Latency:
        parts = self._state.node().parts
        timings = parts.timings
        trips = parts.driver.round_trips | {"replication": parts.coordinator.round_trips}
        return Latency(
            requests=_by_op(timings.requests),
            round_trips={part: _by_op(by_op) for part, by_op in trips.items()},
            group=_durations(timings.group),
        )

    async def _datapath(self, params: Params) -> DatapathChoice:
        parts, datapaths, *_ = self._state.node()
        return DatapathChoice(datapaths.kind, datapaths.kinds, await _datapath_states(parts, datapaths))

    async def _switch(self, params: Params) -> DatapathChoice:
        """Change the datapath while traffic flows; the old one stays if the new one cannot start."""
        datapaths = self._state.node().datapaths
        # On a thread: it runs nft and waits for a worker, and the loop has probes to send meanwhile.
        await asyncio.to_thread(datapaths.switch, str(params.get("kind")))
        return await self._datapath(params)

    async def _drain(self, params: Params) -> DrainState:
        """Leave the cluster and give the records away. A further call shows the progress."""
        parts = self._state.node().parts
        left = parts.store.stats().records
        # Nobody could take them, so the drain would never end.
        if left and not parts.driver.contacts():
            raise KdhtError(f"no other node is known that could take {left} records: use kdhtctl stop")
        drain(parts)
        return DrainState(left, parts.driver.status()["repair"]["drained"])

    async def _move(self, params: Params) -> MoveBegun:
        """Give the records away, take another ID and join again. `status` shows the progress."""
        wanted = taken(params, MoveParams)
        parts, _, moves, _ = self._state.node()
        await moves.start(parts, self._state.settings, anyway=wanted.anyway)
        return MoveBegun(parts.contact.id.hex(), parts.store.stats().records)

    async def _stay(self, params: Params) -> DrainCancelled:
        """Cancel a drain. The node joins again, as after a restart, and gets its records back."""
        parts, _, moves, _ = self._state.node()
        if not parts.driver.status()["repair"]["draining"]:
            raise KdhtError("no drain goes on")
        # It has said LEAVE to all and given records away. That is the state after a restart, so the same code
        # handles it.
        moves.cancel()
        self._anew.set()
        return DrainCancelled(parts.store.stats().records)

    async def _reload(self, params: Params) -> ReloadAnswer:
        """As SIGHUP does, with an answer."""
        waiting = self._state.node().reload()
        return ReloadAnswer([key.epoch for key in self._state.settings.keys], waiting)

    async def _stop(self, params: Params) -> Stopping:
        # Nothing is waited for here: the end of the control socket tells `kdhtctl stop` that everything is restored.
        self._stopping.set()
        return Stopping(os.getpid(), str(self._state.settings.address))


def _strangers(parts: Parts, now: float) -> dict[str, float]:
    """The last one first."""
    seen = sorted(parts.core.strangers().items(), key=lambda each: -each[1])
    return {str(address): max(now - second, 0.0) for address, second in seen}


def _by_kind_and_reason(counted: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Every reason, so that a graph begins at 0."""
    return {f"{kind} {reason}": counted[kind, reason] for kind in KINDS for reason in DENIALS}


def _by_op(histograms: Mapping[Op, Histogram]) -> dict[str, Durations]:
    return {op.name: _durations(histogram) for op, histogram in histograms.items()}


def _durations(histogram: Histogram) -> Durations:
    return Durations(*histogram.snapshot())


def _storage(parts: Parts) -> StorageCounters:
    store = parts.store.stats()
    return StorageCounters(
        store.records,
        store.tombstones,
        store.value_bytes,
        store.disk_bytes,
        *parts.writer.stats(),
        *_room(parts),
        syncs=parts.store.syncs,
    )


def _room(parts: Parts) -> tuple[int, int, int, bool, int]:
    room = parts.store.room
    return room.space.free, int(room.pressure), room.refused, parts.store.failed, parts.store.set_aside


async def _states_by_name(parts: Parts, datapaths: Datapaths) -> list[tuple[str, DatapathState]]:
    """The counters of all running datapaths. One may ask the kernel or another process, so this runs on a thread."""
    states = [(parts.transport.name, dict(await asyncio.to_thread(parts.transport.status)))]
    running = datapaths.running()
    return [*states, *[(path.name, await asyncio.to_thread(datapaths.status_of, path)) for path in running]]


async def _datapath_states(parts: Parts, datapaths: Datapaths) -> list[DatapathState]:
    return [{"name": name, **state} for name, state in await _states_by_name(parts, datapaths)]


def _requests(parts: Parts) -> dict[str, int]:
    """Answers by op and status. Answers from the cache are counted with the socket's datagrams."""
    at_once = {"GET OK": parts.reader.answered} if parts.reader.answered else {}
    return dict(Counter(parts.service.counters()) + Counter(at_once))


def _packets(parts: Parts, datapaths: Datapaths) -> dict[str, dict[str, int]]:
    """Verdicts by reason: of the socket's thread, of the queues' workers together, of the XDP program, of all."""
    socket_lane = parts.core.counters(SOCKET_LANE)
    queues = [parts.core.counters(lane) for lane in QUEUE_LANES]
    queued = {reason: sum(lane[reason] for lane in queues) for reason in socket_lane}
    in_kernel = datapaths.xdp_counters() or dict.fromkeys(socket_lane, 0)
    # The core adds up its own lanes. The XDP program counts in a map of its own.
    total = {reason: count + in_kernel[reason] for reason, count in parts.core.counters().items()}
    return {"socket": socket_lane, "nfqueue": queued, "ebpf": in_kernel, "all": total}
