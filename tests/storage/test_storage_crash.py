"""kill -9 while groups of writes are on their way: what was confirmed is there, whole."""

import random
import subprocess
import sys

import pytest
from records import NOW, key_of

from kdht.storage import LevelStore, StoredRecord

pytestmark = pytest.mark.slow

KEYS = 60

# Writes generation after generation over all keys, in jobs of one to eight, one in five a
# deletion, and some jobs twice; a line on standard output says which job is confirmed. The
# generation is a record's version, and what its value is made of.
WRITER = """
import random, sys
from kdht.storage import GroupWriter, LevelStore, StoredRecord, Write

path, seed, first, keys, now = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
rng = random.Random(seed)
writer = GroupWriter(LevelStore(path), lambda key, record: None, max_group=32, max_waiting=64)

def confirm(job):
    def done(outcome):
        assert isinstance(outcome, list), outcome
        sys.stdout.write("".join(f"{generation} {key}\\n" for generation, key in job))
        sys.stdout.flush()
    return done

def write(generation, key):
    gone = (generation + key) % 5 == 0
    value = b"" if gone else generation.to_bytes(4, "big") * (1 + generation * key % 200)
    return Write(key.to_bytes(20, "big"), StoredRecord(generation, int(now) + 1000, 2 if gone else 0, value))

generation = first
while True:
    generation += 1
    job = [(generation, key) for key in rng.sample(range(keys), rng.randrange(1, 9))]
    for _ in range(rng.choice((1, 1, 2))):
        while not writer.submit([write(*part) for part in job], now, confirm(job)):
            pass
"""


def killed_after(lines: int, directory, seed: int, first: int) -> list[tuple[int, int]]:
    """Run the writer, kill it once it confirmed that many writes; all (generation, key) that it confirmed."""
    command = [sys.executable, "-c", WRITER, str(directory), str(seed), str(first), str(KEYS), str(NOW)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    whole = [line for line in said if line.endswith("\n")]
    assert len(whole) >= lines, "the writer ended by itself"
    return [(int(generation), int(key)) for generation, key in map(str.split, whole)]


def is_whole(key: int, record: StoredRecord) -> bool:
    """Whether the writer made it so."""
    if (record.version + key) % 5 == 0:
        return record.deleted and record.value == b""
    wanted = record.version.to_bytes(4, "big") * (1 + record.version * key % 200)
    return not record.deleted and record.value == wanted


@pytest.mark.parametrize(
    ("seed", "kills"), [(1, 15), pytest.param(2, 100, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_nothing_confirmed_is_missing_or_torn(tmp_path, seed, kills):
    rng = random.Random(seed)
    directory = tmp_path / "db"
    confirmed: dict[int, int] = {}
    generation = 0
    for round_number in range(kills):
        said = killed_after(rng.randrange(1, 300), directory, seed + round_number, generation)
        for made, key in said:
            confirmed[key] = max(confirmed.get(key, 0), made)
        store = LevelStore(directory)
        records = list(store.scan(NOW))
        found = {int.from_bytes(key, "big"): record for key, record in records}
        for key, made in confirmed.items():
            assert key in found, f"round {round_number}: key {key} of generation {made} is gone"
            assert found[key].version >= made, (
                f"round {round_number}: key {key} of generation {made} is older"
            )
        assert [key for key, record in found.items() if not is_whole(key, record)] == [], "torn"
        assert [store.get(key_of(key), NOW) for key in found] == list(found.values())
        tombstones = sum(record.deleted for record in found.values())
        assert store.stats()[:2] == (len(found) - tombstones, tombstones)
        generation = max(record.version for record in found.values())
        store.close()
    store = LevelStore(directory)
    records, tombstones = store.stats()[:2]
    assert store.sweep(NOW + 1001) == records + tombstones >= len(confirmed) > 0, "the index lost some"
    store.close()
