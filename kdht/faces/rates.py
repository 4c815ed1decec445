"""How much each client may ask: a bucket of tokens for each IPv4 address and each IPv6 /64.

The node sees the faces' own address only, so its rates cannot do this. No clock: `now` is passed in. Bounded: of more than
MAX_CLIENTS clients the one that asked longest ago is forgotten, which gives it a full bucket.
"""

from collections import OrderedDict

from kdht.times import SteadyTime
from kdht.wire.addresses import MAPPED

# It bounds the memory, to about 16 MB. An attacker with more addresses finds full buckets; nft's limits
# are for that.
MAX_CLIENTS = 65536
PREFIX_BYTES = 8
"""Of an IPv6 address: one client may have all addresses of a /64."""


def client_of(ip: bytes) -> bytes:
    """What is counted together, from 16 bytes of address (Address.ip)."""
    return ip if ip[:12] == MAPPED else ip[:PREFIX_BYTES]


class Rates:
    """`rate`: requests a second, 0 for no limit; a client that was silent may ask so many at once."""

    def __init__(self, rate: int, max_clients: int = MAX_CLIENTS) -> None:
        self._rate = rate
        self._max = max_clients
        self._clients: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """Tokens left and when that was so, the longest unheard first."""

    def allows(self, ip: bytes, now: SteadyTime, cost: float = 1.0) -> bool:
        """Whether the client at `ip` (16 bytes) may ask now. Counts the request if so."""
        if not self._rate:
            return True
        client = client_of(ip)
        left, since = self._clients.pop(client, (float(self._rate), now))
        left = min(float(self._rate), left + (now - since) * self._rate)
        allowed = left >= cost
        self._clients[client] = (left - cost if allowed else left, now)
        if len(self._clients) > self._max:
            self._clients.popitem(last=False)
        return allowed
