"""Digests of key ranges. They are kept until a record changes, so asking again costs nothing.

The ID trie is cut in steps of four bits, down to ranges of some hundred records. A digest is the XOR of those of its parts. A
change makes only the ranges above its key stale, and only those are read again. Expired records do not count, swept or
not, so a digest holds until the first of its records expires.

Contract: `kept.changed` is for any thread; all else has one caller at a time.
"""

import struct
import threading
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from itertools import islice

from kdht.node.repair._changed import KeptDigest, KeptDigests
from kdht.node.repair.bodies import Digest
from kdht.node.repair.ranges import SPACE, Range, key_bytes
from kdht.node.repair.work import Steps
from kdht.storage import Store, StoredRecord
from kdht.times import UnixTime
from kdht.wire._shared import ID_BITS, ID_LEN

# Sixteen parts: their digests fit one datagram, and a difference is found in few round trips.
STEP = 4
LEAF = 256
"""Records in a range that are read at once."""
# Some MiB at most. A neighbour can ask for any range.
MAX_KEPT = 1 << 16
SEEK = 8
"""The cost of finding a place in the store, in records read."""
FOREVER = 2**64
_MARKED = struct.Struct(f">{ID_LEN}sQI")


class Digests:
    """Of all ranges of one store; `unix` gives the time, Unix seconds, of the present call."""

    def __init__(self, store: Store, unix: Callable[[], UnixTime]) -> None:
        self._store = store
        self._unix = unix
        self._lock = threading.Lock()
        self.kept = KeptDigests(self._lock)
        """`kept.changed(key)`: the record of a key is another one now, or gone. Any thread."""

    def of(self, wanted: Range) -> Steps[Digest]:
        """The digest of a range."""
        # Without a step of work, where it is known.
        kept = self.kept.get(key_bytes(wanted.start), wanted.bits)
        if kept is not None and self._unix() < kept.until:
            return kept.digest
        if wanted.bits % STEP:
            return (yield from self._sum(wanted.split(-(-wanted.bits // STEP) * STEP)))[0]
        return (yield from self._part(wanted))[0]

    def _sum(self, parts: list[Range]) -> Steps[tuple[Digest, int]]:
        count, value, until = 0, 0, FOREVER
        for part in parts:
            kept = self.kept.get(key_bytes(part.start), part.bits)
            if kept is not None and self._unix() < kept.until:
                digest, ends = kept.digest, kept.until
            else:
                digest, ends = yield from self._part(part)
            count += digest.records
            value ^= digest.value
            until = min(until, ends)
        return Digest(count, value), until

    def _part(self, part: Range) -> Steps[tuple[Digest, int]]:
        kept = self._keep(part)
        with self._lock:
            stamp = kept.stamp
        found = None
        if kept.digest.records <= LEAF or part.bits == ID_BITS:
            found, cost = self._read(part)
            yield cost
        if found is None:
            found = yield from self._sum(part.split(part.bits + STEP))
        with self._lock:
            # A change came during the read: the sum may be half old. It is given out, because the asker
            # compares again, but not kept.
            kept.digest, kept.until = found[0], found[1] if kept.stamp == stamp else 0
        return found

    def _read(self, part: Range) -> tuple[tuple[Digest, int] | None, int]:
        """The digest of the records in a range, None if they are too many for a leaf; and the cost."""
        records = chunk(self._store, self._unix(), part.start, part.stop, LEAF + 1)
        if len(records) > LEAF:
            return None, SEEK + LEAF
        value, until = 0, FOREVER
        for key, record in records:
            value ^= mark(key, record)
            if record.expiry:
                until = min(until, record.expiry)
        return (Digest(len(records), value), until), SEEK + len(records)

    def _keep(self, part: Range) -> KeptDigest:
        start = key_bytes(part.start)
        with self._lock:
            kept = self.kept.get(start, part.bits)
            if kept is None:
                if len(self.kept) >= MAX_KEPT:
                    self.kept.clear()
                kept = KeptDigest(Digest(0, 0))
                self.kept.set(start, part.bits, kept)
            return kept


def mark(key: bytes, record: StoredRecord) -> int:
    """The part of one record in a digest, 64 bits. It covers everything that `settle` decides by (docs/protocol.md)."""
    marked = _MARKED.pack(key, record.version, record.flags) + record.value
    return int.from_bytes(blake2b(marked, digest_size=8).digest(), "big")


def chunk(store: Store, unix: UnixTime, start: int, stop: int, most: int) -> list[tuple[bytes, StoredRecord]]:
    """The first records of start <= key < stop, at most `most`, read at once."""
    end = None if stop >= SPACE else key_bytes(stop)
    with closing(store.scan(unix, key_bytes(start), end)) as records:  # type: ignore[type-var]
        return list(islice(records, most))
