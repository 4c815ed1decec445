"""How many hedges a client may send: a token bucket. No I/O and no clock."""

# Dean and Barroso ("The Tail at Scale", 2013) found that 2 to 5 % more requests cut the tail. Twice that leaves
# room for a dead node.
HEDGE_SHARE = 0.1
"""Tokens that every read adds."""
# A death is seen within two seconds. Until then all reads through the dead node are hedged, and the burst pays
# for those of a busy client.
HEDGE_BURST = 64.0


class HedgeBudget:
    """At most HEDGE_SHARE of the reads are hedged, beyond a burst.

    A hedge that brought the answer is paid back: it only did earlier what a retry would have done. So dead nodes do
    not use up the budget. An overloaded cluster does, because its late answers still answer the first try.
    """

    def __init__(self) -> None:
        self.tokens = HEDGE_BURST

    def request(self) -> None:
        """A read begins."""
        self.tokens = min(self.tokens + HEDGE_SHARE, HEDGE_BURST)

    def take(self) -> bool:
        """Pay for one hedge; False if there is not a whole token."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def pay_back(self, count: int) -> None:
        self.tokens = min(self.tokens + count, HEDGE_BURST)
