"""Capture files, streamed: a batch of packets at a time, for files of any length.

pcap and pcapng, gzipped too, from files, pipes and standard input. Ethernet, raw IP, Linux cooked
and BSD loopback are read by _capture. For other link layers scapy finds the IP header. CaptureError
names the file and the offset of the damage; the packets before it have been given by then.
"""

import gzip
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, cast

from kdht.errors import CaptureError, ConfigError
from kdht.remedies import about_file
from kdht.replay._capture import Batch, Splitter
from kdht.wire import Buffer

CHUNK = 1 << 20
"""Bytes read at once."""
# LINKTYPE_RAW: IP without a link layer. The core sees just that.
LINK_RAW = 101
_GZIP = b"\x1f\x8b"
_PCAP = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_NANO_MAGIC = 0xA1B23C4D
# tcpdump's own: no packet is longer.
_SNAPLEN = 1 << 18


STDIN = Path("-")
"""In place of a file: standard input."""
_HEADER_LEN = 24
"""Bytes of a pcap file's header; no pcapng file is shorter."""


class ReadProgress(NamedTuple):
    """How far a file has been read, bytes. `total` is None for what has no length: pipes, standard input."""

    done: int
    total: int | None


class _Source:
    """A file's bytes in order, whether or not it can be read twice. Raises OSError."""

    def __init__(self, path: Path) -> None:
        if path == STDIN and sys.stdin.isatty():
            raise OSError(0, "standard input is a terminal: pipe a capture into it")
        self._file = open(0 if path == STDIN else path, "rb", closefd=path != STDIN)  # noqa: SIM115
        status = os.fstat(self._file.fileno())
        self.total = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.done = 0
        self._begin = self._file.read(len(_GZIP))
        self.zipped = self._begin == _GZIP

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there are any; none at the end."""
        # A capture that is still being made is judged as it comes.
        data, self._begin = self._begin or self._file.read1(size), b""
        self.done += len(data)
        return data

    def close(self) -> None:
        self._file.close()


class Capture:
    """One file, to be iterated over once."""

    def __init__(self, path: Path) -> None:
        """Raises CaptureError if it cannot be opened."""
        self.path = path
        try:
            self._source = _Source(path)
        except OSError as error:
            raise CaptureError(
                about_file(path, error, "name a pcap or pcapng file, or - for standard input")
            ) from None
        self._read_raw: Callable[[int], bytes] = (
            gzip.GzipFile(fileobj=cast(BinaryIO, self._source)).read1
            if self._source.zipped
            else self._source.read
        )

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    @property
    def progress(self) -> ReadProgress:
        """Of the file as it lies on the disk."""
        return ReadProgress(self._source.done, self._source.total)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the file's order. Raises CaptureError where it cannot be read on."""
        splitter = Splitter()
        left = more = self._read(CHUNK, 0)
        while more and len(left) < _HEADER_LEN:
            left += (more := self._read(CHUNK, len(left)))
        try:
            offset = splitter.open(left)
        except ValueError as error:
            raise CaptureError(f"{self.path}: offset 0: {error}") from None
        left = left[offset:]
        while True:
            batch, used, needs = self._split(splitter, left)
            offset, left = offset + used, left[used:]
            if len(batch):
                _ask_scapy(batch)
                yield batch
            if len(left) < needs:
                more = self._read(max(CHUNK, needs), offset + len(left))
                if not more:
                    break
                left += more
        if left:
            raise CaptureError(
                f"{self.path}: offset {offset:,}: cut off: the file ends {needs - len(left):,} bytes "
                "too early for this record"
            )

    def _split(self, splitter: Splitter, data: bytes) -> tuple[Batch, int, int]:
        try:
            return splitter.split(data)
        except ValueError as error:
            raise CaptureError(f"{self.path}: {error}") from None

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return self._read_raw(size)
        except (OSError, EOFError, zlib.error) as error:
            raise CaptureError(f"{self.path}: offset {offset:,}: cannot be read on: {error}") from None


def _ask_scapy(batch: Batch) -> None:
    """Find IP in the packets of link layers known to scapy only."""
    foreign = batch.foreign()
    if not foreign:
        return
    try:
        import scapy.layers.all  # noqa: F401 - each module makes its link types known
        from scapy.config import conf
        from scapy.layers.inet import IP
        from scapy.layers.inet6 import IPv6
    except ImportError:
        link = link_name(batch.frame(foreign[0]).link)
        raise ConfigError(f"{link}: only scapy reads this: pip install scapy") from None

    for index in foreign:
        frame = batch.link_layer(index)
        try:
            dissected = conf.l2types[batch.frame(index).link](frame)
        except Exception:  # scapy's dissectors promise nothing about bad packets
            continue
        found = dissected.getlayer(IP) or dissected.getlayer(IPv6)
        # Not always at the end: a checksum of the link layer may follow.
        if found is not None and found.original and found.original in frame:
            batch.place(index, frame.index(found.original))


def link_name(link: int) -> str:
    """As people call it."""
    names = {0: "loopback", 1: "Ethernet", 12: "raw IP", 101: "raw IP", 108: "loopback", 113: "Linux cooked",
             228: "raw IPv4", 229: "raw IPv6", 276: "Linux cooked v2"}  # fmt: skip
    return names.get(link, f"link type {link}")


class CaptureWriter:
    """A new pcap file of raw IP packets, times in nanoseconds. A context manager."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if it cannot be written."""
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigError(about_file(path, error)) from None
        self._file.write(_PCAP.pack(_NANO_MAGIC, 2, 4, 0, 0, _SNAPLEN, LINK_RAW))

    def __enter__(self) -> "CaptureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, packet: Buffer, nanos: int) -> None:
        """One packet, from its IP header on."""
        seconds, rest = divmod(nanos, 1_000_000_000)
        self._file.write(_RECORD.pack(seconds & 0xFFFFFFFF, rest, len(packet), len(packet)) + packet)

    def write_records(self, records: bytes) -> None:
        """Many, as Results.gone_on gives them."""
        self._file.write(records)
