"""Publishes to all datapaths with one call: first to the core, then to the datapaths with copies of their own.

The socket and nfqueue datapaths read the core's mapping. The eBPF datapath has maps in the kernel. A sink is told
what changed and takes it from the core. Any thread may call.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kdht._routing import Core
from kdht.wire import Contact


class Sink(Protocol):
    """A datapath with a copy of its own. It is called under the publisher's lock and must not raise."""

    def config_changed(self) -> None:
        """The configuration changed, or which buckets are empty."""

    def bucket_changed(self, index: int) -> None:
        """The contacts of bucket `index` changed."""


class Publisher:
    """The only writer of the core's configuration and k-buckets."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._sinks: list[Sink] = []
        self._lock = threading.RLock()

    def configure(self, **fields: Any) -> None:
        """Core.configure for all datapaths."""
        with self._lock:
            # The core first: sinks take what they publish from it.
            self.core.configure(**fields)
            for sink in self._sinks:
                sink.config_changed()

    def set_bucket(self, index: int, contacts: Sequence[Contact]) -> None:
        """Core.set_bucket for all datapaths."""
        with self._lock:
            # The configuration says which buckets have contacts. A copy in the kernel must not lag behind that.
            before = self.core.occupancy()
            self.core.set_bucket(index, contacts)
            for sink in self._sinks:
                sink.bucket_changed(index)
                if self.core.occupancy() != before:
                    sink.config_changed()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Blocks publishing meanwhile. So a sink that copies everything cannot copy older state than it was told of."""
        with self._lock:
            yield

    def connect(self, sink: Sink) -> None:
        """Call `sink` from now on. It takes the state so far from the core itself."""
        with self._lock:
            self._sinks.append(sink)

    def disconnect(self, sink: Sink) -> None:
        """Call `sink` no more. A no-op if it is not connected."""
        with self._lock:
            if sink in self._sinks:
                self._sinks.remove(sink)
