"""Contacts that fell silent are asked again, ever more seldom: a host that only stalled is back soon.

Contract: an answer brings the contact back into the table like any other. The number of addresses is bounded.
"""

from functools import partial

from kdht.node.context import NodeContext, leave_to_table
from kdht.times import SteadyTime
from kdht.wire import Contact

# More deaths at once are a partition. Then the saved contacts and the bootstrap nodes find the others again.
MAX_LOST = 256


class Reviver:
    """The lost contacts of one node."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._lost: set[Contact] = set()

    def lost(self, contact: Contact, now: SteadyTime) -> None:
        """A contact was removed because it does not answer."""
        if contact not in self._lost and len(self._lost) < MAX_LOST:
            self._lost.add(contact)
            self._later(contact, 0, now)

    def forget(self, contact: Contact) -> None:
        """A contact is back, or has left."""
        self._lost.discard(contact)

    def _later(self, contact: Contact, asked: int, now: SteadyTime) -> None:
        options = self._context.options
        if asked >= options.revivals:
            self._lost.discard(contact)
            return
        # Doubled: a host that stalled is back in seconds, one that is gone would be asked for nothing.
        when = now + self._context.jittered(options.revival_first * 2**asked)
        self._context.timers.at(when, partial(self._ask, contact, asked))

    def _ask(self, contact: Contact, asked: int, now: SteadyTime) -> None:
        if contact in self._lost:
            self._context.ping(contact.address, contact.id, leave_to_table, now, tries=1)
            self._later(contact, asked + 1, now)
