"""A database that is opened again after a failed write, under readers."""

import threading

import pytest
from level_files import full_disk
from records import NOW, key_of, put

from kdht.errors import StorageError
from kdht.storage import LevelStore, reopen
from kdht.storage._cache import RecordCache


@pytest.fixture
def store(tmp_path):
    opened = LevelStore(tmp_path / "db")
    yield opened
    opened.close()


def fail_a_write(store: LevelStore, monkeypatch: pytest.MonkeyPatch, *, written: bool = False) -> None:
    """As LevelDB fails on a full disk; `written`: after the log had it all."""
    original = LevelStore._write

    def broken(self, change, replaced, sync):
        if written:
            original(self, change, replaced, sync)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LevelStore, "_write", broken)
        with pytest.raises(StorageError, match="No space left"):
            store.apply([put(7, b"failed")], NOW)


def test_writes_go_on_after_the_disk_has_room_again(store, monkeypatch):
    store.apply([put(1, b"confirmed")], NOW)
    fail_a_write(store, monkeypatch)
    assert store.failed
    with pytest.raises(StorageError, match="no more writes are accepted for now"):
        store.apply([put(2)], NOW)
    assert store.get(key_of(1), NOW).value == b"confirmed"
    assert store.recover(NOW, pytest.fail)
    assert not store.failed
    assert store.apply([put(2)], NOW)[0].accepted
    assert store.get(key_of(1), NOW).value == b"confirmed"
    assert store.get(key_of(7), NOW) is None
    assert store.audit(NOW).problems == []


def test_a_write_reported_as_failed_is_found_at_recovery(store, monkeypatch):
    told = []
    fail_a_write(store, monkeypatch, written=True)
    assert store.recover(NOW, lambda key, record: told.append((key, record.value)))
    assert told == [(key_of(7), b"failed")]
    assert store.audit(NOW).problems == []


def test_a_read_only_disk_still_serves_reads(store, monkeypatch):
    store.apply([put(1, b"confirmed")], NOW)
    fail_a_write(store, monkeypatch)
    monkeypatch.setattr("kdht.storage.level.takes_writes", lambda path: False)
    assert not store.recover(NOW, pytest.fail)
    assert store.get(key_of(1), NOW).value == b"confirmed"


def test_tries_are_spaced():
    tries = reopen.Reopening()
    due = [second for second in range(200) if tries.is_due(NOW + second)]
    assert due == [0, 2, 5, 10, 19, 36, 69, 130, 191]


def test_a_database_in_use_is_not_closed(store, monkeypatch):
    store.apply([put(n, b"confirmed") for n in range(3)], NOW)
    fail_a_write(store, monkeypatch)
    monkeypatch.setattr(reopen, "LOOKS", 3)
    walk = store.scan(NOW)
    next(walk)
    assert not store.recover(NOW, pytest.fail)
    assert len(list(walk)) == 2
    assert store.recover(NOW + 60, pytest.fail)


def test_readers_on_other_threads_meet_no_closed_database(store, monkeypatch):
    store.apply([put(n, b"confirmed") for n in range(50)], NOW)
    reader, ended = store.reader(RecordCache(1 << 20), lambda key: True), threading.Event()
    found: list[object] = []

    def read() -> None:
        while not ended.is_set():
            found.extend(reader.of([key_of(n) for n in range(50)], [1104] * 50, NOW))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        fail_a_write(store, monkeypatch)
        now = NOW + 100 * number
        while not store.recover(now, pytest.fail):
            now += 61
        assert store.apply([put(100 + number)], now)[0].accepted
    ended.set()
    for thread in threads:
        thread.join()
    assert {record[3] for record in found if record is not None} == {b"confirmed"}
    assert store.audit(NOW).problems == []


def test_a_database_that_does_not_open_again_is_tried_later(store, monkeypatch):
    fail_a_write(store, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(
            "kdht.storage.level.files.check_tables",
            lambda db, path: (_ for _ in ()).throw(OSError(5, "I/O error")),
        )
        with pytest.raises(StorageError, match="I/O error"):
            store.recover(NOW, pytest.fail)
    with pytest.raises(StorageError):
        store.get(key_of(1), NOW)
    assert store.recover(NOW + 60, pytest.fail)
    assert store.apply([put(1)], NOW)[0].accepted


def test_a_torn_log_record_loses_no_later_write(tmp_path):
    """As LevelDB itself leaves it on a full disk."""
    store = LevelStore(tmp_path / "db")
    store.apply([put(1, b"before")], NOW)
    with full_disk(tmp_path / "db"), pytest.raises(StorageError, match="space"):
        store.apply([put(2)], NOW)
    assert store.recover(NOW, pytest.fail)
    for number in range(3, 103):
        assert store.apply([put(number)], NOW)[0].accepted
    store.close()
    store = LevelStore(tmp_path / "db")
    assert [key for key, _ in store.scan(NOW)] == [key_of(1), *map(key_of, range(3, 103))]
    assert store.audit(NOW).problems == []
    store.close()
