"""Resolves the names in node.bootstrap and lets the node join. Nothing else uses a resolver.

A node that resolved none of its names must not take itself for the first of its cluster. It
waits and tries again. Whenever a node knows nobody, its names are resolved again: they may have other addresses by now.
"""

import asyncio
import logging
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, TypeVar

from kdht.config.settings import Settings, other_version
from kdht.config.values import HostPort
from kdht.daemon import discovery, srv
from kdht.daemon.datadir import DataDir
from kdht.daemon.driver import Driver
from kdht.wire import Address, Contact

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds. Nodes that start together find each other at the second try.
FIRST_RETRY = 1.0
# Seconds. A cluster that is down for long should not be flooded when it comes back.
LAST_RETRY = 60.0
LOOK_AROUND_SECONDS = 60.0
"""Between questions to the link, about, if node.discover is true."""
ALONE_SECONDS = 5.0
"""Until a node that knows nobody says so, and resolves its names again; doubles."""


class BootstrapAddresses(NamedTuple):
    """Addresses of other nodes, and names without a usable address."""

    addresses: list[Address]
    unresolved: list[HostPort]
    unreachable: list[HostPort]
    """Names with addresses of another IP version only."""

    @property
    def must_wait(self) -> bool:
        """Whether other nodes exist, but none can be asked now. Without waiting, the node would start its own cluster."""
        return not self.addresses and bool(self.unresolved or self.unreachable)


@asynccontextmanager
async def joining(
    settings: Settings, data: DataDir, driver: Driver, on_failure: Callable[[BaseException], None]
) -> AsyncIterator[None]:
    """While the block runs, the node joins its cluster, even if resolving the names takes long.

    `on_failure` gets an error that no retry would mend.
    """
    task = asyncio.create_task(_join_and_stay(settings, driver, data.load_contacts()))
    task.add_done_callback(partial(tell_failure, on_failure))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def tell_failure(on_failure: Callable[[BaseException], None], task: asyncio.Task[None]) -> None:
    """A done callback: passes on the exception of a task, unless it was cancelled."""
    if not task.cancelled() and (error := task.exception()):
        on_failure(error)


async def _join_and_stay(settings: Settings, driver: Driver, saved: Sequence[Contact]) -> None:
    found = await _join(settings, driver, saved)
    node = settings.config.node
    if node.bootstrap or node.discover:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_stay(settings, driver, found))
            if node.discover:
                tasks.create_task(_look_around(settings, driver))


async def _stay(settings: Settings, driver: Driver, found: BootstrapAddresses) -> None:
    """Resolve the names again while the node knows nobody, and say in the log what was tried. Never returns."""
    delay = ALONE_SECONDS
    while True:
        await asyncio.sleep(delay)
        # A node that stands aside knows nobody on purpose.
        if driver.contacts() or driver.aside:
            delay = ALONE_SECONDS
            continue
        # The first node of a cluster may name nobody but itself.
        if found.addresses or found.must_wait:
            log.warning("no other node answers: another secret, a firewall?", extra=_tried(settings, found))
        delay = min(2 * delay, LAST_RETRY)
        tried, found = found.addresses, await in_thread(lambda: resolve_bootstrap(settings))
        # The node itself asks the known ones again and again.
        if found.addresses and set(found.addresses) != set(tried):
            driver.join(found.addresses)


async def _look_around(settings: Settings, driver: Driver) -> None:
    """Join with nodes of this link that nobody here knows: two halves that started apart, say. Never returns."""
    while True:
        await asyncio.sleep(LOOK_AROUND_SECONDS * random.uniform(0.5, 1.5))
        if not driver.aside:
            known = {contact.address for contact in driver.contacts()}
            strangers = [
                each for each in await in_thread(lambda: discovery.ask(settings)) if each not in known
            ]
            if strangers:
                driver.join(strangers)


def _tried(settings: Settings, found: BootstrapAddresses) -> dict[str, str]:
    """Names and addresses, for the log."""
    tried: dict[str, Sequence[object]] = {
        "names": settings.config.node.bootstrap,
        "addresses": found.addresses,
        "unresolved": found.unresolved,
    }
    return {name: ", ".join(map(str, values)) for name, values in tried.items() if values}


async def _join(settings: Settings, driver: Driver, saved: Sequence[Contact]) -> BootstrapAddresses:
    """Join through node.bootstrap and the saved contacts. The contacts need no resolver."""
    # Saved contacts need no resolver, so they are asked at once.
    driver.restore(saved)
    found = await in_thread(lambda: resolve_bootstrap(settings))
    # Without contacts the node would take itself for the first of its cluster.
    if saved or not found.must_wait:
        driver.join(found.addresses)
    delay = FIRST_RETRY
    while found.must_wait:
        _warn(settings, found)
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_RETRY)
        found = await in_thread(lambda: resolve_bootstrap(settings))
        if not found.must_wait:
            driver.join(found.addresses)
    return found


def _warn(settings: Settings, found: BootstrapAddresses) -> None:
    if found.unresolved:
        log.warning("no bootstrap name can be resolved", extra={"names": ", ".join(found.unresolved)})
    if found.unreachable:
        fields = {"names": ", ".join(found.unreachable), "why": other_version(settings.address)}
        log.warning("no bootstrap name has an address that this node can reach", extra=fields)


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread. Cancellation abandons the thread, because a resolver may hang for long."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    while True:
        if _started(run):
            return await asyncio.wrap_future(future)
        await asyncio.sleep(FIRST_RETRY)


def _started(run: Callable[[], None]) -> bool:
    """Whether a thread could be started. The system may have none left now; joining must not end by that."""
    try:
        threading.Thread(target=run, name="kdht-resolver", daemon=True).start()
    except RuntimeError as error:
        log.warning("no thread to look names up; tried again", extra={"error": error})
        return False
    return True


def resolve_bootstrap(settings: Settings) -> BootstrapAddresses:
    """Look the names up, and on this node's links. Leaves out own addresses, and IP versions that this node does not have. Blocks."""
    families = {own.is_ipv4 for own in settings.unicast}
    addresses: dict[Address, None] = {}
    unresolved, unreachable = [], []
    for name in settings.config.node.bootstrap:
        answers = _lookup(name)
        usable = [a for a in answers if a.is_ipv4 in families and a not in (*settings.own, *settings.also)]
        addresses |= dict.fromkeys(usable)
        if not answers:
            unresolved.append(name)
        elif not any(a.is_ipv4 in families for a in answers):
            unreachable.append(name)
    if settings.config.node.discover:
        addresses |= dict.fromkeys(discovery.ask(settings))
    return BootstrapAddresses(list(addresses), unresolved, unreachable)


def _lookup(name: HostPort) -> list[Address]:
    """All addresses of a host, or of the hosts that a service's records name."""
    if srv.is_service(name):
        return [address for target in srv.targets(name) for address in _lookup_host(target)]
    return _lookup_host(name)


def _lookup_host(name: HostPort) -> list[Address]:
    try:
        answers = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        # Names may come later, so they are looked up again. The caller logs it.
        return []
    pairs = [(str(answer[4][0]), int(answer[4][1])) for answer in answers]
    # A link-local address with its zone is good on this host only.
    return [Address.of(host, port) for host, port in pairs if "%" not in host]
