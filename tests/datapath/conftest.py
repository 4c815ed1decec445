"""Fixtures of several tests of the socket datapath."""

from collections.abc import Iterator

import pytest
from sockets import Client, Start, transports


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts transports, and stops them at the end."""
    with transports() as starting:
        yield starting


@pytest.fixture
def client() -> Iterator[Client]:
    """A client's socket on loopback."""
    made = Client()
    with made.sock:
        yield made
