"""Checks of a service that is announced: it is a member of the set while they pass."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress

Check = Callable[[float], str]
"""Why the service is not well, empty if it is. Its argument: the seconds that it may take."""


def by_command(command: str) -> Check:
    """Well if this shell command ends with 0. What it prints goes to standard error."""

    def check(seconds: float) -> str:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except (OSError, MemoryError) as error:  # no process, memory or descriptor is left for a while
            return f"the check cannot be started: {error or type(error).__name__}"
        with process:
            try:
                code = process.wait(seconds)
            except BaseException as error:
                # With all that it has started: else a stuck check would pile up.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return f"the check did not end within {seconds:g} s"
        return f"the check ended with {code}" if code else ""

    return check


def by_connection(host: str, port: int) -> Check:
    """Well if something listens at this TCP port."""

    def check(seconds: float) -> str:
        try:
            socket.create_connection((host, port), seconds).close()
        except OSError as error:
            return f"{host}:{port}: {error.strerror or error}"
        return ""

    return check


def all_of(checks: list[Check]) -> Check:
    """Well if all of them say so; the first that does not is told."""

    def check(seconds: float) -> str:
        return next((why for each in checks if (why := each(seconds))), "")

    return check
