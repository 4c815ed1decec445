"""What a node knows of its cluster, for the coordinator of its reads and writes.

Contract: the node changes it, on its own thread. Any thread reads it: each field by itself is always valid. A new one
is that of a node that has not joined: its coordinator refuses writes.
"""

from dataclasses import dataclass, replace

from kdht.wire._shared import MAX_REPLICAS, REPLAY_WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many replicas a record has, and how many confirm a write. Raises ValueError."""

    replicas: int = 3
    acks: int = 2
    tombstone_ttl: int = 86400
    """Seconds after which a deletion is forgotten."""
    window: int = REPLAY_WINDOW
    """Seconds by which the clocks of two nodes may differ."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValueError(f"a record has 1 to {MAX_REPLICAS} replicas, not {self.replicas}")
        if not 1 <= self.acks <= self.replicas:
            raise ValueError(f"1 to {self.replicas} replicas can confirm a write, not {self.acks}")

    @property
    def majority(self) -> int:
        return self.replicas // 2 + 1

    def of(self, replicas: int) -> "Policy":
        """The same for another number of replicas: one, a majority or all of them confirm, as before."""
        # "All" stays all, and "quorum" stays a majority: the operator named a policy, and not a number.
        if self.acks == self.replicas > self.majority:
            return replace(self, replicas=replicas, acks=replicas)
        acks = replicas // 2 + 1 if self.acks >= self.majority else self.acks
        return replace(self, replicas=replicas, acks=acks)


class ClusterState:
    """One node's. `policy`: this node's own configuration."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """What counts now. Nodes may be configured with different numbers of replicas: the greatest one counts."""
        self.joined = False
        """Whether this node has found its cluster since it started. Before that it would take itself for the whole
        cluster: it refuses writes, and says of a miss that too few nodes were asked."""
        self.barred = False
        """Whether this node cannot reach some members: then it takes part in no read or write."""
        self.living = 0
        """Other nodes that answer."""
        self.others = 0
        """Those, and the dead that may come back. A cluster with fewer nodes than a write needs has all of them confirm
        it. A cluster that lost those nodes refuses the write."""
        self._own_policy = policy

    def found(self) -> None:
        """The node has joined, or it is the first."""
        self.joined = True

    def bar(self, barred: bool) -> None:
        """Whether the node cannot reach some members."""
        self.barred = barred

    def count(self, living: int, others: int) -> None:
        """So many other nodes there are."""
        self.living = living
        self.others = others

    def replicate(self, replicas: int) -> None:
        """Each record has so many replicas from now on."""
        self.policy = self._own_policy.of(replicas)
