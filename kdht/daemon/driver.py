"""Runs a Node in the event loop: gives it the time, datagrams and wake-ups, sends what it says.

Contract: every method is called in the loop's thread. The node's `now` is the loop's own
clock, which is monotonic; the time in messages is Unix time, from the offset between both.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from kdht.datapath.base import Datagram, Outgoing
from kdht.keys import ClusterKey
from kdht.node.events import ContactAdded, ContactRemoved, Event, Isolated, Joined
from kdht.node.node import Node
from kdht.wire import Address, Contact

log = logging.getLogger(__name__)

LEVELS: dict[type[Event], int] = {
    Joined: logging.INFO,
    Isolated: logging.WARNING,
    ContactAdded: logging.DEBUG,
    ContactRemoved: logging.DEBUG,
}
WORDS: dict[type[Event], str] = {
    Joined: "joined",
    Isolated: "no contact is left",
    ContactAdded: "contact added",
    ContactRemoved: "contact removed",
}


class Driver:
    """Drives `node`; `send` carries its datagrams away."""

    def __init__(self, node: Node, send: Callable[[list[Outgoing]], object]) -> None:
        self._node = node
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped = False

    def restore(self, contacts: Sequence[Contact]) -> None:
        """Contacts of an earlier run, to be asked again."""
        self._node.restore(contacts, self._now())
        self._follow_up()

    def join(self, bootstrap: Sequence[Address]) -> None:
        """Join the cluster through these addresses; the first node of one has none."""
        self._node.join(bootstrap, self._now())
        self._follow_up()

    def receive(self, batch: list[Datagram]) -> None:
        """Control messages for the node."""
        if self._stopped:
            return
        now = self._now()
        for datagram in batch:
            self._node.receive(datagram, now)
        self._follow_up()

    def unreachable(self, addresses: Sequence[Address]) -> None:
        """Hints that nobody listens at these addresses."""
        if self._stopped:
            return
        now = self._now()
        for address in addresses:
            self._node.unreachable(address, now)
        self._follow_up()

    def set_keys(self, keys: Sequence[ClusterKey]) -> None:
        """Sign with the first of these from now on."""
        self._node.set_keys(keys)

    def stop(self) -> None:
        """No more wake-ups, and nothing is sent. May be called again."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    @property
    def joined(self) -> bool:
        return self._node.joined

    def contacts(self) -> list[Contact]:
        """All contacts in the table, nearest first."""
        return self._node.snapshot()

    def status(self) -> dict[str, Any]:
        """What the node tells of itself, plain data."""
        return self._node.status(self._now())

    def _now(self) -> float:
        now = self._loop.time()
        self._node.unix_offset = time.time() - now
        return now

    def _wake(self) -> None:
        self._node.tick(self._now())
        self._follow_up()

    def _follow_up(self) -> None:
        """What the contract of Node asks for after each call."""
        outgoing = self._node.datagrams_to_send()
        if outgoing:
            self._send(outgoing)
        for event in self._node.events():
            _tell(event)
        if self._alarm is not None:
            self._alarm.cancel()
        when = self._node.next_wake()
        self._alarm = None if when is None or self._stopped else self._loop.call_at(when, self._wake)


def _tell(event: Event) -> None:
    level = LEVELS.get(type(event))
    if level is None or not log.isEnabledFor(level):
        return
    fields: dict[str, object] = {}
    match event:
        case Joined(contacts):
            fields = {"contacts": contacts}
        case ContactAdded(contact) | ContactRemoved(contact):
            fields = {"node_id": contact.id.hex(), "address": contact.address}
    log.log(level, WORDS[type(event)], extra=fields)
