"""Starts `readers.c`, and reads what it found."""

import mmap
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from histories.compiling import compiled
from histories.stage import Stage
from kdht.errors import LabError
from kdht.wire import OFFSET, hash_key, pack_request
from kdht.wire._shared import Flag, Op

SOURCE = Path(__file__).with_name("readers.c")
INCLUDE = Path(__file__).parents[2] / "include"
MOST_KEYS = 64
PADDING = 1120
"""Bytes of a request's body: an address without a cookie gets no more bytes than it sent."""
BOARD = struct.Struct(f"=QII{MOST_KEYS}B")
READ = struct.Struct("=qqQQIBBBB")
END_TIMEOUT = 20.0
AT_OWNER, AT_OWNER_TOO, DIRECT, ANYWHERE = range(4)


class Read(NamedTuple):
    """One GET that was answered; times are nanoseconds of CLOCK_MONOTONIC."""

    begun: int
    ended: int
    version: int
    mark: int
    """The first 8 bytes of the value."""
    source: int
    """Who answered, as an IPv4 address."""
    key: int
    way: int
    reader: int
    status: int


class Board:
    """What the readers and this process share, in a file: the owner of each key, how many reads there were, and the end."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(BOARD.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), BOARD.size)

    @property
    def answered(self) -> int:
        (count,) = struct.unpack_from("=Q", self._memory)
        return int(count)

    def end(self) -> None:
        struct.pack_into("=I", self._memory, 8, 1)

    def set_owner(self, key: int, node: int) -> None:
        self._memory[16 + key] = node


def start(stage: Stage, names: Sequence[str], count: int, board: Path) -> subprocess.Popen[bytes]:
    """`count` readers of these keys, at the stage's nodes. Raises LabError without a compiler."""
    directory = stage.directory
    program = compiled(SOURCE, directory / "readers", f"-I{INCLUDE}", "-pthread")
    requests = directory / "requests"
    requests.write_bytes(b"".join(_requests(names)))
    nodes = ",".join(str(node.address) for node in stage.cluster.nodes)
    length = requests.stat().st_size // (2 * len(names))
    command = [program, board, len(names), requests, length, nodes, directory / "reads", count]
    return stage.popen(list(map(str, command)), stdin=subprocess.DEVNULL)


def wait_end(process: subprocess.Popen[bytes]) -> None:
    """Raises LabError for readers that failed or hang."""
    try:
        code = process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise LabError("the readers hang") from None
    if code:
        raise LabError(f"the readers ended with {code}")


def load(directory: Path) -> list[Read]:
    return [Read._make(fields) for fields in READ.iter_unpack((directory / "reads").read_bytes())]


def _requests(names: Sequence[str]) -> Iterator[bytes]:
    for name in names:
        plain = pack_request(Op.GET, hash_key(name), 0, bytes(PADDING))
        direct = bytearray(plain)
        direct[OFFSET["flags"]] |= Flag.DIRECT
        yield bytes(plain)
        yield bytes(direct)
