"""Fixtures of several tests of the client."""

from collections.abc import Callable
from typing import Any

import pytest
from both_clients import BOTH

from kdht.client import _nodes


@pytest.fixture(params=BOTH.values(), ids=BOTH)
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """One call of a method, by the blocking client and by the asyncio one."""
    found: Callable[..., Any] = request.param
    return found


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost datagram on loopback need not take a quarter of a second to be noticed."""
    monkeypatch.setattr(_nodes, "START_RTO", 0.02)
