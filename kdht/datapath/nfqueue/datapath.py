"""The nfqueue datapath: packets are re-addressed in the kernel's path, as NFQUEUE verdicts.

Parts, in the order in which they start: the guards and the sysctls that forwarding needs (settings.py), a
worker process with one thread per queue (queue_worker.py, kept by keeper.py), and the whole nft
table, which diverts packets (ruleset.py). It is last: packets that are diverted to a queue without a
reader wait for nothing. They stop in the opposite order. If a part fails or is full, packets go to the socket.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kdht._routing import LANES, Core
from kdht.datapath.departures import Departed
from kdht.datapath.host import netlink, nfnetlink
from kdht.datapath.host.netlink import Queue
from kdht.datapath.host.rule_trace import RuleTrace
from kdht.datapath.host.ruleset import LEFT, MARK, Guard, RuleKind, Ruleset, RulesetOptions
from kdht.datapath.host.settings import HostSettings
from kdht.datapath.host.sysctl import RUNTIME_DIR, Sysctls
from kdht.datapath.losses import LossLog
from kdht.datapath.nfqueue.keeper import Keeper
from kdht.datapath.nfqueue.queue_worker import FIRST_LANE
from kdht.datapath.rates import NO_LIMITS, ClientRates
from kdht.datapath.senders import NOBODY_REFUSED, Senders
from kdht.errors import DatapathError
from kdht.wire import Address
from kdht.wire._shared import PORT

log = logging.getLogger("kdht.nfqueue")
QUEUE_LANES = range(FIRST_LANE, LANES)
"""The core's lanes for the threads of the queues."""
QUEUE_FIELDS = ("number", "portid", "waiting", "mode", "range", "full", "failed", "last_id")
"""Columns of a line of nfnetlink_queue. `full` and `failed` count packets that did not reach the worker."""


@dataclass(frozen=True, kw_only=True)
class NfqueueOptions:
    addresses: tuple[Address, ...]
    """All own addresses, anycast included."""
    interfaces: tuple[str, ...] = ()
    """Interfaces whose packets are diverted. Empty: those that have one of the addresses."""
    port: int = PORT
    first_queue: int = PORT
    queues: int = 1
    fanout: Literal["auto", "cpu", "hash"] = "auto"
    """How a packet's queue is chosen. auto: by the receiving CPU if there is a queue for each."""
    max_len: int = 4096
    """Packets that may wait in one queue. Further ones go to the socket."""
    rates: ClientRates = NO_LIMITS
    senders: Senders = NOBODY_REFUSED
    table: str = "kdht"
    """Two nodes in one network namespace need two tables, and different queues."""
    mark: int = MARK
    runtime_dir: Path = RUNTIME_DIR
    nft: str = "nft"

    @property
    def queue(self) -> Queue:
        # With fewer queues than processors, the addresses choose: a client's packets stay in order.
        by_cpu = self.queues > 1 and (
            self.queues == os.cpu_count() if self.fanout == "auto" else self.fanout == "cpu"
        )
        return Queue(self.first_queue, self.queues, by_cpu)


class NfqueueDatapath:
    """See base.Datapath. Needs root, nftables and NFQUEUE in the kernel."""

    name = "nfqueue"

    def __init__(self, core: Core, options: NfqueueOptions) -> None:
        self.options = options
        self._core = core
        self._undo = ExitStack()
        self._keeper: Keeper | None = None
        self._interfaces: tuple[str, ...] = ()
        self._settings: HostSettings | None = None
        self._kind: RuleKind | None = None
        self._trace = RuleTrace(options.nft, options.table)
        self._lost = LossLog(self.name)
        self._doubt = ""

    def start(self) -> None:
        if self._keeper:
            return
        need_package()
        self._interfaces = netlink.choose_interfaces(self.options.addresses, self.options.interfaces)
        with ExitStack() as undo:
            settings = self._make_settings()
            # Fails before anything on the host is changed.
            settings.ruleset.probe()
            settings.set_up()
            undo.callback(settings.undo)
            keeper = Keeper(self._core, self.options.queue, self.options.max_len, self.options.mark)
            keeper.start()
            undo.callback(keeper.stop)
            undo.callback(settings.end_diverting)
            # Last: until the worker reads its queues, packets go to the socket.
            self._kind = settings.divert()
            settings.watch()
            self._keeper, self._settings = keeper, settings
            self._undo = undo.pop_all()

    def stop(self) -> None:
        self._keeper = self._settings = None
        self._trace.end()
        self._doubt = ""
        self._undo.close()

    def taken(self) -> int:
        if self._keeper is None:
            raise DatapathError("the nfqueue datapath does not run")
        # Over all workers so far: the counters outlive a worker.
        return sum(each["packets"] for each in self._keeper.counters())

    def departed(self) -> Departed:
        if self._keeper is None:
            raise DatapathError("the nfqueue datapath does not run")
        # The worker's count first: what it sends on in between may leave too early to be missed, but not be missed.
        sent = sum(each["forwarded"] + each["relayed"] for each in self._keeper.counters())
        return Departed(sent, nfnetlink.counters(self.options.table).get(LEFT, 0))

    def host_changes(self) -> int:
        return self._settings.announced if self._settings else 0

    def suspect(self, is_so: bool) -> None:
        if self._settings is None:
            return
        self._settings.trace(is_so)
        if is_so:
            self._lost.suspect(True, self._trace.look())
        else:
            self._lost.suspect(False)
            self._trace.end()

    def passed_by(self, is_so: bool) -> None:
        self._doubt = "no packets are diverted to the queues: the socket treats all" if is_so else ""

    def step_aside(self, marker: int) -> None:
        if self._settings is None:
            return
        self._settings.divert_only(marker)
        self._doubt = self._lost.look(self._settings.look() or self._trace.look())

    def step_back(self) -> None:
        if self._settings is not None:
            self._settings.divert_all()
        self._trace.end()
        self._doubt = self._lost.found_again()

    def status(self) -> Mapping[str, object]:
        keeper = self._keeper
        if keeper is None:
            return {"state": "down", "why": "not started"}
        why = self._why(keeper)
        return {
            "state": "degraded" if why else "up",
            "why": why,
            "interfaces": list(self._interfaces),
            "queue_rule": self._kind,
            "worker": keeper.pid,
            "workers_started": keeper.started,
            "queues": self._queues(keeper),
            "nft": self._nft_counters(),
        }

    def _why(self, keeper: Keeper) -> str:
        if keeper.pid is None:
            return keeper.why or "the queue's worker is being started"
        settled = self._settings.look() if self._settings else ""
        return self._doubt or settled

    def _queues(self, keeper: Keeper) -> list[dict[str, int]]:
        bound = bound_queues()
        return [
            {"number": number, **bound.get(number, {}), **counters}
            for number, counters in enumerate(keeper.counters(), keeper.queue.first)
        ]

    def _nft_counters(self) -> dict[str, int]:
        # The table is being made again. The next look has its counters.
        with suppress(DatapathError):
            return self._settings.ruleset.counters() if self._settings else {}
        return {}

    def follow_senders(self, senders: Senders) -> None:
        """Other addresses may send requests from now on. The worker knows already, by the core."""
        self.options = replace(self.options, senders=senders)
        try:
            if self._settings:
                self._settings.reload()
        except DatapathError as error:
            log.error("the rules still drop by the old lists", extra={"error": error})

    def _make_settings(self) -> HostSettings:
        return HostSettings(
            _sysctls(self.options, self._interfaces),
            lambda guard: _ruleset(self.options, self._interfaces, guard),
            self.options.runtime_dir,
        )


def ruleset_of(options: NfqueueOptions) -> Ruleset:
    """The ruleset that a node with these options has loaded, or would load now. Raises DatapathError."""
    interfaces = netlink.choose_interfaces(options.addresses, options.interfaces)
    return _ruleset(options, interfaces, _sysctls(options, interfaces).guard())


def _ruleset(options: NfqueueOptions, interfaces: tuple[str, ...], guard: Guard) -> Ruleset:
    return Ruleset(
        RulesetOptions(
            interfaces=interfaces,
            queue=options.queue,
            table=options.table,
            port=options.port,
            mark=options.mark,
            rates=options.rates,
            senders=options.senders,
            guard=guard,
            nft=options.nft,
        )
    )


def _sysctls(options: NfqueueOptions, interfaces: tuple[str, ...]) -> Sysctls:
    own4 = {address.host for address in options.addresses if address.is_ipv4}
    # Only where an own address lies on another interface: there the answer's way differs from the request's.
    loose = [name for name in interfaces if own4 - netlink.hosts_of(name)]
    return Sysctls(interfaces, loose=loose, runtime_dir=options.runtime_dir)


def need_package() -> None:
    """Raises DatapathError if the package that opens the queues is not installed."""
    try:
        import netfilterqueue  # noqa: F401
    except ImportError:
        raise DatapathError(
            "the nfqueue datapath needs the Python package NetfilterQueue: pip install NetfilterQueue, "
            "which needs a C compiler and libnetfilter-queue's headers (Debian: libnetfilter-queue-dev)"
        ) from None


def bound_queues() -> dict[int, dict[str, int]]:
    """The kernel's figures for the queues of this network namespace, by number."""
    try:
        lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
    except OSError:
        return {}
    found = (dict(zip(QUEUE_FIELDS, map(int, line.split()), strict=False)) for line in lines)
    return {queue["number"]: {name: queue[name] for name in ("waiting", "full", "failed")} for queue in found}
