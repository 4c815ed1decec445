"""Reads the stores of nodes from their disks after their daemons have ended."""

import time
from collections.abc import Iterable

from kdht.lab.cluster import LabNode
from kdht.storage import LevelStore, StoredRecord
from kdht.times import UnixTime

Census = dict[bytes, dict[str, StoredRecord]]
"""For each key, the nodes' records, by the node's name."""


def take(nodes: Iterable[LabNode]) -> Census:
    """All live records and tombstones. The daemons must have ended: LevelDB lets one process in.

    Raises StorageError for an unreadable database.
    """
    found: Census = {}
    for node in nodes:
        store = LevelStore(node.records)
        try:
            for key, record in store.scan(UnixTime(time.time())):
                found.setdefault(key, {})[node.name] = record
        finally:
            store.close()
    return found


def closest(nodes: Iterable[tuple[bytes, str]], key: bytes, count: int) -> list[str]:
    """The names of the `count` nodes nearest to the key. `nodes` are pairs (ID, name)."""
    number = int.from_bytes(key, "big")
    near = sorted(nodes, key=lambda node: int.from_bytes(node[0], "big") ^ number)
    return [name for _, name in near[:count]]
