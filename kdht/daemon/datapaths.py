"""Starts, switches and stops the datapath beside the socket transport.

A switch starts the new datapath before it stops the old one, so every packet meets one;
if the new one cannot start, the old one goes on.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from kdht.config.settings import Settings
from kdht.daemon.path_checker import PathChecker
from kdht.datapath.base import FastPath
from kdht.datapath.ebpf import datapath as ebpf
from kdht.datapath.ebpf import program, xdp_links
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.ebpf.hot import HotMap
from kdht.datapath.host import netlink, ruleset
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions, need_package
from kdht.datapath.publish import Publisher
from kdht.datapath.rates import ClientRates
from kdht.errors import ConfigError, DatapathError
from kdht.storage._hot import HotTable
from kdht.wire import Address

log = logging.getLogger(__name__)


class Datapaths:
    """The datapath beside the transport, or none. `switch` and `stop` are thread-safe."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        node_id: bytes,
        ready: Callable[[], bool],
        hot: HotTable | None,
    ) -> None:
        """`ready`: whether the node knows enough other nodes to publish its own table. `hot`: the table of its hot
        records."""
        self.kind = "socket"
        self._settings = settings
        self._publisher = publisher
        self._node_id = node_id
        self._ready = ready
        self._hot = HotMap(hot) if hot is not None else None
        self._running: FastPath | None = None
        self._checker: PathChecker | None = None
        self._lock = threading.Lock()
        self._makers: dict[str, Callable[[], FastPath | None]] = {
            "socket": lambda: None,
            "nfqueue": lambda: NfqueueDatapath(self._publisher.core, nfqueue_options(self._settings)),
            "ebpf": lambda: EbpfDatapath(self._publisher, self._ebpf_options(), self._hot),
        }

    @staticmethod
    def prepare(settings: Settings) -> None:
        """Do what needs root, before the daemon drops its capabilities. Raises DatapathError.

        Without root, a later switch from nfqueue to ebpf could not mount anything. If mounting fails now, that switch reports why.
        """
        kind = settings.config.datapath.kind
        if kind == "ebpf":
            program.need_program()
            xdp_links.need_bpffs()
        elif kind == "nfqueue":
            # Only a later switch to ebpf needs it, so nfqueue starts without it.
            with suppress(DatapathError, OSError):
                xdp_links.need_bpffs()

    @property
    def kinds(self) -> list[str]:
        return list(self._makers)

    def running(self) -> list[FastPath]:
        """The running datapath beside the transport: a list of one, or of none."""
        return [self._running] if self._running else []

    def xdp_counters(self) -> dict[str, int]:
        """The XDP program's verdicts by reason. Empty without a program."""
        running = self._running
        with suppress(DatapathError):  # it is being stopped just now
            return running.counters() if isinstance(running, EbpfDatapath) else {}
        return {}

    def start(self) -> None:
        """Start the configured datapath. Raises DatapathError, except for `auto`."""
        kind = self._settings.config.datapath.kind
        # Else an earlier program would go on with an old table before the configured datapath.
        if kind != "ebpf" and ebpf.remove_leftovers(self._node_id):
            log.warning("an XDP program that a killed daemon left was taken off")
        try:
            self.switch("nfqueue" if kind == "auto" else kind)
        except DatapathError as error:
            if kind != "auto":
                raise
            log.warning("nfqueue cannot work here, the socket treats all packets", extra={"why": error})

    def switch(self, kind: str) -> None:
        """Replace the running datapath. Raises ConfigError or DatapathError; then the old one still runs."""
        if kind not in self._makers:
            raise ConfigError(f"there is no datapath {kind!r}: choose one of {', '.join(self._makers)}")
        with self._lock:
            if kind == self.kind:
                return
            new = self._makers[kind]()
            checker = self._started(new) if new else None
            old, self._running, self.kind = self._running, new, kind
            self._end_checks()
            if old:
                old.stop()
            if checker:
                # After the old path has stopped: with both in place a check could take the wrong one.
                checker.begin()
                self._checker = checker
        fields = {"interfaces": ",".join(new.status()["interfaces"])} if new else {}  # type: ignore[arg-type]
        log.info(f"{kind} started" if new else "the socket treats all packets", extra=fields)

    def _started(self, new: FastPath) -> PathChecker:
        """Start a path, and what will check it. Raises DatapathError; then neither runs."""
        checker = PathChecker(new, self._publisher.core, self._node_id, self._usual())
        with ExitStack() as undo:
            # Before the old one stops. A packet meets XDP before nftables, so one of them handles it.
            new.start()
            undo.callback(new.stop)
            checker.start()
            undo.pop_all()
        return checker

    def follow(self, settings: Settings) -> None:
        """The configuration was read again. What stands in the core the datapaths follow by themselves."""
        with self._lock:
            self._settings = settings
            if isinstance(self._running, NfqueueDatapath):
                self._running.follow_senders(settings.senders)

    def stop(self, *, comes_back: bool = True) -> None:
        """Stop the datapath at the daemon's end. Does not raise if it is gone already.

        `ebpf_keep` does not apply to a node that will not return with this ID: it leaves nothing.
        """
        with self._lock:
            self._end_checks()
            old, self._running, self.kind = self._running, None, "socket"
            if isinstance(old, EbpfDatapath) and comes_back and self._settings.config.datapath.ebpf_keep:
                old.leave()
            elif old:
                old.stop()
            if self._hot is not None:
                self._hot.close()

    def status_of(self, path: FastPath) -> dict[str, object]:
        """The path's own status with what the checks of it say. May block."""
        status, checker = dict(path.status()), self._checker
        if checker is None:
            return status
        if status["state"] == "up" and checker.trouble:
            # It may be whole, but nobody knows.
            status |= {"state": "degraded", "why": checker.trouble}
        return {**status, "checks": checker.status()}

    def _end_checks(self) -> None:
        if self._checker is not None:
            self._checker.stop()
        self._checker = None

    def _usual(self) -> list[Address]:
        found = (self._settings.usual(ipv4=is_ipv4) for is_ipv4 in (True, False))
        return [address for address in found if address is not None]

    def _ebpf_options(self) -> EbpfOptions:
        config = self._settings.config.datapath
        return EbpfOptions(
            node_id=self._node_id,
            addresses=self._settings.own,
            interfaces=tuple(str(name) for name in config.interfaces),
            port=self._settings.address.port,
            rates=client_rates(self._settings),
            ready=self._ready,
            table=config.table,
        )


def client_rates(settings: Settings) -> ClientRates:
    """The configured rates of clients."""
    config = settings.config.datapath
    return ClientRates(config.rate, config.rate if config.write_rate is None else config.write_rate)


def nfqueue_options(settings: Settings) -> NfqueueOptions:
    """The datapath's options, from the configuration."""
    config = settings.config.datapath
    return NfqueueOptions(
        addresses=settings.own,
        interfaces=tuple(str(name) for name in config.interfaces),
        port=settings.address.port,
        first_queue=config.first_queue,
        queues=config.queues,
        max_len=config.queue_length,
        rates=client_rates(settings),
        senders=settings.senders,
        table=config.table,
    )


def probe_nfqueue(settings: Settings) -> str:
    """Describes how nfqueue would run on this host. Changes nothing. Raises DatapathError if it cannot run."""
    need_package()
    options = nfqueue_options(settings)
    interfaces = netlink.choose_interfaces(options.addresses, options.interfaces)
    kind = ruleset.probe_queue(options.nft)
    if kind is None:
        raise DatapathError("this kernel has no NFQUEUE: choose the socket datapath")
    first, last = options.queue.first, options.queue.last
    numbers = f"queue {first}" if first == last else f"queues {first} to {last}"
    return f"diverts packets from {', '.join(interfaces)} to {numbers} (nft's {kind} way)"


def probe_ebpf(settings: Settings) -> str:
    """The same for ebpf."""
    interfaces = netlink.choose_interfaces(
        settings.own, [str(name) for name in settings.config.datapath.interfaces]
    )
    program.need_program()
    program.need_kernel()
    # Only root may ask the kernel.
    walked = f" ({program.try_load():,} instructions verified)" if program.may_load() else ""
    return f"puts an XDP program on {', '.join(interfaces)}{walked}"


PROBES = {"nfqueue": probe_nfqueue, "ebpf": probe_ebpf, "auto": probe_nfqueue}
"""By datapath.kind. The socket needs no probe."""
