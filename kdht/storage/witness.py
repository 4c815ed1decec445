"""The witness: how far the database had come, in a file beside LevelDB's.

Every batch has a serial number in the database (`layout.SERIAL_KEY`). The file has the serial of a synced batch. If the
database opens with a smaller one, confirmed writes are gone: LevelDB takes a lost log for an empty one, and skips
zeros in it.

Contract: the file is written after its batch is synced, so it is never ahead of the disk, whenever the process is
killed or the power fails. It may lag, by the writes of a second. It is advice: no error of it fails a write.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from kdht.errors import StorageDamaged
from kdht.storage import layout
from kdht.times import UnixTime

NAME = "witness"
# A write of the file for each batch would be a second sync. The price: after a kill the loss of the last second
# of the log is not noticed.
LAG = 1.0
"""Seconds between two writes of the file."""
_CONTENT = re.compile(rb"serial ([0-9]{1,19})\n")
_LOG = re.compile(r"([0-9]+)\.log")

BLOCK = 32768
"""LevelDB's logs are cut into blocks of this size, whose parts have a checksum, a length and a type."""
_PART_HEAD = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_SERIAL_ENTRY = bytes([1, len(layout.SERIAL_KEY)]) + layout.SERIAL_KEY + bytes([layout.SERIAL_VALUE.size])
"""A batch ends with this and the serial: a put (1) with the lengths of key and value."""


class Witness:
    """The file of one open database. Used under the store's lock."""

    def __init__(self, path: str) -> None:
        self._path = os.path.join(path, NAME)
        self._at = 0.0
        self._noted = read(path)

    def note(self, serial: int, now: UnixTime) -> None:
        """A batch of this serial is synced. Written at most once in LAG seconds."""
        # `abs`: a clock that was set back must not stop the notes.
        if abs(now - self._at) >= LAG:
            self._at = now
            self.save(serial)

    def save(self, serial: int) -> None:
        """Write it, unless it is there already."""
        if serial <= self._noted:
            return
        # Replaced as a whole, without a sync: an empty file after a power failure says nothing, which is no
        # false alarm.
        beside = f"{self._path}.new"
        # A full disk, for one: then it lags.
        with suppress(OSError):
            with open(beside, "wb") as file:
                file.write(b"serial %d\n" % serial)
            os.replace(beside, self._path)
            self._noted = serial


def read(path: str) -> int:
    """The serial in the file. 0 without a whole one: after a power failure it may be empty."""
    try:
        with open(os.path.join(path, NAME), "rb") as file:
            found = _CONTENT.fullmatch(file.read(64))
    except OSError:
        # No witness: an older database, or a first start. Then nothing is compared.
        return 0
    return int(found[1]) if found else 0


def check_serial(path: str, serial: int) -> None:
    """Raises StorageDamaged if the database has not come as far as it had."""
    if serial < (had := read(path)):
        raise _lost(path, f"the last {had - serial} of {had} groups of writes")


def check_logs(path: str) -> None:
    """Raises StorageDamaged if groups of confirmed writes are missing between others in LevelDB's logs. Before it opens."""
    had = read(path)
    # A database from before there were witnesses, or a fresh one: nothing is known that could be missing.
    if not had:
        return
    found = sorted(
        serial for name in os.listdir(path) if _LOG.fullmatch(name) for serial in _serials(path, name)
    )
    # Above `had` nothing is known to be confirmed: the power may have failed in the middle of such a write.
    known = [serial for serial in found if serial <= had]
    if known and (missing := had - known[0] + 1 - len(set(known))) and found[-1] >= had:
        raise _lost(path, f"{missing} groups of writes in the middle of its log")


def _serials(path: str, name: str) -> Iterator[int]:
    try:
        with open(os.path.join(path, name), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        # LevelDB deletes files at any time.
        return
    size = layout.SERIAL_VALUE.size
    for batch in batches(data):
        if batch[:-size].endswith(_SERIAL_ENTRY):
            yield layout.SERIAL_VALUE.unpack(batch[-size:])[0]


def batches(data: bytes) -> Iterator[bytes]:
    """The whole batches of a log, without a look at checksums. Ends at what is no log; LevelDB judges that."""
    at, parts = 0, b""
    while at + _PART_HEAD <= len(data):
        left = BLOCK - at % BLOCK
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < _PART_HEAD or not kind:
            # The rest of a block is not used if it is too short. LevelDB skips one with zeros, too.
            at += left
            continue
        if kind > _LAST or _PART_HEAD + length > left:
            return
        part = data[at + _PART_HEAD : at + _PART_HEAD + length]
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts
        at += _PART_HEAD + length


def _lost(path: str, what: str) -> StorageDamaged:
    return StorageDamaged(
        f"the database in {path} is damaged (it lost {what}: were files removed, or a disk's blocks?): stop the node, "
        "then restore the directory from a backup, or move it away to start empty: the node gets its records from "
        f"the others; or go on with what is left: rm {os.path.join(path, NAME)}"
    )
