"""Capture files, streamed: a batch of packets at a time, for files of any length.

pcap and pcapng, gzipped too. Ethernet, raw IP, Linux cooked and BSD loopback are read by
_capture. For other link layers scapy finds the IP header. CaptureError names the file and the
offset of the damage; the packets before it have been given by then.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from kdht.errors import CaptureError, ConfigError
from kdht.replay._capture import Batch, Splitter
from kdht.wire import Buffer

CHUNK = 1 << 20
"""Bytes read at once."""
LINK_RAW = 101
_GZIP = b"\x1f\x8b"
_PCAP = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_NANO_MAGIC = 0xA1B23C4D
_SNAPLEN = 1 << 18


class ReadProgress(NamedTuple):
    """How far a file has been read, bytes."""

    done: int
    total: int


class Capture:
    """One file, to be iterated over once."""

    def __init__(self, path: Path) -> None:
        """Raises CaptureError if it cannot be opened."""
        self.path = path
        try:
            self._raw = path.open("rb")
            self._total = path.stat().st_size
            zipped = self._raw.read(2) == _GZIP
            self._raw.seek(0)
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}: name a pcap or pcapng file") from None
        self._read_raw: Callable[[int], bytes] = (
            gzip.GzipFile(fileobj=self._raw).read if zipped else self._raw.read
        )

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()

    @property
    def progress(self) -> ReadProgress:
        """Of the file as it lies on the disk."""
        return ReadProgress(self._raw.tell(), self._total)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the file's order. Raises CaptureError where it cannot be read on."""
        splitter = Splitter()
        left = self._read(CHUNK, 0)
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
    from scapy.config import conf
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    for index in foreign:
        frame = batch.link_layer(index)
        try:
            dissected = conf.l2types[batch.frame(index).link](frame)
        except Exception:  # scapy's dissectors promise nothing about bad packets
            continue
        found = dissected.getlayer(IP) or dissected.getlayer(IPv6)
        if found is not None and found.original and frame.endswith(found.original):
            batch.place(index, len(frame) - len(found.original))


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
            raise ConfigError(f"{path}: {error.strerror}: name a file that can be written") from None
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
