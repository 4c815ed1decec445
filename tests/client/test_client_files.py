"""Large values from files and into files: short ones, failing ones, those that cannot go back, and a bounded memory."""

import io
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from both_clients import blocking
from scripted_store import ScriptedStore

from kdht.client._chunks import PIECE_CHUNKS
from kdht.client._manifest import CHUNK_SIZE, journal_name
from kdht.client._sources import Given
from kdht.errors import PartMissing, RequestError
from kdht.wire import hash_key

VALUE = random.Random(11).randbytes(2 * PIECE_CHUNKS * CHUNK_SIZE + 7)
KEY, JOURNAL = hash_key("big"), hash_key(journal_name(hash_key("big")))


class Short(io.RawIOBase):
    """An unbuffered file that cannot go back; reads give less than is asked for, and writes take less."""

    def __init__(self, data: bytes = b"", fails_after: int = 1 << 40) -> None:
        self.data = bytearray(data)
        self.fails_after = fails_after
        self.at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        if self.at >= self.fails_after:
            raise OSError(5, "Input/output error")
        part = bytes(self.data[self.at : self.at + min(size, 40_000)])
        self.at += len(part)
        return part

    def write(self, data: Any) -> int:
        if self.at >= self.fails_after:
            raise OSError(28, "No space left on device")
        taken = bytes(data[:40_000])
        self.data += taken
        self.at += len(taken)
        return len(taken)


def chunks(store: ScriptedStore) -> int:
    return len(store.records.keys() - {KEY, JOURNAL})


def test_a_file_that_gives_little_at_a_time_and_does_not_say_its_size(ask: Callable[..., Any]) -> None:
    store, seen = ScriptedStore(), []
    with store.node() as node:
        ask(node.name, "put_large", "big", Short(VALUE), progress=lambda *done: seen.append(done))
        target = Short()
        assert ask(node.name, "get_large", "big", into=target) == len(VALUE)
    assert target.data == VALUE
    assert seen[0] == (0, 0)
    assert seen[-1] == (len(VALUE), 0)


def test_a_file_is_read_from_its_position_and_written_at_its_position(ask: Callable[..., Any]) -> None:
    store, seen = ScriptedStore(), []
    source, target = io.BytesIO(VALUE), io.BytesIO(b"head")
    source.seek(1000)
    target.seek(4)
    with store.node() as node:
        ask(node.name, "put_large", "big", source, progress=lambda *done: seen.append(done))
        ask(node.name, "get_large", "big", into=target)
        ask(node.name, "put", "small", b"x")
        assert ask(node.name, "get_large", "small", into=target) == 1
    assert target.getvalue() == b"head" + VALUE[1000:] + b"x"
    assert seen[-1] == (len(VALUE) - 1000,) * 2


@pytest.mark.parametrize("after", [0, 300_000])
def test_nothing_stays_of_a_file_that_fails(ask: Callable[..., Any], after: int) -> None:
    store = ScriptedStore()
    with store.node() as node, pytest.raises(OSError, match="Input/output"):
        ask(node.name, "put_large", "big", Short(VALUE, fails_after=after))
    assert store.records == {}


def test_a_file_that_takes_no_more_ends_the_read(ask: Callable[..., Any]) -> None:
    store, target = ScriptedStore(), Short(fails_after=300_000)
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        with pytest.raises(OSError, match="No space left"):
            ask(node.name, "get_large", "big", into=target)
    assert bytes(target.data) == VALUE[: len(target.data)]


@pytest.mark.parametrize("into", ["text", 5, b""])
def test_what_is_no_file_is_refused(ask: Callable[..., Any], into: object) -> None:
    with ScriptedStore().node() as node, pytest.raises(TypeError, match="binary file"):
        ask(node.name, "get_large", "big", into=into)


def test_a_value_replaced_while_it_goes_into_a_file(ask: Callable[..., Any]) -> None:
    """A file that can go back has the new value alone; what stood behind its place stays. Another one fails."""
    other = VALUE[::-1][: PIECE_CHUNKS * CHUNK_SIZE]

    def read_into(node_name: str, target: Any) -> None:
        blocking(node_name, "put_large", "big", VALUE)
        raced: list[int] = []

        def replace(done: int, total: int) -> None:
            if not raced and done > 1.2 * PIECE_CHUNKS * CHUNK_SIZE:
                raced.append(blocking(node_name, "put_large", "big", other))

        ask(node_name, "get_large", "big", into=target, progress=replace)

    store, target = ScriptedStore(), io.BytesIO()
    with store.node() as node:
        read_into(node.name, target)
        assert target.getvalue() == other
        with pytest.raises(PartMissing, match="replaced"):
            read_into(node.name, Short())


def test_a_damaged_value_gives_a_file_less_than_all(ask: Callable[..., Any]) -> None:
    store, target = ScriptedStore(), io.BytesIO()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        key = next(key for key in store.records if key not in (KEY, JOURNAL))
        record = store.records[key]
        store.records[key] = record._replace(value=record.value[:-1] + bytes([record.value[-1] ^ 1]))
        with pytest.raises(RequestError, match="digest"):
            ask(node.name, "get_large", "big", into=target)
    assert len(target.getvalue()) < len(VALUE)


@pytest.mark.parametrize("length", [0, 1, 10_000, 10_001])
def test_pieces_are_whole_chunks(length: int) -> None:
    data = VALUE[:length]
    for source in (data, io.BytesIO(data), Short(data), memoryview(data)):
        pieces = [bytes(piece) for piece in Given(source, 20).pieces()]  # type: ignore[arg-type]
        assert b"".join(pieces) == data
        assert all(len(piece) == 20 * PIECE_CHUNKS for piece in pieces[:-1])


PROGRAM = """
import re, sys
from kdht import Client

# Not getrusage's: that may be the parent's, from before this program was loaded.
def peak_kib():
    return int(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])

class Sink:
    size = 0
    def write(self, data):
        self.size += len(data)
        return len(data)

before = peak_kib()
with Client(sys.argv[1], timeout=20.0) as client, open(sys.argv[2], "rb") as file:
    client.put_large("big", file)
    sink = Sink()
    assert client.get_large("big", into=sink) == sink.size == int(sys.argv[3])
print(before, peak_kib())
"""


def test_the_memory_does_not_grow_with_the_file(tmp_path: Any) -> None:
    """64 MiB through a client: it takes less than half of that. A reader keeps up to 8,192 chunks behind a lost one."""
    size = 64 << 20
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    store = ScriptedStore()
    with store.node() as node:
        command = [sys.executable, "-c", PROGRAM, node.name, tmp_path / "large", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < 32 << 10, "KiB"
