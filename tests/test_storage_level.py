"""What LevelDB alone has: files, damage, locks, errors of the disk."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import plyvel
import pytest
from records import MICROS, NOW, delete, key_of, put

from kdht.errors import StorageDamaged, StorageError, StorageLocked
from kdht.storage import LevelStore, Result, layout


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "db"


def filled(directory: Path, count: int = 500, tables: bool = True) -> None:
    """A database whose records lie in a table, or in the log only."""
    store = LevelStore(directory)
    rng = random.Random(1)
    writes = [put(n, rng.randbytes(100), expiry=int(NOW) + 1 + n) for n in range(count)]
    for start in range(0, count, 1000):
        store.apply(writes[start : start + 1000], NOW)
    store.close()
    if tables:
        raw = plyvel.DB(str(directory))
        raw.compact_range()
        raw.close()


def raw_keys(directory: Path) -> list[bytes]:
    raw = plyvel.DB(str(directory))
    keys = list(raw.iterator(include_value=False))
    raw.close()
    return keys


def test_it_is_there_after_opening_again(directory):
    filled(directory)
    store = LevelStore(directory)
    assert store.stats()[:2] == (500, 50_000)
    assert store.stats().disk_bytes > 50_000
    assert "Compactions" in store.stats().detail
    assert store.get(key_of(7), NOW).expiry == int(NOW) + 8
    store.close()
    store.close()


def test_the_expiry_index_holds_what_the_records_say(directory):
    store = LevelStore(directory)
    store.apply([put(1, expiry=100), put(2, expiry=100), put(3, expiry=100), put(4)], 50)
    store.apply([put(1, expiry=200), put(2), delete(3), put(4, expiry=300)], 50)
    store.close()
    index = [layout.split_expiry_key(key) for key in raw_keys(directory) if key.startswith(layout.EXPIRY)]
    assert index == [(200, key_of(1)), (300, key_of(4))]


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


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(byte ^ 0x5A for byte in content[third : 2 * third])
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        ("CURRENT", empty),
        ("CURRENT", cut),
        ("CURRENT", garble),
        ("CURRENT", Path.unlink),
        ("MANIFEST-*", empty),
        ("MANIFEST-*", cut),
        ("MANIFEST-*", garble),
        ("MANIFEST-*", Path.unlink),
        ("*.ldb", empty),
        ("*.ldb", cut),
        ("*.ldb", Path.unlink),
    ],
)
def test_a_damaged_database_does_not_open(directory, pattern, harm):
    filled(directory)
    harm(only(directory, pattern))
    with pytest.raises(StorageDamaged, match="move it away") as caught:
        LevelStore(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_cut_anywhere_is_damage_or_harmless(directory, tmp_path):
    """Cut between two of its records, it is whole to LevelDB, and the tables named later are not there."""
    store = LevelStore(directory)
    for generation in range(3):
        store.apply([put(n, b"%d" % generation, expiry=int(NOW) + 1) for n in range(500)], NOW)
        store._db.compact_range()
    store.close()
    whole = only(directory, "MANIFEST-*").stat().st_size
    for length in range(0, whole, 5):
        copy = tmp_path / str(length)
        shutil.copytree(directory, copy)
        os.truncate(only(copy, "MANIFEST-*"), length)
        try:
            store = LevelStore(copy)
        except StorageDamaged:
            continue
        assert sum(1 for _ in store.scan(NOW)) == 500, f"cut at {length} of {whole} bytes"
        store.close()


def test_one_short_table_among_others_does_not_open(directory):
    """LevelDB's iterators would show nothing where it was."""
    filled(directory, 25_000)
    last = sorted(directory.glob("*.ldb"))[-1]
    assert len(list(directory.glob("*.ldb"))) > 1
    cut(last)
    with pytest.raises(StorageDamaged, match=rf"{last.name}: not as long as written"):
        LevelStore(directory)


def test_a_lost_current_file_costs_no_tables(directory):
    filled(directory)
    current = directory / "CURRENT"
    kept = current.read_bytes()
    current.unlink()
    with pytest.raises(StorageDamaged):
        LevelStore(directory)
    current.write_bytes(kept)
    store = LevelStore(directory)
    assert store.stats().records == 500
    store.close()


def test_a_garbled_log_does_not_open(directory):
    filled(directory, tables=False)
    garble(only(directory, "*.log"))
    with pytest.raises(StorageDamaged):
        LevelStore(directory)


def test_a_garbled_table_fails_its_readers_not_the_process(directory):
    filled(directory)
    garble(only(directory, "*.ldb"))
    store = LevelStore(directory)
    with pytest.raises(StorageDamaged):
        store.get_many([key_of(number) for number in range(500)], NOW)
    with pytest.raises(StorageDamaged):
        list(store.scan(NOW))
    store.close()


@pytest.mark.parametrize("length", [0, 1, 21, 22, 60, 121, 123, 300])
def test_a_record_of_another_length_is_damage(directory, length):
    filled(directory, 3)
    raw = plyvel.DB(str(directory))
    record = raw.get(layout.RECORD + key_of(1))
    assert len(record) == 122
    raw.put(layout.RECORD + key_of(1), (record + bytes(200))[:length])
    raw.close()
    store = LevelStore(directory)
    calls = [
        lambda: store.get(key_of(1), NOW),
        lambda: store.get_many([key_of(0), key_of(1)], NOW),
        lambda: list(store.scan(NOW)),
        lambda: store.apply([put(1)], NOW),
        lambda: store.sweep(NOW + 100),
    ]
    for call in calls:
        with pytest.raises(StorageDamaged):
            call()
    assert store.get(key_of(0), NOW) is not None
    store.close()


@pytest.mark.parametrize("value", [b"", b"\0\0\0", b"\0\0\0\0\0"])
def test_a_garbled_format_is_damage(directory, value):
    filled(directory, 3)
    raw = plyvel.DB(str(directory))
    raw.put(layout.FORMAT_KEY, value)
    raw.close()
    with pytest.raises(StorageDamaged):
        LevelStore(directory)


def test_a_newer_format_is_named(directory):
    filled(directory, 3)
    raw = plyvel.DB(str(directory))
    raw.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(99))
    raw.close()
    with pytest.raises(StorageError, match="format 99") as caught:
        LevelStore(directory)
    assert caught.tb is not None
    assert layout.FORMAT_KEY in raw_keys(directory), "the lock was not given back"


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


@pytest.fixture
def full_disk():
    """Gives a function after which no file of this process may grow past that size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_after_a_failed_write_nothing_more_is_confirmed(directory, full_disk):
    store = LevelStore(directory)
    store.apply([put(1, b"before")], NOW)
    # The log ends within the next record: what LevelDB would put behind it is lost.
    full_disk(only(directory, "*.log").stat().st_size + 20)
    with pytest.raises(StorageError, match="space"):
        store.apply([put(2)], NOW)
    full_disk(resource.RLIM_INFINITY)
    with pytest.raises(StorageError, match="restart"):
        store.apply([put(3)], NOW)
    assert store.get(key_of(1), NOW).value == b"before"
    assert store.get(key_of(2), NOW) is None
    store.close()
    store = LevelStore(directory)
    assert [key for key, _ in store.scan(NOW)] == [key_of(1)]
    assert store.apply([put(2)], NOW) == [Result(False, MICROS)]
    store.close()


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
    assert store._db.asked == [{"sync": True}, {"sync": False}]
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
        store.apply([put(n, (b"%d" % (i % 10)) * 50) for n in range(20)], NOW)
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
    store.close()
