"""Records of a node that was away for longer than deletions are remembered. They count only once others confirm them.

    records/ --start--> doubted-TIME/ --others have caught up--> compared with theirs; what they lack: set-aside-TIME.jsonl
                              \\----- nobody has caught up ------> records/ again

Contract: made before the store is opened. `step` is called from time to time in the event loop's thread, and follows the
findings of the node's repair. A crash loses nothing: doubted records are still there at the next start.
"""

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from kdht.daemon.datadir import DataDir
from kdht.node.repair import Doubt, Repair
from kdht.node.replicas import Coordinator
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.quorum_reads import ReadOutcome
from kdht.program.files import replacing
from kdht.storage import LevelStore, Store, StoredRecord, Write, exported, newer
from kdht.storage.base import OnChange
from kdht.times import UnixTime

log = logging.getLogger(__name__)

# Records of one step: a step must not hold the event loop for long.
BATCH = 64
# A quorum read may fail for a moment. A record that is taken for lost without need only ends in a file for the
# operator.
TRIES = 3
READ_SECONDS = 5.0
"""Time limit of a quorum read. The read itself ends long before."""
# Bytes. Whether the last line is whole shows at its end.
LAST_LINE = 64

Records = Sequence[tuple[bytes, StoredRecord]]


class AsideRecords:
    """One data directory's."""

    def __init__(self, data: DataDir) -> None:
        self._path = data.path
        self._doubted = sorted(data.path.glob("doubted-*"))

    @classmethod
    def prepare(cls, data: DataDir, tombstone_ttl: int, now: UnixTime) -> "AsideRecords":
        """Set the records aside where the node was away too long. Must run before the store is opened. Raises StorageError."""
        last = data.caught_up_at()
        if last is not None and now - last > tombstone_ttl and (data.records / "CURRENT").exists():
            # A rename, so that a crash leaves either all records in the store or none.
            data.doubt_records(now)
            hours = round((now - last) / 3600, 1)
            log.warning(
                "this node was away for longer than deletions are remembered: what it kept counts as hearsay until others "
                "confirm it",
                extra={"hours": hours, "tombstone_ttl": tombstone_ttl},
            )
        return cls(data)

    @property
    def waits(self) -> bool:
        """Whether any records wait for the confirmation of other nodes."""
        return bool(self._doubted)

    def files(self) -> list[tuple[Path, int]]:
        """The files of records without a copy elsewhere, and the number of records in each. The operator deletes them."""
        return [(path, _count(path)) for path in sorted(self._path.glob("set-aside-*.jsonl"))]

    async def step(self, repair: Repair, coordinator: Coordinator, store: Store, on_change: OnChange) -> None:
        """Take the next step, if the repair knows enough. Raises StorageError, OSError.

        `on_change` is called for each record put back into `store`.
        """
        if not self._doubted:
            return
        if repair.doubt is Doubt.ALONE:
            await asyncio.to_thread(self._put_back, store, on_change)
        elif repair.doubt is Doubt.CONFIRMED and repair.caught_up:
            await asyncio.to_thread(self._sort_out, ClusterRecords(repair, coordinator, store))
        else:
            return
        # Only after the step has ended: if it raises, the next one begins again with what is left.
        self._doubted = []
        repair.trust_own()

    def _put_back(self, store: Store, on_change: OnChange) -> None:
        """No other node has anything: put all records back."""
        count = 0
        for path in self._doubted:
            for batch in _batches(path):
                store.apply([Write(key, record) for key, record in batch], UnixTime(time.time()), on_change)
                count += len(batch)
            shutil.rmtree(path)
        log.warning(
            "no other node has caught up on anything: what this one kept counts", extra={"records": count}
        )

    def _sort_out(self, others: "ClusterRecords") -> None:
        """Write the records that other nodes lack to a file."""
        for path in self._doubted:
            target = self._path / f"set-aside-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.jsonl"
            with replacing(target) as file:
                count = exported.write(file, _lacking(path, others))
            if not count:
                target.unlink()
                log.info("others have all that this node kept")
            else:
                log.warning(
                    "records that no other node has, or newer than theirs, were set aside",
                    extra={"records": count, "file": target},
                )
            shutil.rmtree(path)


class ClusterRecords:
    """The records of the cluster: from the own store where this node has caught up, else by a quorum read."""

    def __init__(self, repair: Repair, coordinator: Coordinator, store: Store) -> None:
        self._repair = repair
        self._coordinator = coordinator
        self._store = store

    def lack(self, records: Records) -> list[tuple[bytes, StoredRecord]]:
        """Records without a copy elsewhere in this version or a newer one."""
        now = UnixTime(time.time())
        # The own store first: most records came back by repair, and cost no question to others.
        own = self._store.get_many([key for key, _ in records], now)
        return [
            (key, record)
            for (key, record), mine in zip(records, own, strict=True)
            if not _has(mine, record)
            and (self._repair.is_caught_up(key) or not self._others_have(key, record))
        ]

    def _others_have(self, key: bytes, record: StoredRecord) -> bool:
        for _ in range(TRIES):
            found = self._read(key)
            if found is not None and found.enough:
                return _has(found.record, record)
        return False

    def _read(self, key: bytes) -> ReadOutcome | None:
        ended = threading.Event()
        answers: list[ReadOutcome] = []

        def done(turn: Turn, found: ReadOutcome) -> None:
            answers.append(found)
            ended.set()

        with self._coordinator.turn(UnixTime(time.time())) as turn:
            # Nothing was looked up here, so this node has no say of its own.
            self._coordinator.read(turn, key, None, done, quorum=True, caught_up=False)
        ended.wait(READ_SECONDS)
        return answers[0] if answers else None


def _lacking(path: Path, others: ClusterRecords) -> Iterator[dict[str, object]]:
    for batch in _batches(path):
        # A deletion that all others have forgotten is no loss.
        values = [(key, record) for key, record in batch if not record.deleted]
        for key, record in others.lack(values):
            yield exported.plain(key, record)


def _batches(path: Path) -> Iterator[Records]:
    store = LevelStore(path)
    try:
        records = store.scan(UnixTime(time.time()))
        while batch := list(islice(records, BATCH)):
            yield batch
    finally:
        store.close()


def _has(standing: StoredRecord | None, record: StoredRecord) -> bool:
    return standing is not None and not newer(record, standing)


def _count(path: Path) -> int:
    """The number of records, from the last line that `exported.write` wrote. 0 if there is no such line."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LAST_LINE, 0))
            last = file.read().splitlines()[-1]
        return int(last.removeprefix(b'{"records":').removesuffix(b"}"))
    except (OSError, ValueError, IndexError):
        # A file that was cut off: it is there, and its count is unknown.
        return 0
