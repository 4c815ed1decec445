"""The lookups of one node: it sends their queries and gives them the answers.

Contract: every accepted lookup ends in its `done`. A few run at a time, others wait; both numbers are bounded.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from kdht.node.context import NodeContext
from kdht.node.lookup import Lookup
from kdht.node.messages import Reply
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, Op

Found = Callable[[list[Contact], SteadyTime], None]
"""The end of a lookup: the closest contacts that answered, nearest first; and `now`."""

# A join refreshes up to 160 buckets at once, and none of those lookups may be refused.
MAX_WAITING = 2 * ID_BITS
"""Lookups that wait: a refresh of every bucket, and as many others."""


class Searches:
    """All lookups of one node. `looked(target, now)` hears of each as it begins."""

    def __init__(self, context: NodeContext, looked: Callable[[bytes, SteadyTime], None]) -> None:
        self._context = context
        self._looked = looked
        self._waiting: deque[tuple[bytes, Found]] = deque()
        self._running = 0
        self._is_beginning = False

    def start(self, target: bytes, found: Found, now: SteadyTime) -> bool:
        """Look for the contacts closest to `target`; False, and `found` is never called, if too many wait."""
        if self._running < self._context.options.max_lookups:
            self._begin(target, found, now)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((target, found))
        else:
            self._context.counters["lookups_full"] += 1
            return False
        return True

    def _begin(self, target: bytes, found: Found, now: SteadyTime) -> None:
        context = self._context
        self._running += 1
        # At the begin, not the end: a second refresh of the bucket while this one runs would be wasted.
        self._looked(target, now)
        seeds: Iterable[Contact] = context.table.closest(target, context.options.k)
        lookup = Lookup(target, seeds, self_id=context.id, k=context.options.k, alpha=context.options.alpha)
        self._advance(lookup, found, now)

    def _advance(self, lookup: Lookup, found: Found, now: SteadyTime) -> None:
        """Ask whom the lookup wants asked; or end it."""
        while contacts := lookup.take():
            for contact in contacts:
                done = partial(self._answer, lookup, found)
                # Too many requests under way: as if it had not answered, so the lookup ends.
                if not self._context.ask(Op.FIND_NODE, lookup.target, contact.address, contact.id, done, now):
                    lookup.failed(contact.id)
        if lookup.done:
            self._end(lookup, found, now)

    def _answer(self, lookup: Lookup, found: Found, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        assert rpc.id is not None
        if lookup.done:  # it ended without waiting for this one
            return
        if reply is None:
            lookup.failed(rpc.id)
        else:
            lookup.answered(rpc.id, reply.contacts)
        self._advance(lookup, found, now)

    def _end(self, lookup: Lookup, found: Found, now: SteadyTime) -> None:
        # Before `found`, which may start a lookup of its own.
        self._running -= 1
        found(lookup.closest(), now)
        self._begin_waiting(now)

    def _begin_waiting(self, now: SteadyTime) -> None:
        """Fill the free places; a lookup that ends as it begins must not do it once more, deeper."""
        if self._is_beginning:
            return
        self._is_beginning = True
        while self._waiting and self._running < self._context.options.max_lookups:
            self._begin(*self._waiting.popleft(), now)
        self._is_beginning = False
