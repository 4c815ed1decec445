"""Candidates: contacts that others name, or that wrote to this node. They are pinged before the table takes them in.

Contract: nothing enters the table here. A candidate is asked, at its own address, for the ID that it claims; the matched
reply does the rest. Waiting candidates and pings under way are bounded, with one candidate per address. An address that did
not answer is left alone for a while, unless it writes to this node itself. The while is short at first: the node there may
just be starting, and if others name it to this node, it need not write itself.
"""

from typing import NamedTuple

from kdht.node._timers import Alarm
from kdht.node.context import NodeContext
from kdht.node.messages import Reply
from kdht.node.probe import Prober
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Address, Contact

# Anybody can name addresses that do not answer.
MAX_REFUSED = 512
"""Addresses remembered for not answering."""


class _Refusal(NamedTuple):
    """An address that did not answer."""

    until: float
    """So long it is left alone, although others name it."""
    pause: float
    """Seconds of that. If it is silent again, the next pause is twice as long."""


_NEVER = _Refusal(0.0, 0.0)


class Verifier:
    """The queue of candidates."""

    def __init__(self, context: NodeContext, prober: Prober) -> None:
        self._context = context
        self._prober = prober
        self._waiting: dict[Address, Contact] = {}
        self._asked: dict[Address, Contact] = {}
        self._refused: dict[Address, _Refusal] = {}
        self._retry: Alarm | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asked)

    def offer(self, contact: Contact, now: SteadyTime, *, heard: bool) -> None:
        """Take a usable contact that is not in the table. `heard`: it wrote to this node itself; else another named it."""
        context = self._context
        entry = context.table.get(contact.id)
        address = contact.address
        if not heard and (
            entry or context.table.at(address) or self._refused.get(address, _NEVER).until > now
        ):
            return  # a name alone counts neither against a contact that answers nor for one that does not
        if entry is not None:
            context.table.remember(contact)
            self._prober.question(entry, context.options.first_timeout, now)
        # A name alone must not make this node question its own contacts.
        elif not self._has_room(contact):
            # It wrote itself, so it lives. The oldest member of the full bucket must prove the same.
            if heard:
                context.table.remember(contact)
                self._prober.question_oldest(context.table.index(contact.id), now)
        else:
            self._queue(address, contact, now)

    def clear(self) -> None:
        """Drop the waiting candidates."""
        self._waiting.clear()

    def refuse(self, address: Address, now: SteadyTime) -> None:
        """Leave an address alone for the whole `refusal_time`, although others may still name it."""
        self._refuse(address, self._context.options.refusal_time, now)

    def refill(self, index: int, now: SteadyTime) -> bool:
        """A bucket has room: ping the newest replacement. False if there is none."""
        contact = self._context.table.take_replacement(index)
        if contact is None:
            return False
        self._queue(contact.address, contact, now)
        return True

    def _refuse(self, address: Address, pause: float, now: SteadyTime) -> None:
        # Out and in again: the oldest refusal is the first to be forgotten.
        self._refused.pop(address, None)
        self._refused[address] = _Refusal(now + pause, pause)
        if len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]

    def _has_room(self, contact: Contact) -> bool:
        """Whether the table has a place: in the bucket, or that of the old ID of the address."""
        table = self._context.table
        return not table.is_full(table.index(contact.id)) or table.at(contact.address) is not None

    def _queue(self, address: Address, contact: Contact, now: SteadyTime) -> None:
        # One candidate for each address: an address has one node, so other IDs there are wrong or old.
        if address in self._waiting or address in self._asked:
            return
        # Anybody can name addresses, so waiting candidates are bounded.
        if len(self) >= self._context.options.max_verifying:
            self._context.counters["verifying_full"] += 1
            return
        self._waiting[address] = contact
        self._ask_next(now)

    def _ask_next(self, now: SteadyTime) -> None:
        while self._waiting and len(self._asked) < self._context.options.parallel_verifying:
            address, contact = next(iter(self._waiting.items()))
            # The requests under way are bounded for all parts of the node together.
            if not self._context.ping(address, contact.id, self._done, now):
                self._ask_later(now)
                return
            del self._waiting[address]
            self._asked[address] = contact

    def _ask_later(self, now: SteadyTime) -> None:
        """Too many other requests are under way: try again later."""
        if self._retry is None:
            self._retry = self._context.timers.at(now + self._context.options.first_timeout, self._ask_again)

    def _ask_again(self, now: SteadyTime) -> None:
        self._retry = None
        self._ask_next(now)

    def _done(self, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        contact = self._asked.pop(rpc.address)
        if reply is None:
            options, before = self._context.options, self._refused.get(rpc.address, _NEVER).pause
            pause = 2 * before if before else options.first_refusal
            self._refuse(rpc.address, min(pause, options.refusal_time), now)
            # The candidate held a place in its bucket that another replacement can have now.
            self.refill(self._context.table.index(contact.id), now)
        else:
            self._refused.pop(rpc.address, None)
        self._ask_next(now)
