"""Tells clients that watch a key of its changes."""

from kdht.node.replicas.leases import Leases
from kdht.node.replies import Replies
from kdht.storage import StoredRecord
from kdht.times import UnixTime


class Notifier:
    """One node's. Thread-safe."""

    def __init__(self, leases: Leases, replies: Replies) -> None:
        self._leases = leases
        self._replies = replies

    def changed(self, key: bytes, record: StoredRecord, now: UnixTime) -> None:
        """The store has taken a record: each client with a lease gets one more reply to its WATCH."""
        watching = self._leases.watching(key)
        if watching:
            batch = self._replies.batch(now)
            for request in watching:
                batch.add_record(request, record)
            self._replies.send(batch)
