"""The number of hops expected by theory.

Kademlia's proof (Maymounkov and Mazieres, "Kademlia", 2002, section 3) halves the distance
with every step: at most log2 N steps and a few. A message that is passed on, as here and in
R/Kademlia (Heep, "R/Kademlia: Recursive and topology-aware overlay routing", 2010), takes the same
steps through the same tables as an iterative lookup of one query at a time.

With k random contacts in a bucket a step fixes more bits than one: the contact nearest to the key
shares some more with it. Cai and Devroye ("A probabilistic analysis of Kademlia networks",
2013) prove for this model that the steps are proportional to log N; `hops` computes their mean.
"""

import math

SIMULATED = {1_000: (1.9, 3), 10_000: (2.5, 4), 100_000: (3.1, 4), 1_000_000: (3.7, 5)}
"""Mean and 99th percentile of an independent simulation with k = 20, by number of nodes: what is to be met."""

_DEPTH = 20
"""Levels below the one at which a node is alone on average; deeper there is nobody."""


def halving(nodes: float) -> float:
    """Kademlia's bound: one bit a step."""
    return math.log2(nodes)


def hops(nodes: int, k: int) -> float:
    """The mean for random IDs, where a bucket holds k random contacts of its range.

    `left[i]`: hops from a node that shares i - 1 bits with the key and differs in the next, which fewer and
    fewer nodes do: Poisson(nodes / 2^i). If there is none of them, the next bit in which
    the node differs counts; up to k are all known, so the next is the owner; of more the nearest of k is
    taken, which shares m bits more with a known probability.
    """
    depth = math.ceil(math.log2(nodes)) + _DEPTH
    left = [0.0] * (depth + 1)
    for level in range(depth, 0, -1):
        there = nodes / 2**level
        none, few = _poisson(there, 0), sum(_poisson(there, number) for number in range(1, k + 1))
        deeper = left[level + 1 :]
        hopped = sum(_shared(k, more) * each for more, each in enumerate(deeper))
        left[level] = none * _next_that_differs(deeper) + few + max(0.0, 1 - none - few) * (1 + hopped)
    return _next_that_differs(left[1:])


def _next_that_differs(left: list[float]) -> float:
    return sum(each / 2.0 ** (bits + 1) for bits, each in enumerate(left))


def _shared(k: int, bits: int) -> float:
    """The probability that the nearest of k random contacts shares exactly so many further bits with the key."""
    return float((1 - 2.0 ** -(bits + 1)) ** k - (1 - 2.0**-bits) ** k)


def _poisson(mean: float, number: int) -> float:
    return math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
