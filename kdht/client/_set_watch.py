"""A watch of a set: its members as the nodes tell them, page by page and change by change. No I/O and no clock.

Each renewal of the lease is a walk over all members: one question a page, the next one when its page has come. Changes
are told in between. A change that was told since the walk began is newer than the walk's pages. When a member's time is
over, another walk begins, and finds out who is left.
"""

from collections import deque
from collections.abc import Callable
from math import inf

from kdht.client._calls import Answer, Call
from kdht.client._client_state import ClientState
from kdht.client._watch import RENEWALS, WatchExchange
from kdht.errors import BadPacket
from kdht.wire._shared import MAX_BODY
from kdht.wire.sets import END, FIRST, Member, MembersPage, pack_lease, parse_told

LEAST_PAUSE = 0.2
"""Seconds between two walks."""
HEADERS = 1024
"""A node takes few messages with equal headers a second from one client. The questions for pages differ in `max_reply`,
whose values above the longest body mean the same."""


class SetWatch(WatchExchange):
    """One watch of a set. `events` has the last state that nobody has fetched yet: all members, in the order of their IDs."""

    def __init__(
        self,
        state: ClientState,
        call: Call,
        number: int,
        lease: int,
        now: float,
        on_event: Callable[[], None],
    ) -> None:
        super().__init__(state, call, number, lease, now, on_event)
        self.events = deque(maxlen=1)
        self._members: dict[int, Member] = {}
        self._ends: dict[int, float] = {}
        """When the time of each is over."""
        self._changes: dict[int, tuple[float, int]] = {}
        """When a change of a member was told since the last walk began, and the change's version."""
        self._cursor = FIRST
        """Where the page begins that is asked for."""
        self._pages = 0
        """Pages so far."""
        self._walk_began = now
        self._is_whole = False
        """Whether a walk was finished."""
        self._is_news = True

    def start(self, now: float) -> None:
        """Ask for the next page, which renews the lease."""
        if self._cursor == FIRST:
            # Those told before the last walk are in its pages.
            self._changes = {id: each for id, each in self._changes.items() if each[0] >= self._walk_began}
            self._walk_began = now
        super().start(now)

    def end(self, now: float) -> None:
        if self._asked:
            self._send(pack_lease(0, FIRST), self._node, 0, now)

    def _take(self, reply: Answer, now: float) -> bool:
        """Note what a reply tells. Whether it is the page that was asked for."""
        try:
            told = parse_told(reply.body)
        except BadPacket:
            return False
        is_page = self._renewing and not told.version and told.start == self._cursor
        if told.version:
            self._change(told.page.members[0], told.version, now)
            if not self._renewing:
                self.deadline = min(self.deadline, self._next_renewal(now))
        elif is_page:
            self._page(told.page, now)
            following = told.page.next if told.page.next > self._cursor else END
            self._cursor = FIRST if following == END else following
            self._is_whole = self._is_whole or following == END
            self._pages += 1
            self.call = self.call._replace(
                body=pack_lease(self._lease, self._cursor), max_reply=MAX_BODY + self._pages % HEADERS
            )
        if self._is_whole and self._is_news:
            self._is_news = False
            self.events.append([self._members[id] for id in sorted(self._members)])
            self._on_event()
        return is_page

    def _next_renewal(self, now: float) -> float:
        if self._cursor != FIRST:
            return now
        first_end = min(self._ends.values(), default=inf)
        return min(now + self._lease / RENEWALS, max(first_end, now + LEAST_PAUSE))

    def _change(self, member: Member, version: int, now: float) -> None:
        # Late or doubled: a member never goes back.
        if version <= self._changes.get(member.id, (0.0, 0))[1]:
            return
        self._changes[member.id] = now, version
        if member.ttl:
            self._put(member, now)
        else:
            self._drop(member.id)

    def _page(self, page: MembersPage, now: float) -> None:
        """All members from the cursor up to the page's next one."""
        found = {member.id: member for member in page.members}
        stop = inf if page.next == END else page.next
        for id in [id for id in self._members if self._cursor <= id < stop and id not in found]:
            if not self._is_newer(id):
                self._drop(id)
        for member in found.values():
            if not self._is_newer(member.id):
                self._put(member, now)

    def _is_newer(self, id: int) -> bool:
        """Whether a change of this member was told since the walk began."""
        return self._changes.get(id, (-inf, 0))[0] >= self._walk_began

    def _put(self, member: Member, now: float) -> None:
        known = self._members.get(member.id)
        self._is_news |= known is None or known.payload != member.payload
        self._members[member.id] = member
        self._ends[member.id] = now + member.ttl

    def _drop(self, id: int) -> None:
        if self._members.pop(id, None) is not None:
            del self._ends[id]
            self._is_news = True
