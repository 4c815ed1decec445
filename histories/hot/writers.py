"""A process of writers: `python -m histories.hot.writers OPTIONS` with the options as JSON. SIGTERM ends it in peace.

Each writer is a thread. It puts a value on the condition of the version that it knows of a key, once, without a repetition:
a repetition may end at another replica. After a conflict or a doubt it asks a majority.
"""

import random
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from histories.hot.readers import BOARD, PADDING
from histories.record import now_ns
from kdht.errors import BadPacket
from kdht.wire import Message, Record, hash_key, pack_request, parse
from kdht.wire._shared import Op, Status
from kdht.wire.bodies import pack_write

TIMEOUT = 1.0
"""Seconds for an answer."""
LONGEST = 1000
"""Bytes of a value."""
PAUSE = 0.004
MARK = struct.Struct(">Q")
REFUSED = frozenset(
    {Status.BUSY, Status.NOT_RESPONSIBLE, Status.UNREACHABLE, Status.STORAGE_FAILED, Status.BAD_VERSION}
)


class Options(msgspec.Struct, frozen=True):
    seed: int
    writers: int
    names: list[str]
    nodes: list[tuple[str, int]]
    board: str
    result: str


class Write(msgspec.Struct, frozen=True):
    """A PUT, or a QUORUM_GET (`condition` is None), with its times in nanoseconds of CLOCK_MONOTONIC."""

    begun: int
    ended: int
    key: int
    mark: int
    """The first 8 bytes of the value that was written or read; 0: no value was read."""
    condition: int | None
    version: int
    """Of the record written or read; 0: not known, or none."""
    outcome: str
    """"ok", "conflict", "refused", "unknown"."""


class Writer:
    def __init__(self, options: Options, number: int, found: list[Write]) -> None:
        self._options = options
        self._rng = random.Random(f"{options.seed} {number}")
        self._marks = number << 40
        self._found = found
        self._known: dict[int, int] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(TIMEOUT)

    def run(self, ended: threading.Event) -> None:
        while not ended.wait(self._rng.random() * PAUSE):
            key = self._rng.randrange(len(self._options.names))
            if key not in self._known or self._rng.random() < 0.05:
                self._read(key)
            if key in self._known:
                self._put(key)

    def _read(self, key: int) -> None:
        """By a majority."""
        begun = now_ns()
        reply = self._ask(key, Op.QUORUM_GET, bytes(PADDING))
        if reply is None or reply.status not in (Status.OK, Status.NOT_FOUND):
            return
        version = mark = 0
        if reply.status is Status.OK:
            record = Record.parse(reply.body)
            version, (mark,) = record.version, MARK.unpack_from(record.value)
        self._found.append(Write(begun, now_ns(), key, mark, None, version, "ok"))
        self._known[key] = version

    def _put(self, key: int) -> None:
        self._marks += 1
        condition, mark = self._known.pop(key), self._marks
        value = MARK.pack(mark) + self._rng.randbytes(self._rng.randrange(LONGEST))
        begun = now_ns()
        reply = self._ask(key, Op.PUT, pack_write(Record(value=value), condition))
        version, outcome = 0, "unknown"
        if reply is not None and reply.status is Status.OK:
            version, outcome = Record.parse(reply.body).version, "ok"
            self._known[key] = version
        elif reply is not None and reply.status is Status.CONFLICT:
            outcome = "conflict"
        elif reply is not None and reply.status in REFUSED:
            outcome = "refused"
        self._found.append(Write(begun, now_ns(), key, mark, condition, version, outcome))

    def _ask(self, key: int, op: Op, body: bytes) -> Message | None:
        number = self._rng.getrandbits(63)
        node = Path(self._options.board).read_bytes()[BOARD.size - 64 + key]
        with suppress(OSError, BadPacket):
            self._sock.sendto(
                pack_request(op, hash_key(self._options.names[key]), number, body), self._options.nodes[node]
            )
            while (reply := parse(self._sock.recv(2048))).request_id != number:
                pass
            return reply
        return None


def run(options: Options) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    Path(options.result).touch()  # it may be told to end from now on
    found: list[list[Write]] = [[] for _ in range(options.writers)]
    writers = [Writer(options, number + 1, each) for number, each in enumerate(found)]
    threads = [threading.Thread(target=writer.run, args=(ended,)) for writer in writers]
    for thread in threads:
        thread.start()
    ended.wait()
    for thread in threads:
        thread.join()
    Path(options.result).write_bytes(msgspec.json.encode([write for each in found for write in each]))


def load(directory: Path) -> Sequence[Write]:
    return msgspec.json.decode((directory / "writes").read_bytes(), type=list[Write])


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[1], type=Options))
