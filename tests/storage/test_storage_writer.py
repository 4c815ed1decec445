"""Grouped writes: order, bounds, failures; against a store whose writes wait for the test. In Cython, and in plain Python."""

import os
import threading

import pytest
from plain_writer import PlainGroupWriter
from records import NOW, key_of, put

from kdht.errors import StorageDamaged, StorageError
from kdht.storage import GroupWriter, InlineWriter, LevelStore, MemoryStore, Result, StoredRecord, Write


def nobody(key, record):
    """Is told of changes."""


class GatedStore(MemoryStore):
    """A store whose writes wait for the gate, and that keeps the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.raises: dict[bytes, StorageError] = {}

    def apply(self, writes, now, on_change=None):
        self.entered.release()
        assert self.gate.acquire(timeout=30)
        self.sizes.append(len(writes))
        for write in writes:
            if write.key in self.raises:
                raise self.raises[write.key]
        return super().apply(writes, now, on_change)


@pytest.fixture(params=[GroupWriter, PlainGroupWriter])
def gated(request):
    store = GatedStore()
    writer = request.param(store, nobody, max_group=4, max_waiting=6)
    yield store, writer
    for _ in range(100):
        store.gate.release()
    writer.close()


def test_waiting_writes_become_groups_confirmed_in_order(gated):
    store, writer = gated
    told: list[tuple[int, object]] = []
    assert writer.submit([put(0)], NOW, lambda outcome: told.append((0, outcome)))
    assert store.entered.acquire(timeout=30)
    sizes = [1, 2, 2, 1]
    for number, size in enumerate(sizes, 1):
        writes = [put(10 * number + i) for i in range(size)]
        assert writer.submit(writes, NOW, lambda outcome, number=number: told.append((number, outcome)))
    assert writer.stats().waiting == 6
    assert not writer.submit([put(99)], NOW, lambda outcome: told.append((99, outcome)))
    assert told == []
    for _ in range(3):
        store.gate.release()
    writer.close()
    assert store.sizes == [1, 3, 3]
    assert [number for number, _ in told] == [0, 1, 2, 3, 4]
    assert [len(outcome) for _, outcome in told] == [1, *sizes]
    assert writer.stats()[1:] == (3, 7, 1, 0)


def test_its_thread_is_scheduled_like_any_other():
    """With SCHED_BATCH a woken writer may wait for milliseconds behind a busy process."""
    policies: list[int] = []
    writer = GroupWriter(MemoryStore(), nobody)
    assert writer.submit([put(0)], NOW, lambda outcome: policies.append(os.sched_getscheduler(0)))
    writer.close()
    assert policies == [os.SCHED_OTHER]


def test_a_closed_writer_takes_nothing(gated):
    store, writer = gated
    store.gate.release()
    told: list[object] = []
    assert writer.submit([put(1)], NOW, told.append)
    writer.close()
    assert told == [[Result(True, False, 1)]]
    assert not writer.submit([put(2)], NOW, told.append)
    assert len(told) == 1


def test_one_damaged_record_fails_alone(gated):
    store, writer = gated
    store.raises[key_of(2)] = StorageDamaged("unreadable")
    told: list[object] = []
    assert writer.submit([put(0)], NOW, told.append)
    assert store.entered.acquire(timeout=30)
    for number in (1, 2, 3):
        assert writer.submit([put(number)], NOW, told.append)
    for _ in range(10):
        store.gate.release()
    writer.close()
    assert [type(outcome) for outcome in told] == [list, list, StorageDamaged, list]
    assert (writer.stats().written, writer.stats().failed) == (3, 1)


def test_a_failed_write_fails_its_group_and_the_thread_lives_on(gated):
    store, writer = gated
    store.raises[key_of(1)] = StorageError("disk full")
    told: list[object] = []
    done = threading.Event()
    for _ in range(10):
        store.gate.release()
    assert writer.submit([put(1)], NOW, told.append)
    assert writer.submit([put(2)], NOW, lambda outcome: (told.append(outcome), done.set()))
    assert done.wait(30)
    assert isinstance(told[0], StorageError)


def test_a_callback_that_raises_hurts_no_other(gated, caplog):
    store, writer = gated
    for _ in range(10):
        store.gate.release()
    told: list[object] = []
    assert writer.submit([put(1)], NOW, lambda outcome: 1 / 0)
    assert writer.submit([put(2)], NOW, told.append)
    writer.close()
    assert told == [[Result(True, False, 1)]]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("writer_of", [GroupWriter, PlainGroupWriter, InlineWriter])
def test_a_write_that_does_not_fit_is_the_callers_error(writer_of):
    writer = writer_of(MemoryStore(), nobody)
    with pytest.raises(ValueError, match="key"):
        writer.submit([Write(b"short", StoredRecord(1, 0, 0, b""))], NOW, lambda outcome: None)
    if not isinstance(writer, InlineWriter):
        writer.close()


def test_the_inline_writer_reports_failures_too(tmp_path):
    store = LevelStore(tmp_path / "db")
    store.close()
    told: list[object] = []
    assert InlineWriter(store, nobody).submit([put(1)], NOW, told.append)
    assert isinstance(told[0], StorageError)
