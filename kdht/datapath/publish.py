"""One call publishes to all datapaths: the core first, then whoever keeps a copy of his own.

The socket and nfqueue datapaths read the core's mapping itself; the eBPF one has maps in the
kernel. A sink is told what changed and takes it from the core. Callers may be on any thread.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kdht._routing import Core
from kdht.wire import Contact


class Sink(Protocol):
    """Who keeps a copy. Called under the publisher's lock; must not raise."""

    def config_changed(self) -> None:
        """The core's configuration is another, or the set of buckets that are not empty."""

    def bucket_changed(self, index: int) -> None:
        """Bucket `index` has other contacts."""


class Publisher:
    """Writes the core's configuration and k-buckets; the one that does."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._sinks: list[Sink] = []
        self._lock = threading.RLock()

    def configure(self, **fields: Any) -> None:
        """Core.configure for all datapaths."""
        with self._lock:
            self.core.configure(**fields)
            for sink in self._sinks:
                sink.config_changed()

    def set_bucket(self, index: int, contacts: Sequence[Contact]) -> None:
        """Core.set_bucket for all datapaths."""
        with self._lock:
            before = self.core.occupancy()
            self.core.set_bucket(index, contacts)
            for sink in self._sinks:
                sink.bucket_changed(index)
                if self.core.occupancy() != before:
                    sink.config_changed()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is published meanwhile, so that what a sink copies is not older than what it was told."""
        with self._lock:
            yield

    def connect(self, sink: Sink) -> None:
        """From now on tell `sink`; all of the core's state is new to it."""
        with self._lock:
            self._sinks.append(sink)

    def disconnect(self, sink: Sink) -> None:
        """Tell it no more. For one that is not connected this does nothing."""
        with self._lock:
            if sink in self._sinks:
                self._sinks.remove(sink)
