"""Reports the daemon's state to a service manager, if there is one, by sd_notify(3)'s datagrams.

The watchdog's beat comes from the event loop, twice in each of the manager's intervals: a loop that
hangs is killed and started anew. A transport that died ends the daemon by itself (housekeeping.py).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator


def notify(*lines: str) -> None:
    """Send "READY=1" and the like to $NOTIFY_SOCKET. Never raises: it is advice."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        # The manager writes an abstract address's zero byte as @.
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # a manager that does not read must not hold up the event loop
        sock.sendto("\n".join(lines).encode(), address)


def watchdog_seconds() -> float | None:
    """The longest interval between beats; None without a watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    # A child inherits the environment, and must not beat for its parent.
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not meant or not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / 1e6


@contextlib.asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Beat from the running event loop until the block ends."""
    interval = watchdog_seconds()
    if interval is None:
        yield
        return
    beats = asyncio.create_task(_beat(interval / 2))
    try:
        yield
    finally:
        beats.cancel()


async def _beat(seconds: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
