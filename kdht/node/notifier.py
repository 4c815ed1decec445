"""Tells clients that watch a key, or a set, of its changes."""

from kdht.datapath.base import Datagram
from kdht.node.replicas.leases import Leases
from kdht.node.replies import Replies
from kdht.node.sets.news import news_of, watched_at
from kdht.storage import StoredRecord
from kdht.times import UnixTime
from kdht.wire._shared import Status


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

    def set_changed(self, key: bytes, record: StoredRecord, now: UnixTime) -> None:
        """The same for the clients that watch a set, if this record is a member's."""
        watching = self._leases.watching(watched_at(key))
        if watching:
            self._tell(watching, key, record, now)

    def _tell(self, watching: list[Datagram], key: bytes, record: StoredRecord, now: UnixTime) -> None:
        batch = self._replies.batch(now)
        for request in watching:
            news = news_of(request, key, record, now)
            if news:
                batch.add(request, Status.OK, news)
        self._replies.send(batch)
