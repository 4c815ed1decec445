"""Where one more node would serve best: whom to ask, and what follows from the answers.

Contract: `questions` says whom to ask for which ID, each question once. Its end is told to `answered` or `failed`. The survey is
over when no question is left and none is under way. No I/O, no clock, no messages.

A node's *gap* is the part of the ID space in which it is alone. A newcomer in its middle takes half of the node's keys. The
trie of the known nodes has fewer branches than that of all nodes, so no node owns more than it seems to. So the node that
seems to own most is asked for nodes nearby, until it turns out to own less than others, or really owns most. This
best-first search finds the widest gaps of all. In a cluster too large to be searched it finds the widest of thousands.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from kdht.node.place.shares import halves
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, ID_LEN, K

# A liar may name nodes that do not exist, without end.
MAX_QUESTIONS = 160
"""Questions of one survey: enough to see all of 1,000 nodes, or 3,000 of a larger cluster."""
ENOUGH = 8
"""Gaps of the same width to choose from."""


class Gap(NamedTuple):
    """The part of the ID space in which `owner` is alone: all IDs with its first `bits` bits."""

    owner: Contact
    depth: int
    """The owner has 2^-depth of all keys."""
    crowd: tuple[int, ...]
    """The numbers of nodes in ever wider surroundings."""
    bits: int

    def middle(self, rng: Random) -> bytes:
        """A random ID in the half without the owner."""
        low = ID_BITS - 1 - self.bits
        half = (_number(self.owner.id) >> low ^ 1) << low
        return (half | rng.getrandbits(low)).to_bytes(ID_LEN, "big")


class SurveyQuestion(NamedTuple):
    """Ask `contact` for the contacts that it knows closest to `target`."""

    contact: Contact
    target: bytes


@dataclass(slots=True)
class _Known:
    """What is known of one node."""

    contact: Contact
    asked: bool = False
    horizon: int = ID_BITS
    """It has said that it knows all nodes that share more bits with it."""
    searched: set[int] = field(default_factory=set)
    """It was asked for nodes with up to this number of bits in common."""
    silent: bool = False
    coming: bool = False
    """It is only about to join, near this place."""


class _Path(NamedTuple):
    """The path of one node in the trie of the known nodes: its branches from the top, and the nodes below each."""

    known: _Known
    bits: tuple[int, ...]
    counts: tuple[int, ...]

    def open(self) -> list[int]:
        """Bits whose other side may have nodes or not, the topmost first."""
        branches = set(self.bits)
        return [
            bit
            for bit in range(min(self.known.horizon, self.bits[-1] if self.bits else -1))
            if bit not in branches and bit not in self.known.searched
        ]


class Survey:
    """One survey. Nodes that are not `askable` count, but are not asked. `limit`: questions at most."""

    def __init__(
        self,
        rng: Random,
        askable: Callable[[Contact], bool] = lambda contact: True,
        k: int = K,
        limit: int = MAX_QUESTIONS,
    ) -> None:
        self._rng = rng
        self._askable = askable
        self._k = k
        self._left = limit
        self._ids: list[int] = []
        self._known: dict[int, _Known] = {}
        self._turn: dict[int, float] = {}
        """The random order in which equal nodes are asked. Other newcomers have other orders."""

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, contacts: Iterable[Contact]) -> None:
        """Add nodes that exist."""
        for contact in contacts:
            number = _number(contact.id)
            if number not in self._known:
                insort(self._ids, number)
                self._known[number] = _Known(contact, silent=not self._askable(contact))
                # At random, so that newcomers at the same time begin at different gaps.
                self._turn[number] = self._rng.random()

    def questions(self, most: int) -> list[SurveyQuestion]:
        """The next questions, at most this many."""
        most = min(most, self._left)
        asked: list[SurveyQuestion] = []
        sure: list[_Path] = []
        # Best first: who seems to own most may be wrong, and one answer tells.
        for depth, _, number in self._by_depth():
            if len(asked) >= most or len(sure) >= ENOUGH or (sure and depth > len(sure[0].bits)):
                break
            # It may own a wide gap, but it can let nobody in.
            if self._known[number].silent:
                continue
            path = self._path(number)
            target = self._next_target(path)
            if target is None:
                sure.append(path)
            else:
                asked.append(SurveyQuestion(path.known.contact, target))
        # Counted when they are asked, whatever becomes of them.
        self._left -= len(asked)
        return asked

    def answered(self, question: SurveyQuestion, contacts: list[Contact]) -> None:
        """A node answered with these contacts."""
        self.learn(contacts)
        known = self._known[_number(question.contact.id)]
        # Only the answer about its own neighbours tells how far a node knows everybody.
        if question.target != known.contact.id:
            return
        number = _number(known.contact.id)
        shared = [ID_BITS - (number ^ _number(contact.id)).bit_length() for contact in contacts]
        # A full answer may have left out farther nodes. One that is not full has all that the node knows.
        known.horizon = min(shared) if len(contacts) >= self._k else -1

    def failed(self, question: SurveyQuestion) -> None:
        """A node did not answer. It may still own its gap, but cannot let anybody in."""
        self._known[_number(question.contact.id)].silent = True

    def gaps(self) -> list[Gap]:
        """Of all that told whom they know nearby, the best first: the widest, of those the ones with the fewest nodes around.

        Where the questions did not suffice to be sure, there is taken to be somebody wherever nobody was looked for.
        """
        found = []
        for number, known in self._known.items():
            if known.asked and not known.silent:
                path = self._path(number)
                depth = len(path.bits) + len(path.open())
                found.append((depth, path.counts[-2::-1], self._turn[number], path))
        return [
            Gap(path.known.contact, depth, crowd, path.bits[-1] + 1 if path.bits else 0)
            for depth, crowd, _, path in sorted(found)
        ]

    def is_taken(self, gap: Gap) -> None:
        """Another newcomer was let into this gap."""
        coming = Contact(gap.middle(self._rng), *gap.owner.address)
        self.learn([coming])
        known = self._known[_number(coming.id)]
        # It takes its half of the gap now, and cannot be asked yet.
        known.silent = known.coming = True

    def contacts(self) -> list[Contact]:
        """All known members, in the order of their IDs."""
        found = (self._known[number] for number in self._ids)
        return [known.contact for known in found if not known.coming]

    def _next_target(self, path: _Path) -> bytes | None:
        """The next question to a node, which counts as asked. None if its gap is certain."""
        known = path.known
        if not known.asked:
            known.asked = True
            return known.contact.id
        open_bits = path.open()
        if not open_bits:
            return None
        known.searched.add(open_bits[0])
        return self._across(known.contact.id, open_bits[0])

    def _across(self, id: bytes, bit: int) -> bytes:
        """A random ID with exactly this many leading bits in common."""
        low = ID_BITS - 1 - bit
        return ((_number(id) >> low ^ 1) << low | self._rng.getrandbits(low)).to_bytes(ID_LEN, "big")

    def _by_depth(self) -> list[tuple[int, float, int]]:
        """The number of branches of each known node, its turn, and its ID, the widest gap first."""
        found: list[tuple[int, float, int]] = []
        ids, turn = self._ids, self._turn

        def descend(first: int, last: int, depth: int) -> None:
            if last - first == 1:
                found.append((depth, turn[ids[first]], ids[first]))
            elif last > first:
                _, middle = halves(ids, first, last)
                descend(first, middle, depth + 1)
                descend(middle, last, depth + 1)

        descend(0, len(ids), 0)
        return sorted(found)

    def _path(self, number: int) -> _Path:
        first, last = 0, len(self._ids)
        bits: list[int] = []
        counts: list[int] = []
        while last - first > 1:
            bit, middle = halves(self._ids, first, last)
            bits.append(bit)
            counts.append(last - first)
            first, last = (first, middle) if number < self._ids[middle] else (middle, last)
        return _Path(self._known[number], tuple(bits), tuple(counts))


def _number(id: bytes) -> int:
    return int.from_bytes(id, "big")
