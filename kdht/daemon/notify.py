"""Tells a service manager how the daemon is: sd_notify(3)'s datagrams, nothing where there is none."""

import contextlib
import os
import socket


def notify(*lines: str) -> None:
    """Send "READY=1" and the like to $NOTIFY_SOCKET. Never raises: it is advice."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(lines).encode(), address)
