"""Files of LevelDB that were lost, cut or garbled, a failing disk, databases of another format."""

import os
import shutil
from pathlib import Path

import plyvel
import pytest
from level_files import filled, full_disk, only, raw_keys
from records import NOW, delete, key_of, put

from kdht.errors import StorageDamaged, StorageError
from kdht.storage import LevelStore, Result, layout


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "db"


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
        store.apply([put(n, expiry=int(NOW) + 1, version=generation + 1) for n in range(500)], NOW)
        store.compact()
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
        lambda: store.drop([(key_of(1), 1)]),
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


@pytest.mark.parametrize("count", [0, 500])
def test_format_1_is_upgraded(directory, count):
    """It had the same records; only the counts are of another shape."""
    filled(directory, count)
    raw = plyvel.DB(str(directory))
    raw.put(layout.FORMAT_KEY, (1).to_bytes(4, "big"))
    if count:
        raw.put(layout.COUNTS_KEY, count.to_bytes(8, "big") + (100 * count).to_bytes(8, "big"))
    raw.close()
    for _ in range(2):
        store = LevelStore(directory)
        assert store.stats()[:3] == (count, 0, 100 * count)
        assert sum(1 for _ in store.scan(NOW)) == count
        store.close()
    raw = plyvel.DB(str(directory))
    assert raw.get(layout.FORMAT_KEY) == layout.FORMAT_VALUE.pack(layout.FORMAT)
    raw.close()
    store = LevelStore(directory)
    store.apply([delete(7, version=2)], NOW)
    assert store.stats()[:2] == (max(count - 1, 0), 1)
    store.close()


@pytest.mark.parametrize("length", [0, 15, 17, 24])
def test_format_1_with_garbled_counts_is_damage(directory, length):
    filled(directory, 3)
    raw = plyvel.DB(str(directory))
    raw.put(layout.FORMAT_KEY, (1).to_bytes(4, "big"))
    raw.put(layout.COUNTS_KEY, bytes(length))
    raw.close()
    with pytest.raises(StorageDamaged):
        LevelStore(directory)


def test_after_a_failed_write_nothing_more_is_confirmed(directory):
    store = LevelStore(directory)
    store.apply([put(1, b"before")], NOW)
    # What LevelDB would put behind half a record is lost.
    with full_disk(directory), pytest.raises(StorageError, match="space"):
        store.apply([put(2)], NOW)
    with pytest.raises(StorageError, match="no more writes are accepted for now"):
        store.apply([put(3)], NOW)
    assert store.get(key_of(1), NOW).value == b"before"
    assert store.get(key_of(2), NOW) is None
    store.close()
    store = LevelStore(directory)
    assert [key for key, _ in store.scan(NOW)] == [key_of(1)]
    assert store.apply([put(2)], NOW) == [Result(True, False, 1)]
    store.close()


def test_the_same_again_is_refused_too_after_a_failed_write(directory):
    """What stands may not be safe: LevelDB may not have said all about why it failed."""
    store = LevelStore(directory)
    store.apply([put(1)], NOW)
    with full_disk(directory), pytest.raises(StorageError, match="space"):
        store.apply([put(2)], NOW)
    with pytest.raises(StorageError, match="no more writes are accepted for now"):
        store.apply([put(1)], NOW)
    store.close()


def test_a_failed_write_changes_and_reports_nothing(directory):
    store = LevelStore(directory)
    store.apply([put(1)], NOW)
    before = list(store.scan(NOW))
    heard = []
    with full_disk(directory), pytest.raises(StorageError, match="space"):
        store.apply([put(2)], NOW, lambda key, record: heard.append(key))
    assert list(store.scan(NOW)) == before
    assert store.stats()[:3] == (1, 0, 5)
    assert heard == []
    store.close()
