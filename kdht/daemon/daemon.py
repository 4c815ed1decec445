"""One node as a process: start, run until a signal or `stop`, put back what was found.

Contract: `run` returns 0 after a clean stop, or raises a KdhtError with everything
undone. What is started is undone in reverse order, whatever happens. The event loop in
the main thread has the node's timers, the control socket and the housekeeping; the
transport has a thread of its own. Only this layer reads the clock.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from kdht import __version__
from kdht.daemon import housekeeping, logs, wiring
from kdht.daemon.bootstrap import join
from kdht.daemon.control import ControlServer
from kdht.daemon.datadir import DataDir
from kdht.daemon.datapaths import start_datapaths
from kdht.daemon.methods import Methods
from kdht.daemon.notify import notify
from kdht.daemon.settings import Settings
from kdht.daemon.wiring import Parts

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings) -> int:
    """Run one node until it is told to stop. Raises KdhtError when it cannot start."""
    config = settings.config.log
    logs.configure(config.level, config.format)
    asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    _catch_signals(stopping)
    async with AsyncExitStack() as stack:
        data = DataDir.open(settings.data_dir)
        stack.callback(data.close)
        methods = Methods(settings, stopping)
        control = ControlServer(settings.control_socket, methods.table(), settings.config.control.group)
        await control.start()
        stack.push_async_callback(control.stop)
        stack.callback(
            data.close
        )  # before the control socket, whose end tells `kdhtctl stop` that all is done
        await _serve(settings, data, methods, stopping, stack)
    log.info("stopped")


async def _serve(
    settings: Settings, data: DataDir, methods: Methods, stopping: asyncio.Event, stack: AsyncExitStack
) -> None:
    """Everything between the control socket's start and its end."""
    undo = stack.enter_context(ExitStack())
    parts = wiring.build(settings, data, undo)
    parts.transport.start()
    undo.callback(parts.transport.stop)
    undo.callback(parts.writer.close)  # what waits is confirmed while the transport still sends
    undo.callback(parts.driver.stop)
    datapaths = start_datapaths(settings, parts.core, undo)
    async with _joining(settings, data, parts), housekeeping.running(settings, data, parts, datapaths):
        methods.serve(parts, datapaths)
        for warning in settings.warnings:
            log.warning(warning)
        log.info(
            "ready",
            extra={
                "version": __version__,
                "node_id": parts.contact.id.hex(),
                "address": parts.contact.address,
            },
        )
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
        log.info("stopping")
        methods.end()


@asynccontextmanager
async def _joining(settings: Settings, data: DataDir, parts: Parts) -> AsyncIterator[None]:
    """The node joins its cluster, however long the names of others take to be known."""
    task = asyncio.create_task(join(settings, parts.driver, data.load_contacts()))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _catch_signals(stopping: asyncio.Event) -> None:
    """The first signal stops cleanly; a second one, with the system's own means, at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stopping.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
