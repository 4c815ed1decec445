"""From the names in node.bootstrap to a node that joins: the only use of a resolver.

A node that cannot resolve any of its names yet must not believe that it is the first of
its cluster: it waits, and tries again.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import NamedTuple

from kdht.daemon.driver import Driver
from kdht.daemon.settings import Settings
from kdht.daemon.values import HostPort
from kdht.wire import Address, Contact

log = logging.getLogger(__name__)

FIRST_RETRY = 1.0
LAST_RETRY = 60.0


class Found(NamedTuple):
    """Addresses of others that this node can reach, and names that have none now."""

    addresses: list[Address]
    unresolved: list[HostPort]


async def join(settings: Settings, driver: Driver, saved: Sequence[Contact]) -> None:
    """Let the node join through its former contacts and node.bootstrap, as soon as that is resolved."""
    driver.restore(saved)
    if saved:
        driver.join([])
    delay = FIRST_RETRY
    while True:
        found = await asyncio.to_thread(resolve_bootstrap, settings)
        if found.addresses or not found.unresolved:
            break
        log.warning("no bootstrap name can be resolved", extra={"names": ", ".join(found.unresolved)})
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_RETRY)
    if found.addresses or not saved:
        driver.join(found.addresses)


def resolve_bootstrap(settings: Settings) -> Found:
    """Look the names up; own addresses and those of an IP version without an own one are left out. Blocks."""
    families = {own.is_ipv4 for own in settings.unicast}
    addresses: dict[Address, None] = {}
    unresolved = []
    for name in settings.config.node.bootstrap:
        answers = _lookup(name)
        usable = [a for a in answers if a.is_ipv4 in families and a not in settings.own]
        addresses |= dict.fromkeys(usable)
        if not answers:
            unresolved.append(name)
    return Found(list(addresses), unresolved)


def _lookup(name: HostPort) -> list[Address]:
    try:
        answers = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    pairs = [(str(answer[4][0]), int(answer[4][1])) for answer in answers]
    return [Address.of(host, port) for host, port in pairs if "%" not in host]
