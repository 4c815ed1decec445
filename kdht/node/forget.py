"""FORGET: the operator says once that a dead node does not come back, and all nodes are told.

Contract: every contact is asked, and answers what became of the node. A node that has it in its table answers that it
lives, and forgets nothing. Only a cluster with hardly more nodes than replicas of a key remembers its dead (Census). There
all nodes know each other, so none passes the message on.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from kdht.node.census import Census
from kdht.node.context import NodeContext
from kdht.node.messages import Reply
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import Op


class Fate(IntEnum):
    """The answer of one node about another; the byte in the reply."""

    UNKNOWN = 0
    """It was not remembered."""
    FORGOTTEN = 1
    LIVES = 2
    """It answers, so it is not forgotten."""


class Told(NamedTuple):
    """One contact and its answer, None if there was none."""

    contact: Contact
    fate: Fate | None


Done = Callable[[list[Told]], None]


class Forgetting:
    """FORGET at one node."""

    def __init__(self, context: NodeContext, census: Census) -> None:
        self._context = context
        self._census = census

    def here(self, id: bytes) -> Fate:
        """Forget a node here only."""
        if id == self._context.id or self._context.table.get(id) is not None:
            return Fate.LIVES
        return Fate.FORGOTTEN if self._census.forget(id) else Fate.UNKNOWN

    def forget(self, id: bytes, done: Done, now: SteadyTime) -> Fate:
        """Have this node and all its contacts forget a node. `done` gets their answers once all are in or given up.

        If the node lives, nothing happens and `done` is never called.
        """
        fate = self.here(id)
        # A node that still answers keeps its records, and must not be left out of the quorum.
        if fate is not Fate.LIVES:
            self._ask_all(id, done, now)
        return fate

    def _ask_all(self, id: bytes, done: Done, now: SteadyTime) -> None:
        told: list[Told] = []
        contacts = [entry.contact for entry in self._context.table]
        waiting = 1 + len(contacts)

        def one_less() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done(told)

        def answered(contact: Contact, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
            told.append(Told(contact, None if reply is None else _untrusted_fate(reply.body)))
            one_less()

        for contact in contacts:
            heard = partial(answered, contact)
            if not self._context.ask(Op.FORGET, id, contact.address, contact.id, heard, now):
                told.append(Told(contact, None))
                one_less()
        one_less()


def _untrusted_fate(body: bytes) -> Fate | None:
    return Fate(body[0]) if body[:1] in (b"\0", b"\1", b"\2") else None
