"""The eBPF datapath: packets are re-addressed by an XDP program, at the interface.

What it sets up, in this order: the sysctls that bpf_fib_lookup needs (sysctl.py), an nft
table that keeps a host that was no router from becoming one (ruleset.py), the program with
its maps, and a pinned link per interface (xdp_links.py). The pins outlive the process: while
the daemon is down the program routes by the last table, and the next daemon takes maps and
links over. The program goes on routing by the old table until `ready()`; then this daemon publishes its own.
"""

import logging
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdht.datapath.departures import Departed
from kdht.datapath.ebpf import program, xdp_links
from kdht.datapath.ebpf.attachments import Attachments
from kdht.datapath.ebpf.hot import HotMap
from kdht.datapath.ebpf.left import LeftCounts
from kdht.datapath.ebpf.networks import Network, networks_of
from kdht.datapath.ebpf.xdp_links import BPFFS, libbpf
from kdht.datapath.host import links, netlink
from kdht.datapath.host.netlink import Queue
from kdht.datapath.host.ruleset import Guard, Ruleset, RulesetOptions
from kdht.datapath.host.settings import HostSettings
from kdht.datapath.host.sysctl import RUNTIME_DIR, ForwardingSysctls
from kdht.datapath.losses import LossLog
from kdht.datapath.publish import Publisher
from kdht.datapath.rates import NO_LIMITS, ClientRates
from kdht.datapath.upkeep import Upkeep, started
from kdht.errors import DatapathError
from kdht.wire import Address
from kdht.wire._shared import ID_BITS, PORT, VERDICT_OF, Reason, Verdict

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds between two checks of the clock and the host."""
SENT = [*(each for each in Reason if VERDICT_OF[each] in (Verdict.FORWARD, Verdict.RELAY)), Reason.ANSWERED]
CLOCK_SLACK = 50_000_000
"""Nanoseconds by which the published clock may be off."""


@dataclass(frozen=True, kw_only=True)
class EbpfOptions:
    """What the datapath needs to know."""

    node_id: bytes
    addresses: tuple[Address, ...]
    """All own addresses, anycast included."""
    interfaces: tuple[str, ...] = ()
    """Interfaces that get the program. Empty: those that have one of the addresses."""
    port: int = PORT
    rates: ClientRates = NO_LIMITS
    ready: Callable[[], bool] = lambda: True
    """Whether this node's own table is complete enough to replace the table of an earlier daemon."""
    table: str = "kdht"
    """The nft table of the guards has this name with _guard appended."""
    bpffs: Path = BPFFS
    runtime_dir: Path = RUNTIME_DIR
    nft: str = "nft"

    @property
    def pins(self) -> Path:
        return self.bpffs / f"kdht-{self.node_id.hex()}"


class EbpfDatapath:
    """See base.Datapath, and publish.Sink. Needs root, and clang and libbpf when kdht was built."""

    name = "ebpf"

    def __init__(self, publisher: Publisher, options: EbpfOptions, hot: HotMap | None = None) -> None:
        """`hot`: the memory of records that the program answers GETs from; None: it answers none."""
        self.options = options
        self._hot = hot
        self._uses_hot = False
        self._publisher = publisher
        self._core = publisher.core
        self._object: Any = None
        self._attached = Attachments(options.pins)
        self._waiting: tuple[str, ...] = ()
        """Interfaces where an earlier program with other maps routes until this one is ready."""
        self._live = False
        """Whether the maps hold this daemon's own table."""
        self._upkeep = Upkeep(log, "the ebpf datapath's upkeep")
        self._stale = False
        """Whether a change could not be published. Then all is published again."""
        self._clock = 0
        self._chosen: tuple[str, ...] = ()
        self._vlans: list[netlink.Vlan] = []
        self._networks: list[Network] = []
        self._settings: HostSettings | None = None
        self._only = 0
        """While packets get lost: the marker of the only messages that the program treats."""
        self._left = LeftCounts()
        self._lost = LossLog(self.name)
        self._doubt = ""
        self._changed = threading.Event()
        self._ending = False
        self._undo = ExitStack()

    # --- base.Datapath -------------------------------------------------------------------

    def start(self) -> None:
        if self._object is not None:
            return
        program.need_program()
        self._chosen = chosen = netlink.choose_interfaces(self.options.addresses, self.options.interfaces)
        with ExitStack() as undo:
            self._settings = settings = self._make_settings(chosen)
            settings.set_up()
            undo.callback(settings.undo)
            self._load(chosen, undo)
            undo.callback(settings.unwatch)
            settings.watch()
            self._undo = undo.pop_all()

    def stop(self) -> None:
        if self._object is None:
            return
        if self._settings:
            self._settings.unwatch()
        self._end_thread()
        self._undo.close()
        self._let_go()

    def leave(self) -> None:
        """Stop, but leave the program attached. It routes by its last table, as after a kill."""
        if self._object is None:
            return
        if self._settings:
            self._settings.leave()
        self._end_thread()
        self._publisher.disconnect(self)
        self._undo.pop_all()  # sysctls, guards, links and maps stay as they are
        self._let_go()

    def status(self) -> Mapping[str, object]:
        program = self._object
        if program is None:
            return {"state": "down", "why": "not started"}
        settled = self._settings.look() if self._settings else ""
        why = self._upkeep.why or self._doubt or settled or self._attached.trouble
        return {
            "state": "degraded" if why else "up",
            "why": why,
            "interfaces": [link.interface for link in self._attached.links],
            "modes": {link.interface: link.mode for link in self._attached.links},
            "program": program.info()["id"],
            "pinned": str(self.options.pins),
            "adopted": any(link.adopted for link in self._attached.links),
            "hot records": "answered by the program" if self._uses_hot else "none so far",
            "table": "own" if self._live else "of an earlier daemon, until this node has joined",
        }

    def taken(self) -> int:
        return sum(n for reason, n in self.counters().items() if reason != Reason.NOT_OURS.name)

    def departed(self) -> Departed:
        counted = self.counters()
        names = {*self._chosen, *(link.interface for link in self._attached.links)}
        return self._left.departed(sum(counted[reason.name] for reason in SENT), links.sent(names))

    def host_changes(self) -> int:
        return self._settings.announced if self._settings else 0

    def suspect(self, is_so: bool) -> None:
        """No rule is to be found: the program's packets meet none."""

    def passed_by(self, is_so: bool) -> None:
        self._doubt = "no packets reach the program: the socket treats all" if is_so else ""

    def step_aside(self, marker: int) -> None:
        if self._only != marker:
            self._only = marker
            self._changed.set()
        settled = self._settings.look() if self._settings else ""
        self._doubt = self._lost.look(
            self._attached.trouble
            or settled
            or f"what the program sends at {self._attached.places()} does not arrive"
        )

    def step_back(self) -> None:
        if self._only:
            self._only = 0
            self._changed.set()
        self._doubt = self._lost.found_again()

    def counters(self) -> dict[str, int]:
        """How many verdicts by reason since the maps were made. Raises DatapathError if it does not run."""
        if self._object is None:
            raise DatapathError("the ebpf datapath does not run")
        counts = self._object.per_cpu("kdht_counters", len(Reason))
        return {reason.name: counts[reason] for reason in Reason}

    # --- publish.Sink --------------------------------------------------------------------

    def config_changed(self) -> None:
        """The thread publishes it, because the kernel blocks the caller until no packet uses the old one."""
        self._changed.set()

    def bucket_changed(self, index: int) -> None:
        if not self._live:
            return
        try:
            self._publish_bucket(index)
        except (OSError, DatapathError):
            # The caller does not notice: the thread publishes all again, and tells if that fails too.
            self._stale = True
            self._changed.set()

    # --- Setting up ----------------------------------------------------------------------

    def _make_settings(self, chosen: tuple[str, ...]) -> HostSettings:
        options = self.options

        def guards(guard: Guard) -> Ruleset:
            """`forwarding` makes an IPv4 router of the host: they drop others' packets."""
            table, queue = f"{options.table}_guard", Queue(0, 1, False)
            return Ruleset(
                RulesetOptions(interfaces=(), queue=queue, table=table, guard=guard, nft=options.nft)
            )

        sysctls = ForwardingSysctls(chosen, runtime_dir=options.runtime_dir)
        return HostSettings(sysctls, guards, options.runtime_dir, self._keep_attached)

    def _load(self, chosen: tuple[str, ...], undo: ExitStack) -> None:
        pins = self.options.pins
        xdp_links.need_bpffs(self.options.bpffs)
        self._chosen = chosen
        self._vlans = self._chosen_vlans()
        self._networks = self._found_networks()
        lower = {vlan.name: vlan.lower for vlan in self._vlans}
        # The program sees frames at the physical interface, before the kernel takes the VLAN tag off.
        interfaces = tuple(dict.fromkeys(lower.get(name, name) for name in chosen))
        xdp_links.make_own(pins)
        undo.callback(xdp_links.remove_pins, pins)
        self._object, adopted = self._open_maps(pins)
        undo.callback(self._forget)
        undo.callback(self._attached.close)
        # An earlier daemon's table is better than an incomplete one of this node.
        self._live = self.options.ready() or not (adopted or xdp_links.pinned_links(pins))
        # Before the first publication, so that no change in between is missed.
        self._publisher.connect(self)
        undo.callback(self._publisher.disconnect, self)
        self._publish_all()
        self._follow_hot()
        for name, pinned in xdp_links.pinned_links(pins).items():
            # An earlier daemon served this interface; this one is configured otherwise.
            if name not in interfaces:
                xdp_links.detach(pinned)
        self._waiting = interfaces
        # With new maps beside an earlier program, the old one stays attached until these maps are full.
        if self._live or adopted:
            self._attach()
        self._ending = False
        self._thread = started("kdht-ebpf", self._run)
        undo.callback(self._end_thread)

    def _open_maps(self, pins: Path) -> tuple[Any, bool]:
        """Load the program with the pinned maps, or with new ones. Returns whether there were pinned ones."""
        usual = f"maps-{libbpf().LAYOUT}"
        found = next(iter(sorted(pins.glob(f"{usual}*"))), None)
        if found is not None:
            # Maps that do not fit, of another build, say: new ones are made.
            with suppress(DatapathError):
                self._maps = found
                return program.load(found), True
        self._maps = pins / (usual if found is None else f"{usual}.{os.getpid()}")
        self._maps.mkdir(mode=0o700)
        return program.load(self._maps), False

    def _attach(self) -> None:
        """Attach the program to the interfaces, or put it behind the pinned links of an earlier one."""
        pins = self.options.pins
        self._attached.attach(self._object.program_fd, self._waiting)
        self._waiting = ()
        self._networks = self._found_networks()  # now the modes are known
        self._publish_state()
        for other in set(pins.glob("maps-*")) - {self._maps}:
            shutil.rmtree(other)

    def _forget(self) -> None:
        self._object = None

    def _let_go(self) -> None:
        self._attached.close()
        self._object, self._live, self._only, self._doubt = None, False, 0, ""
        self._uses_hot = False

    # --- Publishing ----------------------------------------------------------------------

    def _publish_all(self) -> None:
        """Buckets first, because the configuration says which of them the program reads."""
        if self._live:
            with self._publisher.still():
                for index in range(ID_BITS):
                    self._publish_bucket(index)
        self._publish_state()

    def _publish_bucket(self, index: int) -> None:
        self._object.write_bucket(index, self._core.raw_bucket(index))

    def _publish_state(self) -> None:
        options = self.options
        self._clock = _clock_offset()
        # Before the configuration, which says that they count.
        prefixes = [(struct.pack("=I16s", bits, ip), rights) for ip, bits, rights in self._core.prefixes()]
        self._object.update_trie("kdht_prefixes", prefixes)
        state = libbpf().state(
            self._core.raw_config(),
            self._networks,
            any_bucket=not self._live,
            clock_offset=self._clock,
            prices=options.rates.prices(),
            only=self._only,
        )
        # As a whole: the program must never see half a configuration.
        self._object.update_whole("kdht_states", state)

    def _follow_hot(self) -> None:
        """Give the program the memory of the hot records, once there are any."""
        if self._hot is not None and not self._uses_hot and (fd := self._hot.made()) is not None:
            self._object.use_hot(fd)
            self._uses_hot = True

    # --- The thread: publishes configurations, checks the clock and the host ------------------

    def _run(self) -> None:
        while True:
            self._changed.wait(TICK)
            if self._ending:
                return
            # It keeps keys and clock published, so no failure ends it.
            self._upkeep.attempt(self._round)

    def _round(self) -> None:
        woken = self._changed.is_set() or self._have_networks_changed()
        self._changed.clear()
        if not self._live and self.options.ready():
            self._live = True  # first, so that changes during the publication are published too
            self._stale = True
        # The program has no wall clock, only a monotonic one and this offset.
        if self._stale or woken or abs(_clock_offset() - self._clock) > CLOCK_SLACK:
            self._publish_what_changed()
        if self._live and self._waiting:
            self._attach()
        self._follow_hot()

    def _have_networks_changed(self) -> bool:
        """An interface may have got another address. The program passes frames to that one up until it knows it."""
        before = self._networks
        with suppress(DatapathError):  # an interface is gone
            self._networks = self._found_networks()
        return self._networks != before

    def _found_networks(self) -> list[Network]:
        # Until it is attached it may get generic mode. An earlier daemon's program already routes by what this one
        # publishes, and in generic mode it would pass frames up to a node that has not joined.
        links = self._attached.links
        native = {link.interface for link in links if link.mode == "native"}
        if not links:
            native = xdp_links.native_before(self.options.pins)
        return networks_of(self._chosen, self._vlans, native)

    def _chosen_vlans(self) -> list[netlink.Vlan]:
        return [vlan for vlan in netlink.vlans() if vlan.name in self._chosen]

    def _publish_what_changed(self) -> None:
        publish, self._stale = (self._publish_all if self._stale else self._publish_state), False
        try:
            publish()
        except BaseException:
            self._stale = True
            raise

    def _end_thread(self) -> None:
        self._ending = True
        self._changed.set()
        self._thread.join()

    def _keep_attached(self) -> None:
        program, settings = self._object, self._settings
        if program is None or settings is None:
            return
        if self._attached.mend(program.program_fd, program.info()["id"], settings.may_mend, settings.note):
            # The interface may be another one.
            self._vlans = self._chosen_vlans()
            self._changed.set()


def remove_leftovers(node_id: bytes, bpffs: Path = BPFFS) -> bool:
    """Detach what a killed daemon of this node left attached. Returns whether there was anything."""
    pins = bpffs / f"kdht-{node_id.hex()}"
    try:
        if not pins.exists():
            return False
    except OSError:  # only root may list it
        return False
    xdp_links.remove_pins(pins)
    return True


def _clock_offset() -> int:
    """The wall clock minus the clock that the program can read, in nanoseconds."""
    return time.time_ns() - time.monotonic_ns()
