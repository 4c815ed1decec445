"""The iterative lookup of the k contacts closest to a key, as a pure state machine.

Contract: `take` says whom to ask now. Each asked contact is reported once, to `answered` or `failed`. The lookup is over
once each of the k closest contacts that were named has answered (Maymounkov and Mazieres, "Kademlia", 2002, section 2.3).
Failed contacts do not count. The numbers of queries and candidates are bounded, whatever the answers say.
"""

from bisect import insort
from collections.abc import Iterable
from enum import Enum, auto

from kdht.wire import Contact

MAX_QUERIES_PER_K = 8
"""A lookup of k contacts ends after this many times k queries, because liars can name ever closer ones."""
MAX_CANDIDATES_PER_K = 4


class State(Enum):
    NAMED = auto()
    ASKED = auto()
    ANSWERED = auto()
    FAILED = auto()


class Candidate:
    """A contact that somebody named."""

    __slots__ = ("contact", "state")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.state = State.NAMED


class Lookup:
    """One lookup of `target` (20 bytes), from `seeds` on; never asks `self_id`."""

    def __init__(
        self, target: bytes, seeds: Iterable[Contact], *, self_id: bytes, k: int, alpha: int
    ) -> None:
        self.target = target
        self._number = int.from_bytes(target, "big")
        self._self_id = self_id
        self._k = k
        self._alpha = alpha
        self._order: list[int] = []  # distances of all candidates but the failed ones
        self._candidates: dict[int, Candidate] = {}  # by distance, failed ones included
        self._addresses: set[tuple[bytes, int]] = set()
        self._asking = 0
        self._queries = 0
        self._stalled = 0  # answers in a row that named nobody closer than the closest
        self._name(seeds)

    def take(self) -> list[Contact]:
        """Whom to ask now: the closest not asked yet, alpha at a time.

        All of the k closest at a time once alpha answers brought nobody closer.
        """
        # Kademlia, section 2.3: if a round brings nobody closer, the lookup asks all of the k closest that it
        # has not asked.
        width = self._k if self._stalled >= self._alpha else self._alpha
        taken = []
        for candidate in self._window():
            # Answers are untrusted. Without the bound, ever closer inventions would keep the lookup alive.
            if self._asking >= width or self._queries >= self._k * MAX_QUERIES_PER_K:
                break
            if candidate.state is State.NAMED:
                candidate.state = State.ASKED
                self._asking += 1
                self._queries += 1
                taken.append(candidate.contact)
        return taken

    def answered(self, id: bytes, contacts: Iterable[Contact]) -> None:
        """The contact with this ID answered and named others."""
        self._asking -= 1
        self._candidates[self._distance(id)].state = State.ANSWERED
        closest = self._order[0]
        self._name(contacts)
        self._stalled = 0 if self._order[0] < closest else self._stalled + 1

    def failed(self, id: bytes) -> None:
        """The contact with this ID did not answer."""
        self._asking -= 1
        distance = self._distance(id)
        candidate = self._candidates[distance]
        candidate.state = State.FAILED
        self._addresses.discard(candidate.contact[1:])
        if distance in self._order:
            self._order.remove(distance)

    @property
    def done(self) -> bool:
        """Whether there is nobody left to ask or to wait for."""
        if self._queries >= self._k * MAX_QUERIES_PER_K:
            return self._asking == 0
        return all(candidate.state is State.ANSWERED for candidate in self._window())

    def closest(self) -> list[Contact]:
        """Up to k contacts that answered, nearest to the target first."""
        found = (self._candidates[distance] for distance in self._order)
        return [each.contact for each in found if each.state is State.ANSWERED][: self._k]

    def _window(self) -> list[Candidate]:
        return [self._candidates[distance] for distance in self._order[: self._k]]

    def _distance(self, id: bytes) -> int:
        return int.from_bytes(id, "big") ^ self._number

    def _name(self, contacts: Iterable[Contact]) -> None:
        """Take in candidates: each ID once, and one ID per address unless that one failed."""
        for contact in contacts:
            distance = self._distance(contact.id)
            place = contact[1:]
            # One ID for each address: else one liar could fill the result with IDs at its own address.
            if distance in self._candidates or place in self._addresses or contact.id == self._self_id:
                continue
            self._candidates[distance] = Candidate(contact)
            self._addresses.add(place)
            insort(self._order, distance)
        self._forget_farthest()

    def _forget_farthest(self) -> None:
        """Keep the candidates bounded; whoever was asked stays."""
        limit = self._k * MAX_CANDIDATES_PER_K
        if len(self._order) <= limit:
            return
        farthest, self._order = self._order[limit:], self._order[:limit]
        for distance in farthest:
            candidate = self._candidates[distance]
            if candidate.state is State.NAMED:
                del self._candidates[distance]
                self._addresses.discard(candidate.contact[1:])
            else:
                self._order.append(distance)
