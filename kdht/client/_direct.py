"""Whether a client asks for direct answers, which come from any node's address. No I/O and no clock.

A NAT or a stateful firewall drops them. After DIRECT_MISSES tries in a row without such an answer the client asks
for none during DIRECT_PAUSE. If one of them comes after all, they are only slow, and the pause ends.
"""

from kdht.client._datagram import Sent

# One or two may be lost on the way. Each costs the reader the time of a hedge, so waiting for more proof would
# be dear.
DIRECT_MISSES = 3
# A laptop may leave its NAT. Until then one hedge in a minute is cheap.
DIRECT_PAUSE = 60.0
"""Seconds."""
MAX_MISSED = 256
"""Missed tries that are remembered, to recognise late answers."""


class DirectAnswers:
    """Of one client; it never asks for them unless they are `allowed`."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._misses: set[int] = set()
        """The requests of the run of misses. Each of their tries was sent after the one before was missed."""
        self._missed_at = float("-inf")
        self._again_at = float("-inf")
        self._asked: dict[int, int] = {}
        """Of the last missed tries: the request's number, and the node that was asked."""

    def wanted(self, now: float) -> bool:
        """Whether to ask for one now."""
        return self._allowed and now >= self._again_at

    def answered(self) -> None:
        """One came from another node than was asked. (An answer by the asked node itself proves nothing.)"""
        self._misses.clear()
        self._again_at = float("-inf")
        # Their answers came by now or are lost. Kept longer, a reused request number could match them.
        self._asked.clear()

    def came_late(self, number: int, node: int) -> None:
        """A datagram came from `node` for a request that has ended: one of those that were missed, perhaps."""
        if self._asked.get(number, node) != node:
            self.answered()
        else:
            self.was_slow(number)

    def was_slow(self, number: int) -> None:
        """The asked node itself answered: a NAT would let that through, but nothing was lost, so it is no miss."""
        if number in self._misses:
            self._misses.remove(number)
            self._again_at = float("-inf")

    def missed(self, number: int, sent: Sent, now: float) -> None:
        """A try of the request of that number got no answer in time."""
        # Dictionaries keep their order, so the first is the oldest.
        if len(self._asked) == MAX_MISSED:
            del self._asked[next(iter(self._asked))]
        self._asked[number] = sent.node
        # It was under way during the last miss: tries lost together count once.
        if sent.at < self._missed_at:
            return
        # The first after a pause begins a new run.
        if len(self._misses) >= DIRECT_MISSES:
            self._misses.clear()
        self._misses.add(number)
        self._missed_at = now
        if len(self._misses) >= DIRECT_MISSES:
            self._again_at = now + DIRECT_PAUSE
