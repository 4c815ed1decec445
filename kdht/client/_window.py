"""How many requests of a burst may be under way. No I/O and no clock.

The window follows loss. A loss on the way is no congestion as long as few are lost: a request and its answer cross up to
four links. Silence is congestion: then the window is halved, as TCP does after a time-out.
"""

# The window of other operations: a cluster takes so many at once from anybody.
FIRST_WINDOW = 64
# An overloaded cluster that takes more than 1.5 s for a write confirms none. With so few it gets out of that.
LEAST_WINDOW = 4
# More do not make a cluster on one host faster; less than half of what the search for chunks looks past (_journal).
MOST_WINDOW = 256
# A full buffer on the way loses more than that, and smaller windows would make 5 % loss slow for nothing.
MOST_LOST = 0.2
"""Share of a round's requests that may be lost until the window shrinks: 5 % loss on each of four links."""
SHRINK, GROW = 0.7, 1.25
AFTER_SILENCE = 0.5


class Window:
    """A round is as many outcomes as the window has requests."""

    def __init__(self) -> None:
        self.size = FIRST_WINDOW
        self._outcomes = self._lost = 0

    def silence(self) -> None:
        """Nothing was answered for longer than usual."""
        self.size = max(int(self.size * AFTER_SILENCE), LEAST_WINDOW)
        self._outcomes = self._lost = 0

    def count(self, outcomes: int, lost: int) -> None:
        """So many requests had an outcome; `lost` of them were late or refused."""
        self._outcomes += outcomes
        self._lost += lost
        if self._outcomes < self.size:
            return
        if self._lost > MOST_LOST * self._outcomes:
            self.size = max(int(self.size * SHRINK), LEAST_WINDOW)
        else:
            self.size = min(int(self.size * GROW) + 1, MOST_WINDOW)
        self._outcomes = self._lost = 0
