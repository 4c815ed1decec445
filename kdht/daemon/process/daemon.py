"""One node as a process: start, run until a signal or `stop`, restore the host.

Contract: `run` returns 0 after a clean stop, or raises a KdhtError, or a bug's error. In each case
everything started has been undone, in reverse order. The event loop in
the main thread has the node's timers, the control socket and the housekeeping; the
transport has a thread of its own. Only this layer reads the clock.
"""

import asyncio
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from importlib.util import find_spec
from typing import Any, TypeVar

from kdht import __version__
from kdht.config.faces import job_of
from kdht.config.settings import Settings
from kdht.daemon import identity, wiring
from kdht.daemon.bootstrap import joining
from kdht.daemon.control.methods import Methods
from kdht.daemon.control.running import Running
from kdht.daemon.control.server import ControlServer
from kdht.daemon.control.state import DaemonState
from kdht.daemon.datadir import DataDir
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.discovery import answering
from kdht.daemon.faces import Faces
from kdht.daemon.host_addresses import followed, settled
from kdht.daemon.moving import Moves
from kdht.daemon.pages import server as pages
from kdht.daemon.process import housekeeping, memory
from kdht.daemon.process.reload import reload
from kdht.daemon.wiring import Parts
from kdht.datapath.host.local_addresses import tentative
from kdht.errors import ConfigError, DatapathError
from kdht.program import capabilities, logs
from kdht.program.log_writer import LogWriter
from kdht.program.notify import beating, notify

log = logging.getLogger(__name__)

T = TypeVar("T")

LAST_LINES_SECONDS = 1.0
"""How long the last log lines wait for who reads them."""
TENTATIVE_SECONDS = 15
"""How long an IPv6 address may be tentative; then its bind fails, and says so."""
COPIED = (
    "{path} comes from another machine: if the node there still runs, stop this one, and start it again without "
    "that directory"
)
LONELY_SECONDS = 20.0
"""Seconds until a joined node without contacts counts as really alone."""
_ENDS = {
    "stopping": "stopping",
    "moving": "moving: another ID is chosen",
    "starting": "starting anew",
}
"""The log message at a node's end, by the daemon's state."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(load: Callable[[], Settings]) -> int:
    """Run one node until it is told to stop; `load` gives its settings, then and at SIGHUP.

    Raises KdhtError when it cannot start.
    """
    settings = load()
    writer = logs.configure(settings.config.log.level, settings.config.log.format, sys.stderr.fileno())
    try:
        asyncio.run(Daemon(settings, load, writer).run())
    finally:
        # In every case: the last lines say why it ends.
        writer.drain(LAST_LINES_SECONDS)
    return 0


class Daemon:
    """One node from start to end."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], log_writer: LogWriter) -> None:
        self._settings = settings
        self._load = load
        self._log_writer = log_writer
        self._stopping = asyncio.Event()
        self._anew = asyncio.Event()
        """The node is to be put together again, from what is in its data directory, as by a restart; with another ID
        after a move."""
        self._faces = Faces()
        self._discovery: Counter[str] = Counter()
        self._state = DaemonState(settings)
        self._methods = Methods(
            self._state,
            self._stopping,
            self._anew,
            lambda: log_writer.lost,
            self._faces.states,
            self._discovery,
        )
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Start, wait for the end, stop. Raises KdhtError with everything undone."""
        self._catch_stop_signals()
        control = ControlServer(
            self._settings.control_socket, self._methods.table(), self._settings.config.control.group
        )
        async with AsyncExitStack() as stack:
            data = DataDir.open(self._settings.data_dir)
            stack.callback(data.close)
            # Before the waits below, so that `status` says what the daemon waits for, and `stop` ends it.
            await control.start()
            # First up, last down: its end tells `kdhtctl stop` that everything is restored.
            stack.push_async_callback(control.stop)
            self._look_at_the_machine(data)
            await self._unless_stopped(self._wait_for_addresses())
            self._follow(settled(self._settings))
            await pages.serve(self._settings, self._methods.table(), stack)
            # Before the end of the control socket: that tells `kdhtctl stop` that everything is released.
            stack.callback(data.close)
            Datapaths.prepare(self._settings)
            # After the pages have bound their ports, and before the first thread of the daemon.
            self._state.keep(
                capabilities.reduce(
                    self._settings.data_dir,
                    [self._settings.address.port, *job_of(self._settings).ports],
                    self._settings.key_files,
                )
            )
            self._log_writer.start()
            # Up before the node is ready: who asks then is told to come again.
            stack.push_async_callback(self._faces.stop)
            self._faces.follow(job_of(self._settings))
            async with beating():
                await self._serve_all(data)
        if self._failure:
            raise self._failure
        log.info("stopped")

    def _look_at_the_machine(self, data: DataDir) -> None:
        """Warn of a copied image: two nodes with one ID answer with old values, for ever."""
        # Without an ID there is nothing to have twice.
        if data.comes_from_elsewhere() and data.node_id() is not None:
            warning = COPIED.format(path=data.path)
            log.warning(warning)
            self._state.note(warning)

    async def _serve_all(self, data: DataDir) -> None:
        """The node, and again whenever it is to be put together anew."""
        moves = Moves(data, self._anew.set, self._give_up)
        while not self._stopping.is_set():
            # Before the ID is read: a wish for another one that comes after this is seen by the next turn.
            self._anew.clear()
            node_id = await self._unless_stopped(identity.of_node(self._settings, data))
            if node_id is None:
                return
            with ExitStack() as undo:
                await self._serve(data, node_id, undo, moves)

    async def _wait_for_addresses(self) -> None:
        """Wait until no own IPv6 address is tentative any more, for such a one cannot be bound."""
        for second in range(TENTATIVE_SECONDS):
            config = self._settings.config
            # The pages' addresses may be others than the node's.
            pages_at = [at.host for at in (config.metrics.listen, config.web.listen) if at]
            waits = tentative([*(address.host for address in self._settings.listen), *pages_at])
            if not waits:
                return
            if not second:
                log.info("own addresses are still tentative", extra={"addresses": ", ".join(waits)})
            await asyncio.sleep(1)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None if the daemon is stopped first."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        for each in (task, stop):
            if not each.done():
                each.cancel()
        # A cancelled task that nobody awaits would be told of at the loop's end.
        await asyncio.gather(stop, return_exceptions=True)
        if self._stopping.is_set():
            await asyncio.gather(task, return_exceptions=True)
            return None
        return await task

    async def _serve(self, data: DataDir, node_id: bytes, undo: ExitStack, moves: Moves) -> None:
        """Everything between the control socket's start and its end, or a move."""
        settings = self._settings
        parts = wiring.build(settings, data, node_id, undo, self._anew.set)
        parts.transport.start(parts.handlers)
        undo.callback(parts.transport.stop)
        # Waiting writes are confirmed while the transport can still send.
        undo.callback(parts.writer.close)
        # Undone first of these three: what the driver waits for would not be answered any more.
        undo.callback(parts.driver.stop)
        hot = parts.cache.hot if parts.cache is not None else None
        datapaths = Datapaths(settings, parts.publisher, parts.contact.id, _table_is_good(parts), hot)
        # After the transport: what a fast path does not take goes to its socket.
        datapaths.start()
        # With ebpf_keep a node that comes back leaves its XDP program to forward meanwhile.
        undo.callback(lambda: datapaths.stop(comes_back=not moves.has_left))
        reload_now = self._make_reloadable(parts, datapaths)
        chores = housekeeping.running(
            settings, data, parts, datapaths, self._end_deaf, lambda: self._follow_addresses(parts)
        )
        found = answering(lambda: self._settings, self._discovery)
        async with found, joining(settings, data, parts.driver, self._give_up), chores:
            moves.done()
            self._state.serve(Running(parts, datapaths, moves, reload_now))
            # Now, because the start's memory is no longer needed.
            memory.trim_heap()
            self._announce(parts)
            await self._unless_stopped(self._anew.wait())
            wiring.stop_answers(parts)
            # Before the parts: a move under way asks them.
            await moves.stop()
            state = "stopping" if self._stopping.is_set() else "moving" if moves.has_left else "starting"
            self._state.end(state)
            if self._stopping.is_set():
                notify("STOPPING=1")
                # First, while the node still answers them.
                await self._faces.stop()
            log.info(_ENDS[state])

    def _follow(self, settings: Settings) -> None:
        self._settings = settings
        self._state.follow(settings)

    def _follow_addresses(self, parts: Parts) -> None:
        """Clients may ask at addresses of this host that came after the start."""
        settings = followed(self._settings)
        if settings.also != self._settings.also:
            self._follow(settings)
            wiring.configure(parts.publisher, parts.contact.id, settings)
            log.info("other addresses of this host", extra={"addresses": ", ".join(map(str, settings.also))})

    def _end_deaf(self, why: str) -> None:
        self._give_up(DatapathError(f"the socket datapath died: {why}"))

    def _give_up(self, failure: BaseException) -> None:
        """A deaf node ends, so its service manager can start it again."""
        # Raised when all is undone: a half-undone host would be worse than a late error.
        self._failure = failure
        self._stopping.set()

    def _announce(self, parts: Parts) -> None:
        for warning in self._settings.warnings:
            log.warning(warning)
        contact = parts.contact
        fields = {"version": __version__, "node_id": contact.id.hex(), "address": contact.address}
        if find_spec("kdht.wire._sodium") is None:
            log.info(
                "built without libsodium: signed records are refused; docs/operating.md says what to install"
            )
        log.info("started", extra=fields)
        notify("READY=1")

    def _catch_stop_signals(self) -> None:
        """The first signal stops cleanly; a second one, by the system's own means, at once.

        SIGTERM first makes the node a lame duck, if that is configured: then the second stops cleanly, and the third at once.
        """
        loop = asyncio.get_running_loop()

        def terminate() -> None:
            seconds = self._settings.config.node.lame_duck
            # After a second signal nobody wants to wait. A node that serves nobody need not wait at all.
            if not seconds or self._state.is_lame or not self._state.running:
                stop()
                return
            log.info("not ready any more; served on for a while", extra={"seconds": seconds})
            self._state.make_lame()
            # Balancers ask every few seconds: until then they send clients here.
            loop.call_later(seconds, self._stopping.set)

        def stop() -> None:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
                # A second signal ends the process at once. The next start cleans up.
                signal.signal(number, signal.SIG_DFL)
            self._stopping.set()

        loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGTERM, terminate)

    def _make_reloadable(self, parts: Parts, datapaths: Datapaths) -> Callable[[], list[str]]:
        """A function that reads the configuration again, for the control socket. SIGHUP calls it, too, without an answer."""

        def again() -> list[str]:
            done = reload(self._load, self._settings, parts)
            self._follow(done.settings)
            # The queues' rules name the accepted senders, and do not read the core.
            datapaths.follow(done.settings)
            self._faces.follow(job_of(done.settings))
            return done.waiting

        def signalled() -> None:
            # Logged already, and a signal has no answer: the old configuration stays.
            with suppress(ConfigError):
                again()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signalled)
        return again


def _table_is_good(parts: Parts) -> Callable[[], bool]:
    """Whether this node's table may replace an earlier daemon's in a datapath. Thread-safe."""
    started = time.monotonic()

    def is_good() -> bool:
        # An empty table just after the start would send all keys to this node, while the earlier table still
        # forwards right.
        alone = time.monotonic() - started > LONELY_SECONDS
        return parts.driver.joined and (parts.core.occupancy() != 0 or alone)

    return is_good
