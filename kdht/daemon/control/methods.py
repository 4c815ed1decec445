"""Methods of the control socket: plain data about the node, reloading its configuration, stopping it.

network_methods.py has the methods of the overlay, storage_methods.py those of the records.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from kdht import __version__
from kdht.config.settings import Settings, other_version_than
from kdht.daemon.control.network_methods import NetworkMethods
from kdht.daemon.control.server import Method, Params, taken
from kdht.daemon.control.share_methods import ShareMethods
from kdht.daemon.control.storage_methods import StorageMethods
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.moving import Moves
from kdht.daemon.wiring import SOCKET_LANE, Parts
from kdht.datapath.nfqueue.datapath import QUEUE_LANES
from kdht.errors import KdhtError
from kdht.histogram import Histogram
from kdht.node.access import KINDS
from kdht.node.access import REASONS as DENIALS
from kdht.node.twins import Pair
from kdht.program.answers import (
    AccessState,
    BucketState,
    DatapathChoice,
    DatapathState,
    DrainCancelled,
    DrainState,
    Durations,
    FaceState,
    GoneNode,
    Latency,
    MoveBegun,
    NodeStats,
    NodeStatus,
    ReloadAnswer,
    RoutingTable,
    Stopping,
    StorageCounters,
    Twins,
)
from kdht.program.capabilities import REASONS
from kdht.wire._shared import Op

MOST_SHOWN = 3
"""Addresses in a sentence."""


class MoveParams(msgspec.Struct, forbid_unknown_fields=True):
    anyway: bool = False
    """Also where shares are no more even afterwards."""


class Methods:
    """The methods of one daemon. They answer about the node while there is one."""

    def __init__(
        self,
        settings: Settings,
        stopping: asyncio.Event,
        anew: asyncio.Event,
        lost_lines: Callable[[], int],
        faces: Callable[[], list[FaceState]],
        discovery: Mapping[str, int],
    ) -> None:
        """`lost_lines`: log lines that were lost so far. `discovery`: questions of other nodes, by what became of them."""
        self.settings = settings
        self._lost_lines = lost_lines
        self._faces = faces
        self._discovery = discovery
        self._stopping = stopping
        self._anew = anew
        self._started = time.monotonic()
        self._state = "starting"
        self.is_lame = False
        """Whether the node serves on only until others have noticed that it goes."""
        self.notes: list[str] = []
        """Warnings of the start."""
        self.capabilities: list[str] = []
        """Capabilities that the process still has."""
        self.reload: Callable[[], list[str]] | None = None
        """Reads the configuration again. Returns the fields that need a restart. Raises ConfigError."""
        self.moves: Moves | None = None
        self._running: tuple[Parts, Datapaths] | None = None

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
            **NetworkMethods(self._node).table(),
            **ShareMethods(self._node).table(),
            **StorageMethods(self._node).table(),
        }

    def serve(self, parts: Parts, datapaths: Datapaths) -> None:
        """From now on answer about this node."""
        self._running = (parts, datapaths)
        self._state = "running"

    def make_lame(self) -> None:
        """From now on say that the node is not ready: it serves on for a while, and then stops."""
        self.is_lame = True

    @property
    def serves(self) -> bool:
        return self._running is not None

    def end(self, state: str) -> None:
        """From now on the node is going away: it is "stopping", "moving" or "starting" anew."""
        self._running = None
        self._state = state

    def _lost_log(self) -> list[str]:
        lost = self._lost_lines()
        return [f"{lost} log lines were lost: nobody reads standard error fast enough"] if lost else []

    def _troubles(self) -> list[str]:
        if self._running is None:
            return []
        parts = self._running[0]
        # Counted since the start, and not for a time: an operator who looks in the morning should see the
        # night's.
        failed = parts.writer.stats().failed
        troubles = [f"{failed} writes failed since the start: the log says why"] if failed else []
        if parts.store.room.why:
            troubles.append(f"no room for all writes: {parts.store.room.why}")
        # The reason why it is not writable says it already.
        if not parts.driver.yields_to_twin:
            troubles += [_about_twins(pair, parts) for pair in parts.driver.twins]
        if parts.aside.waits:
            troubles.append(
                "this node was away for longer than deletions are remembered: what it kept waits until others confirm it"
            )
        return troubles + [
            f"{count} records that no other node has are set aside in {path}: move the file away, or put them back with "
            "kdhtctl storage import while the node is stopped"
            for path, count in parts.aside.files()
        ]

    def _node(self) -> tuple[Parts, Datapaths]:
        if self._running is None:
            raise KdhtError(f"the node is {self._state}")
        return self._running

    async def _status(self, params: Params) -> NodeStatus:
        settings = self.settings
        status = NodeStatus(
            state=self._state,
            moving=self.moves is not None and self.moves.moving,
            version=__version__,
            pid=os.getpid(),
            uptime=time.monotonic() - self._started,
            address=str(settings.address),
            own=[str(address) for address in (*settings.own, *settings.also)],
            data_dir=str(settings.data_dir),
            config=str(settings.source or ""),
            key_epochs=[key.epoch for key in settings.keys],
            capabilities={name: REASONS.get(name, "") for name in self.capabilities},
            cookies=settings.config.node.cookies,
            access=AccessState(
                settings.access.writes,
                settings.access.reads,
                tuple(key.epoch for key in settings.access.keys),
            ),
            log_lines_lost=self._lost_lines(),
            warnings=[*settings.warnings, *self.notes, *self._lost_log(), *self._troubles()],
        )
        status.faces = self._faces()
        status.discovery = dict(self._discovery)
        if self._running:
            parts, datapaths = self._running
            _add_running(status, parts)
            if self.is_lame:
                _say_lame(status)
            status.datapaths = await _datapath_states(parts, datapaths)
        return status

    async def _table(self, params: Params) -> RoutingTable:
        parts, _ = self._node()
        status = parts.driver.status()
        return RoutingTable(status["id"], msgspec.convert(status["buckets"], list[BucketState]))

    async def _stats(self, params: Params) -> NodeStats:
        parts, datapaths = self._node()
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
        parts, _ = self._node()
        timings = parts.timings
        trips = parts.driver.round_trips | {"replication": parts.coordinator.round_trips}
        return Latency(
            requests=_by_op(timings.requests),
            round_trips={part: _by_op(by_op) for part, by_op in trips.items()},
            group=_durations(timings.group),
        )

    async def _datapath(self, params: Params) -> DatapathChoice:
        parts, datapaths = self._node()
        return DatapathChoice(datapaths.kind, datapaths.kinds, await _datapath_states(parts, datapaths))

    async def _switch(self, params: Params) -> DatapathChoice:
        """Change the datapath while traffic flows; the old one stays if the new one cannot start."""
        _, datapaths = self._node()
        await asyncio.to_thread(datapaths.switch, str(params.get("kind")))
        return await self._datapath(params)

    async def _drain(self, params: Params) -> DrainState:
        """Leave the cluster and give the records away. A further call shows the progress."""
        parts, _ = self._node()
        left = parts.store.stats().records
        if left and not parts.driver.contacts():
            raise KdhtError(f"no other node is known that could take {left} records: use kdhtctl stop")
        parts.driver.drain()
        return DrainState(left, parts.driver.status()["repair"]["drained"])

    async def _move(self, params: Params) -> MoveBegun:
        """Give the records away, take another ID and join again. `status` shows the progress."""
        wanted = taken(params, MoveParams)
        parts, _ = self._node()
        if self.moves is None:
            raise KdhtError(f"the node is {self._state}")
        await self.moves.start(parts, self.settings, anyway=wanted.anyway)
        return MoveBegun(parts.contact.id.hex(), parts.store.stats().records)

    async def _stay(self, params: Params) -> DrainCancelled:
        """Cancel a drain. The node joins again, as after a restart, and gets its records back."""
        parts, _ = self._node()
        if not parts.driver.status()["repair"]["draining"]:
            raise KdhtError("no drain goes on")
        if self.moves is not None:
            self.moves.moving = False
        self._anew.set()
        return DrainCancelled(parts.store.stats().records)

    async def _reload(self, params: Params) -> ReloadAnswer:
        """As SIGHUP does, with an answer."""
        if self.reload is None:
            raise KdhtError(f"the node is {self._state}")
        waiting = self.reload()
        return ReloadAnswer([key.epoch for key in self.settings.keys], waiting)

    async def _stop(self, params: Params) -> Stopping:
        self._stopping.set()
        return Stopping(os.getpid(), str(self.settings.address))


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
    )


def _room(parts: Parts) -> tuple[int, int, int, bool, int]:
    room = parts.store.room
    return room.space.free, int(room.pressure), room.refused, parts.store.failed, parts.store.set_aside


def _not_writable(parts: Parts) -> str:
    """Why no write can be confirmed here; empty if one can, as far as this node knows."""
    coordinator = parts.coordinator
    # The causes that an operator can mend here come before those of the cluster.
    if parts.store.failed:
        return "a write to the disk failed, so no more are accepted for now: free space on its disk, and it takes writes again"
    if parts.store.room.pressure:
        return f"there is no room for clients' values ({parts.store.room.why}): delete records, or give it a greater disk or quota"
    if parts.driver.yields_to_twin:
        return _why_yielding(parts)
    if coordinator.cluster.barred:
        return _why_unreachable(parts)
    if not coordinator.cluster.joined:
        return "the node has not joined its cluster: kdhtctl join HOST, and correct node.bootstrap"
    if lacks := coordinator.lacks(coordinator.need):
        return (
            f"{coordinator.need} nodes must confirm a write, and {coordinator.need - lacks} lives: start the others, "
            "or kdhtctl forget those that are gone for good"
        )
    return ""


def _why_yielding(parts: Parts) -> str:
    """The older node, and what to do."""
    pairs = [pair for pair in parts.driver.twins if pair.id == parts.contact.id]
    at = ", ".join(str(pair.addresses[1]) for pair in pairs)
    return (
        f"an older node at {at} has this node's ID: stop this one, move its data directory away, and start it again, "
        "then it has an ID of its own"
    )


def _about_twins(pair: Pair, parts: Parts) -> str:
    if pair.id == parts.contact.id:
        return (
            f"a younger node at {pair.addresses[1]} has this node's ID and serves nothing: stop that one, move its data "
            "directory away, and start it again"
        )
    return (
        f"the nodes at {pair.addresses[0]} and {pair.addresses[1]} have one ID: one of them was copied. Stop the copy, "
        "move its data directory away, and start it again"
    )


def _why_unreachable(parts: Parts) -> str:
    """Names of the members out of this node's reach."""
    unreachable = parts.driver.out_of_reach
    if not unreachable:
        return ""
    lacks = other_version_than(parts.contact.address)
    shown = [str(contact.address) for contact in unreachable[:MOST_SHOWN]]
    rest = f" and {len(unreachable) - MOST_SHOWN} more" if len(unreachable) > MOST_SHOWN else ""
    return (
        f"members at {', '.join(shown)}{rest} speak {lacks} only, and this node has no {lacks} address: give it one in "
        f"node.listen, or them one of its version"
    )


def _add_running(status: NodeStatus, parts: Parts) -> None:
    """The counters of a running node, without its datapaths."""
    node = parts.driver.status()
    status.node_id = node["id"]
    status.contacts = len(parts.driver.contacts())
    status.joined = parts.driver.joined
    status.ready = parts.driver.readiness.ready
    status.waiting_for = parts.driver.readiness.missing
    status.not_writable = _not_writable(parts)
    status.writable = not status.not_writable
    status.gone = [
        GoneNode(contact.id.hex(), str(contact.address), seconds)
        for contact, seconds in parts.driver.silent_for
    ]
    status.asked = [str(address) for address in parts.driver.asked]
    status.unreachable = [str(contact.address) for contact in parts.driver.out_of_reach]
    status.why_unreachable = _why_unreachable(parts)
    status.yields_to_twin = parts.driver.yields_to_twin
    status.twins = [
        Twins(pair.id.hex(), (str(pair.addresses[0]), str(pair.addresses[1]))) for pair in parts.driver.twins
    ]
    status.repair = {name: value for name, value in node["repair"].items() if name != "counters"}
    status.records = parts.store.stats().records
    status.set_aside = sum(count for _, count in parts.aside.files())


def _say_lame(status: NodeStatus) -> None:
    status.ready = status.writable = False
    status.waiting_for = [*status.waiting_for, "its stop"]
    status.not_writable = "the node is about to stop"


async def _states_by_name(parts: Parts, datapaths: Datapaths) -> list[tuple[str, DatapathState]]:
    """The counters of all running datapaths. One may ask the kernel or another process, so this runs on a thread."""
    states = [(parts.transport.name, dict(await asyncio.to_thread(parts.transport.status)))]
    for path in datapaths.running():
        status = await asyncio.to_thread(path.status)
        states.append((path.name, {**status, "checks": datapaths.path_checks()}))
    return states


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
    total = {reason: count + in_kernel[reason] for reason, count in parts.core.counters().items()}
    return {"socket": socket_lane, "nfqueue": queued, "ebpf": in_kernel, "all": total}
