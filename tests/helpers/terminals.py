"""Programs in a terminal of a given size."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERASED = re.compile(r"(\x1b\[(1A|2K))+")
"""What begins the next picture of a live display."""


def in_terminal(command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]) -> str:
    """What the program leaves on its terminal, without colours. Of a live display, the last picture."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    usual = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    env = {**usual, "TERM": "xterm", **environment}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = bytearray()
    try:
        while part := _read(ours):
            written += part
        process.wait(30)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    pictures = ERASED.split(written.decode())
    return SEQUENCE.sub("", pictures[-1]).replace("\r", "")


def _read(terminal: int) -> bytes:
    """Empty at the end, which Linux tells of a terminal as EIO."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""
