"""Announcements that renew themselves, on a thread of their own; `_aio_announcement` has them on an event loop."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from kdht.errors import RequestError

RENEWALS = 3
"""In the time of one TTL. Two may be lost."""
AFTER_FAILURE = 4
"""After a failed renewal the next one comes so many times sooner."""
_JITTER = 0.1
"""Of the pause between two: announcers that began together do not stay together."""


def pause(ttl: int, *, failed: bool) -> float:
    """Seconds until the next renewal."""
    share = RENEWALS * AFTER_FAILURE if failed else RENEWALS
    return ttl / share * (1 + random.uniform(-_JITTER, _JITTER))


class Announcement:
    """A membership that renews itself, on a thread of its own, until it is closed. Then it is withdrawn.

    `error` is the last renewal's, None if that was good. It goes on trying in any case.
    """

    def __init__(
        self,
        announce: Callable[[bool], object],
        withdraw: Callable[[], object],
        ttl: int,
        release: Callable[[], object],
    ) -> None:
        """Announces at once, on the caller's thread, and raises what that raises. `announce` is told whether it renews.
        `release` is called at the end."""
        self.error: RequestError | None = None
        self._announce = announce
        self._withdraw = withdraw
        self._release = release
        self._ttl = ttl
        self._closed = threading.Event()
        announce(False)
        self._thread = threading.Thread(target=self._run, name="kdht-announcement", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(pause(self._ttl, failed=self.error is not None)):
            try:
                # After a failure it is written in any case, also where a node of an older build knows of no renewals.
                self._announce(self.error is None)
            except RequestError as error:
                self.error = error
            except Exception as error:
                # Without this thread the membership would end: no descriptor or memory is left for a while, say.
                self.error = RequestError(f"not renewed: {error or type(error).__name__}")
            else:
                self.error = None

    def close(self) -> None:
        """Stop renewing, and withdraw. Without an answer the membership ends with its TTL. May be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        try:
            # Nobody can do anything about it: the membership ends with its TTL.
            with suppress(RequestError):
                self._withdraw()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
