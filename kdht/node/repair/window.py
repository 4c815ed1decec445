"""The number of records under way at once: as many as network and disks allow beside the clients' traffic.

Additive increase, multiplicative decrease (Chiu and Jain, 1989; Jacobson, "Congestion Avoidance and Control", 1988), from a
slow start. A loss halves the window. An answer that took much longer than the quickest of late shrinks it too: then a
queue has grown in a disk, a socket or a processor, where clients wait as well (delay as the signal, as in LEDBAT, RFC 6817).
"""

from kdht.times import SteadyTime

# Repair must go on under any load, or a cluster that is always busy would never be whole again.
LEAST = 4
FIRST = 16
# A second's worth at a millisecond each. More only fills buffers.
MOST = 1024
# A sync of another group may come in between. That is no queue.
PATIENCE = 0.05
"""Seconds that an answer may take beyond `SLOWNESS` times the quickest."""
SLOWNESS = 2.0
MEMORY = 10.0
"""Seconds after which the quickest answer is measured anew: a disk may have become slower."""
# A late answer is a weaker sign than a loss.
GENTLE, HARD = 0.7, 0.5


class Window:
    """The window of one node, for all others together."""

    def __init__(self) -> None:
        self.size = float(FIRST)
        self._threshold = float(MOST)
        self._quickest = float("inf")
        self._since = 0.0
        self._coming = float("inf")
        self._calm_until = 0.0
        """Records that were under way when the window shrank count no more."""

    def answered(self, rtt: float, now: SteadyTime) -> None:
        """An answer came after `rtt` seconds, at the first try."""
        self._note(rtt, now)
        # A queue has grown somewhere, and clients wait in it too.
        if rtt > SLOWNESS * self._quickest + PATIENCE:
            self._shrink(GENTLE, rtt, now)
        elif self.size < self._threshold:
            self.size = min(self.size + 1, MOST)
        else:
            self.size = min(self.size + 1 / self.size, MOST)

    def lost(self, rtt: float, now: SteadyTime) -> None:
        """A datagram was lost, or the other node had too much to do."""
        self._shrink(HARD, rtt, now)

    def _note(self, rtt: float, now: SteadyTime) -> None:
        # Two values, so that the quickest of the last MEMORY seconds is known at the moment of the change.
        if now - self._since > MEMORY:
            self._quickest, self._coming, self._since = min(self._coming, rtt), rtt, now
        self._quickest = min(self._quickest, rtt)
        self._coming = min(self._coming, rtt)

    def _shrink(self, factor: float, rtt: float, now: SteadyTime) -> None:
        # All records of one round trip meet the same full queue: shrink once for them.
        if now < self._calm_until:
            return
        self._calm_until = now + rtt
        self.size = max(self.size * factor, LEAST)
        self._threshold = self.size
