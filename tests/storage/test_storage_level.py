"""What LevelDB alone has: files, locks, batches; its damage is in test_storage_damage.py."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import plyvel
import pytest
from level_files import filled, raw_keys
from records import MICROS, NOW, delete, key_of, put

from kdht.errors import StorageError, StorageLocked
from kdht.storage import LevelStore, layout


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "db"


def test_it_is_there_after_opening_again(directory):
    filled(directory)
    store = LevelStore(directory)
    assert store.stats()[:3] == (500, 0, 50_000)
    assert store.stats().disk_bytes > 50_000
    assert "Compactions" in store.stats().detail
    assert store.get(key_of(7), NOW).expiry == int(NOW) + 8
    store.close()
    store.close()


def test_the_expiry_index_holds_what_the_records_say(directory):
    store = LevelStore(directory)
    store.apply([put(1, expiry=100), put(2, expiry=100), put(3, expiry=100), put(4)], 50)
    store.apply([put(1, expiry=200, version=2), put(2, version=2), delete(3, version=2)], 50)
    store.apply([put(4, expiry=300, version=2), delete(5, expiry=400)], 50)
    store.apply([put(6, expiry=500), put(6, expiry=600, version=2), put(1, b"x", 200, version=3)], 50)
    store.close()
    index = [layout.split_expiry_key(key) for key in raw_keys(directory) if key.startswith(layout.EXPIRY)]
    assert index == [(200, key_of(1)), (300, key_of(4)), (400, key_of(5)), (600, key_of(6))]


def test_sweep_drops_index_entries_without_a_record(directory):
    filled(directory, 3)
    raw = plyvel.DB(str(directory))
    raw.delete(layout.RECORD + key_of(0))
    raw.put(layout.expiry_key(9, key_of(1)), b"")
    raw.close()
    store = LevelStore(directory)
    assert store.sweep(NOW + 2) == 1
    store.close()
    assert [key for key in raw_keys(directory) if key.startswith(layout.EXPIRY)] == [
        layout.expiry_key(int(NOW) + 3, key_of(2))
    ]


def test_a_second_process_is_told_who_has_it(directory):
    store = LevelStore(directory)
    script = (
        "import sys\nfrom kdht.storage import LevelStore\nfrom kdht.errors import StorageLocked\n"
        "try: LevelStore(sys.argv[1])\n"
        "except StorageLocked as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, directory], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"another kdhtd uses {directory}: stop it or choose another data directory\n"
    with pytest.raises(StorageLocked):
        LevelStore(directory)
    store.close()


def test_a_file_in_the_way_is_an_error_of_its_own(tmp_path):
    (tmp_path / "db").write_text("in the way")
    for path in (tmp_path / "db", tmp_path / "db" / "below"):
        with pytest.raises(StorageError, match="cannot use the database"):
            LevelStore(path)


def said_to_nobody(directory: Path) -> str:
    """What LevelStore raises in a child without root's privileges that may reach the directory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(directory.parent)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            LevelStore(directory.name)
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


def test_a_read_only_directory_is_an_error_of_its_own(directory):
    filled(directory, 3)
    for path in directory.iterdir():
        path.chmod(0o444)
    for path in (directory, directory.parent):
        path.chmod(0o555)
    said = said_to_nobody(directory)
    directory.parent.chmod(0o755)
    assert said.startswith("StorageError: cannot use the database in db: ")
    assert "Permission denied" in said
    assert "check its permissions" in said


class BatchRecorder:
    """A database that keeps how its batches were asked for."""

    def __init__(self, db: plyvel.DB) -> None:
        self._db = db
        self.asked: list[dict[str, object]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def write_batch(self, **options: object) -> object:
        self.asked.append(options)
        return self._db.write_batch(**options)


def test_writes_wait_for_the_disk_and_sweeps_do_not(directory):
    store = LevelStore(directory)
    store._db = BatchRecorder(store._db)
    store.apply([put(1, expiry=100), delete(2)], 50)
    assert store.sweep(100) == 1
    assert store.drop([(key_of(2), 1)]) == 1
    assert store._db.asked == [{"sync": True}, {"sync": False}, {"sync": False}]
    store.close()


def test_an_unchanged_ledger_is_not_written_again(directory):
    store = LevelStore(directory)
    store.apply([put(1, b"a", version=5), put(2)], NOW)
    store._db = BatchRecorder(store._db)
    again = [put(1, b"a", version=5), put(1, b"old", version=4), put(2, version=9, nonce=3)]
    assert [result.accepted for result in store.apply(again, NOW)] == [True, False, False]
    assert store._db.asked == []
    twice = [put(1, b"a", version=5), put(3), put(3)]
    assert [result.existed for result in store.apply(twice, NOW)] == [True, False, True]
    assert store._db.asked == [{"sync": True}]
    assert store.stats()[:3] == (3, 0, 11)
    store.close()


@pytest.mark.parametrize("count", [300, 6000])
def test_compaction_gives_the_disk_back_and_keeps_the_records(directory, count):
    """Of records that never left one write buffer too: LevelDB leaves the lowest level's tables as they are."""
    store = LevelStore(directory)
    rng = random.Random(count)
    kept = [put(n, rng.randbytes(1000), expiry=int(NOW) + 60) for n in range(20)]
    store.apply(kept, NOW)
    for start in range(20, count, 500):
        stop = min(start + 500, count)
        store.apply([put(n, rng.randbytes(1000), expiry=int(NOW) + 1) for n in range(start, stop)], NOW)
    assert sum(iter(lambda: store.sweep(NOW + 2), 0)) == count - 20
    before = store.stats().disk_bytes
    store.compact()
    after = store.stats().disk_bytes
    assert (before > count * 1000, after < 20 * 1000 + 10_000) == (True, True), (before, after)
    assert [(key, record) for key, record in store.scan(NOW)] == [(w.key, w.record) for w in kept]
    assert store.audit(NOW).problems == []
    store.close()
    store = LevelStore(directory)
    assert (store.stats().records, store.audit(NOW).problems) == (20, [])
    store.close()


def test_a_compaction_of_nothing_is_fine(directory):
    store = LevelStore(directory)
    store.compact()
    store.apply([put(1)], NOW)
    store.compact()
    assert store.get(key_of(1), NOW) is not None
    store.close()


def test_nothing_is_compacted_after_a_failed_write(directory):
    """The log may end in half a record: whatever went behind it would be lost."""
    store = LevelStore(directory)
    store.apply([put(1)], NOW)
    store._failed = True
    with pytest.raises(StorageError, match="no more writes are accepted"):
        store.compact()
    store.close()


def test_after_close_calls_end_in_a_storage_error(directory):
    store = LevelStore(directory)
    store.close()
    for call in (lambda: store.get(key_of(1), NOW), lambda: store.apply([put(1)], NOW), store.stats):
        with pytest.raises(StorageError):
            call()


def test_reads_go_on_beside_writes(directory):
    """A reader sees each record whole, old or new, while its batch is written and synced."""
    store = LevelStore(directory)
    store.apply([put(n, b"0" * 50) for n in range(20)], NOW)
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not stop.is_set():
            for record in store.get_many([key_of(n) for n in range(20)], NOW):
                whole = record is not None and len(set(record.value)) == 1
                torn.extend([] if whole else [record])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(60):
        store.apply([put(n, (b"%d" % (i % 10)) * 50, version=i + 2) for n in range(20)], NOW)
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
    store.close()


def test_a_record_that_gave_its_place_away_is_set_aside(directory):
    store = LevelStore(directory)
    later = NOW + 3600
    store.apply([put(1, b"ahead", version=int(later * 1_000_000))], later)
    assert [problem[:4] for problem in store.audit(NOW).problems] == ["key "]
    store.apply([put(1, b"copy", version=MICROS)], NOW)
    found = store.audit(NOW)
    assert (found.records, found.set_aside, found.problems) == (1, 1, [])
    assert store.set_aside == 1
    store.close()
    raw = plyvel.DB(str(directory))
    assert layout.unpack_record(raw.get(layout.ASIDE + key_of(1))).value == b"ahead"
    raw.close()


class SyncsSeen:
    """A database that notes whether each batch was synced."""

    def __init__(self, db: plyvel.DB) -> None:
        self._db = db
        self.synced: list[bool] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def write_batch(self, *, sync: bool) -> object:
        self.synced.append(sync)
        return self._db.write_batch(sync=sync)


def test_soft_writes_are_synced_with_the_next_hard_one(directory):
    def soft(number: int, version: int = 1):
        return put(number, version=version)._replace(soft=True)

    store = LevelStore(directory)
    db = store._db = SyncsSeen(store._db)
    store.apply([soft(1), soft(2)], NOW)
    assert [db.synced, store.syncs] == [[False], 0]
    assert store.get(key_of(2), NOW).value == b"value"
    store.apply([soft(1)], NOW)  # a duplicate
    assert db.synced == [False]
    store.apply([soft(3), put(4)], NOW)  # one that is not soft has all of its group synced
    assert [db.synced, store.syncs] == [[False, True], 1]
    # A duplicate of what is on the disk needs nothing. One of a soft write has to wait for its sync.
    store.apply([put(1)], NOW)
    assert db.synced == [False, True]
    store.apply([soft(1, version=2)], NOW)
    store.apply([put(1, version=2)], NOW)
    assert [db.synced, store.syncs] == [[False, True, False, True], 2]
    store.apply([put(1, version=2)], NOW)
    assert store.syncs == 2
    store._db = db._db
    store.close()
    again = LevelStore(directory)
    assert again.get(key_of(1), NOW).version == 2
    assert again.stats()[:2] == (4, 0)
    again.close()
