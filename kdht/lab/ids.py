"""Repeatable node IDs, spread so that every key has exactly its replicas.

Random IDs sometimes have two nodes so near each other that both keep a whole range of keys, although one would do
(kdht.node.repair.ranges.MAX_FREE_BITS). Tests that count records must avoid that.
"""

from random import Random

from kdht.wire._shared import ID_BITS, ID_LEN

FIRST_BITS = 6
"""All IDs differ in these bits: no two share more than FIRST_BITS - 1."""
MOST = 1 << FIRST_BITS


def spread(count: int, seed: int = 0) -> list[bytes]:
    """`count` IDs, at most MOST: the first bits halve what is left with each, the others are random, seeded."""
    if not 0 <= count <= MOST:
        raise ValueError(f"0 to {MOST} IDs can be spread, not {count}")
    rng = Random(f"ids {seed}")
    low = ID_BITS - FIRST_BITS
    firsts = [int(f"{number:0{FIRST_BITS}b}"[::-1], 2) for number in range(count)]
    return [(first << low | rng.getrandbits(low)).to_bytes(ID_LEN, "big") for first in firsts]
