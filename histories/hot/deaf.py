"""The daemon with a cache that does not hear of changes: with it the check has to find old reads.

python -m histories.hot.deaf --config FILE
"""

import runpy
import time

from kdht.daemon import wiring
from kdht.storage._cache import RecordCache
from kdht.times import UnixTime

DAEMON = "histories.hot.deaf"


class Deaf(RecordCache):
    """A RecordCache whose invalidation is switched off."""

    def invalidate(self, key: bytes) -> None:
        pass

    def fill(self, key: bytes, begun: int, version: int, expiry: int, flags: int, value: bytes) -> bool:
        """A confirmed write would bring the new record by this way."""
        return self.get(key, UnixTime(time.time())) is None and super().fill(
            key, begun, version, expiry, flags, value
        )


if __name__ == "__main__":
    vars(wiring)["RecordCache"] = Deaf
    runpy.run_module("kdht.daemon.main", run_name="__main__", alter_sys=True)
