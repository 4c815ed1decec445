"""The witness: lost logs of LevelDB are damage, a killed process is not."""

import random
import subprocess
import sys
import time
from pathlib import Path

import plyvel
import pytest
from level_files import filled, only
from records import NOW, key_of, put

from kdht.errors import StorageDamaged
from kdht.storage import LevelStore, witness
from kdht.storage.witness import BLOCK


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "db"


def count(directory: Path) -> int:
    store = LevelStore(directory)
    try:
        return store.stats().records
    finally:
        store.close()


def one_by_one(directory: Path, first: int, last: int) -> None:
    """Records in groups of their own, as most are written."""
    store = LevelStore(directory)
    for number in range(first, last):
        store.apply([put(number, bytes(300))], NOW)
    store.close()


def no_logs(directory: Path) -> None:
    for path in directory.glob("*.log"):
        path.unlink()


def empty_logs(directory: Path) -> None:
    for path in directory.glob("*.log"):
        path.write_bytes(b"")


def zeros(directory: Path) -> None:
    for path in directory.glob("*.log"):
        path.write_bytes(bytes(path.stat().st_size))


def zeros_at_the_end(directory: Path) -> None:
    log = only(directory, "*.log")
    log.write_bytes(log.read_bytes()[:-2000] + bytes(2000))


def zeros_in_the_middle(directory: Path) -> None:
    """A block that begins and ends within it, as a disk loses one."""
    log = only(directory, "*.log")
    content = log.read_bytes()
    assert len(content) > 3 * BLOCK
    log.write_bytes(content[:BLOCK] + bytes(BLOCK) + content[2 * BLOCK :])


HARMS = [no_logs, empty_logs, zeros, zeros_at_the_end]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("tables", [False, True])
def test_a_lost_log_is_damage(directory, harm, tables):
    if tables:
        filled(directory, 100)
    one_by_one(directory, 1000, 1500)
    harm(directory)
    for _ in range(2):  # the first try has made a new log
        with pytest.raises(StorageDamaged, match="move it away to start empty") as caught:
            LevelStore(directory)
        if harm is not zeros_at_the_end:  # LevelDB itself finds half a group
            assert f"rm {directory / witness.NAME}" in str(caught.value)


def test_zeros_in_the_middle_of_a_log_are_damage(directory):
    one_by_one(directory, 0, 400)
    zeros_in_the_middle(directory)
    with pytest.raises(StorageDamaged):
        LevelStore(directory)


def test_a_hole_between_whole_batches_is_found_in_the_log(tmp_path):
    path = str(tmp_path)
    one_by_one(tmp_path, 0, 400)
    log = only(tmp_path, "*.log")
    content = log.read_bytes()
    kept = [each for each in witness.batches(content) if each]
    assert len(kept) >= 400
    # Whole batches as LevelDB writes them, each alone in a block: one of these blocks is lost.
    blocks = [bytes(4) + len(each).to_bytes(2, "little") + b"\x01" + each for each in kept]
    padded = [each.ljust(BLOCK, b"\0") for each in blocks]
    log.write_bytes(b"".join(padded))
    witness.check_logs(path)
    for lost in (10, 200, 398):
        log.write_bytes(b"".join([*padded[:lost], bytes(BLOCK), *padded[lost + 1 :]]))
        with pytest.raises(StorageDamaged, match="1 groups of writes in the middle of its log"):
            witness.check_logs(path)


def test_a_compacted_database_needs_no_log(directory):
    filled(directory, 500)
    no_logs(directory)
    assert count(directory) == 500


def test_an_operator_may_go_on_with_what_is_left(directory):
    filled(directory, 100)
    one_by_one(directory, 1000, 1500)
    no_logs(directory)
    with pytest.raises(StorageDamaged):
        LevelStore(directory)
    (directory / witness.NAME).unlink()
    assert count(directory) == 100
    assert count(directory) == 100


@pytest.mark.parametrize("content", [b"", b"serial", b"serial 99999999999999999999999\n", b"\xff" * 100])
def test_a_witness_that_cannot_be_read_is_no_damage(directory, content):
    one_by_one(directory, 0, 10)
    (directory / witness.NAME).write_bytes(content)
    assert count(directory) == 10


def test_a_database_without_serials_is_taken_over(directory):
    one_by_one(directory, 0, 10)
    raw = plyvel.DB(str(directory))
    raw.delete(b"mserial")
    raw.close()
    (directory / witness.NAME).unlink()
    one_by_one(directory, 10, 20)
    no_logs(directory)
    with pytest.raises(StorageDamaged):
        LevelStore(directory)


def test_a_full_disk_fails_no_write_for_the_witness(directory, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(witness.os, "replace", full)
    one_by_one(directory, 0, 10)
    assert count(directory) == 10


def test_the_witness_is_behind_by_a_second_at_most(directory):
    store = LevelStore(directory)
    for number in range(100):
        store.apply([put(number, b"")], NOW + number / 10)
        assert number + 1 - 10 <= witness.read(str(directory)) <= number + 1
    store.close()
    assert witness.read(str(directory)) == 100


# Sweeps and drops are not synced; the clock runs fast, so that the witness is written in most groups.
WRITER = """
import random, sys, time
from kdht.storage import LevelStore, StoredRecord, Write

rng, store, now = random.Random(int(sys.argv[2])), LevelStore(sys.argv[1]), float(sys.argv[3])
print("open", flush=True)
while True:
    now += rng.random()
    keys = [rng.randrange(200).to_bytes(20, "big") for _ in range(rng.randrange(1, 9))]
    version = int(now * 1000000)
    store.apply([Write(key, StoredRecord(version, int(now) + 20, 0, bytes(rng.randrange(900)))) for key in keys], now)
    if rng.random() < 0.2:
        store.sweep(now, 50)
    if rng.random() < 0.1:
        store.drop([(keys[0], version)])
"""


@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_no_kill_is_taken_for_damage(directory, kills):
    rng, now = random.Random(kills), NOW
    for round_number in range(kills):
        command = [sys.executable, "-c", WRITER, str(directory), str(round_number), str(now)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            time.sleep(rng.random() * 0.15)
            child.kill()
        store = LevelStore(directory)
        assert 0 < witness.read(str(directory)) <= store._serial
        if rng.random() < 0.5:
            store.get(key_of(1), now)
        store.close()
        now += 3600
