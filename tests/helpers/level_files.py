"""A database's files, for the tests of LevelStore."""

import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import plyvel
from records import NOW, put

from kdht.storage import LevelStore


def filled(directory: Path, count: int = 500, tables: bool = True) -> None:
    """A database whose records lie in a table, or in the log only."""
    store = LevelStore(directory)
    rng = random.Random(1)
    writes = [put(n, rng.randbytes(100), expiry=int(NOW) + 1 + n) for n in range(count)]
    for start in range(0, count, 1000):
        store.apply(writes[start : start + 1000], NOW)
    if tables:
        store.compact()
    store.close()


def raw_keys(directory: Path) -> list[bytes]:
    raw = plyvel.DB(str(directory))
    keys = list(raw.iterator(include_value=False))
    raw.close()
    return keys


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


@contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """The log ends within the next record: no file of this process may grow past that size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (only(directory, "*.log").stat().st_size + 20, limits[1]))
    try:
        yield
    finally:  # at once: pytest too writes to files
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
