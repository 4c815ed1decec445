"""kill -9 while groups of writes are on their way: what was confirmed is there, whole."""

import random
import subprocess
import sys

import pytest
from records import NOW, key_of

from kdht.storage import LevelStore

KEYS = 60
ROUNDS = 20

# Writes generation after generation over all keys, in jobs of one to eight; a line on
# standard output says which job is confirmed. A value is made of its generation alone.
WRITER = """
import random, sys
from kdht.storage import GroupWriter, LevelStore, Write

path, seed, first, keys, now = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
rng = random.Random(seed)
writer = GroupWriter(LevelStore(path), max_group=32, max_waiting=64)

def confirm(job):
    def done(outcome):
        assert isinstance(outcome, list), outcome
        sys.stdout.write("".join(f"{generation} {key}\\n" for generation, key in job))
        sys.stdout.flush()
    return done

generation = first
while True:
    generation += 1
    job = [(generation, key) for key in rng.sample(range(keys), rng.randrange(1, 9))]
    writes = [
        Write(key.to_bytes(20, "big"), generation.to_bytes(4, "big") * rng.randrange(1, 200), expiry=int(now) + 1000)
        for _, key in job
    ]
    while not writer.submit(writes, now, confirm(job)):
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


@pytest.mark.parametrize("seed", [1])
def test_nothing_confirmed_is_missing_or_torn(tmp_path, seed):
    rng = random.Random(seed)
    directory = tmp_path / "db"
    confirmed: dict[int, int] = {}
    generation = 0
    for round_number in range(ROUNDS):
        said = killed_after(rng.randrange(1, 300), directory, seed + round_number, generation)
        confirmed.update({key: made for made, key in said})
        store = LevelStore(directory)
        found = {key: store.get(key_of(key), NOW) for key in range(KEYS)}
        for key, made in confirmed.items():
            assert found[key] is not None, f"round {round_number}: key {key} of generation {made} is gone"
        for key, record in found.items():
            if record is not None:
                made = int.from_bytes(record.value[:4], "big")
                assert record.value == record.value[:4] * (len(record.value) // 4), "torn"
                assert made >= confirmed.get(key, 0), f"round {round_number}: key {key} went back to {made}"
                generation = max(generation, made)
        assert store.stats().records == sum(record is not None for record in found.values())
        store.close()
    store = LevelStore(directory)
    records = store.stats().records
    assert store.sweep(NOW + 1001) == records >= len(confirmed) > 0, "the index by expiry lost some"
    store.close()
