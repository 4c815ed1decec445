"""A renewal that fails, whatever the error, is tried again: the membership must not end with a thread."""

import asyncio

import pytest

from kdht.client import _aio_announcement, _announcement
from kdht.client._aio_announcement import AsyncAnnouncement
from kdht.client._announcement import Announcement
from kdht.errors import RequestError, RequestTimeout
from kdht.lab.wait import wait_until

FAILURES = [
    RequestTimeout("no answer"),
    OSError(24, "Too many open files"),
    MemoryError(),
    RuntimeError("a bug"),
]


class Script:
    """The first announcement succeeds, the second fails, the later ones succeed."""

    def __init__(self, failure):
        self.renewals = []
        self._failure = failure

    def __call__(self, renewal):
        self.renewals.append(renewal)
        if len(self.renewals) == 2:
            raise self._failure


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (_announcement, _aio_announcement):
        monkeypatch.setattr(module, "pause", lambda ttl, failed: 0.01)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_no_failure_ends_the_renewals(failure):
    announce = Script(failure)
    with Announcement(announce, lambda: None, 30, lambda: None) as announcement:
        wait_until(lambda: len(announce.renewals) > 3, "more renewals")
        assert announcement.error is None
    # After a failure it is written anew.
    assert announce.renewals[:4] == [False, True, False, True]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_no_failure_ends_the_renewals_of_a_loop(failure):
    script, seen = Script(failure), []

    async def announce(renewal):
        script(renewal)

    async def withdraw():
        pass

    async def run():
        async with AsyncAnnouncement(announce, withdraw, 30) as announcement:
            while len(script.renewals) < 4:
                await asyncio.sleep(0.001)
                seen.append(announcement.error)

    asyncio.run(run())
    assert script.renewals[:4] == [False, True, False, True]
    assert any(isinstance(error, RequestError) and str(error) for error in seen)
