"""What the parts of a coordinator share."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdht._routing import Core
from kdht.node.replicas.calls import Calls
from kdht.node.replicas.clock import HybridClock
from kdht.node.replicas.recent import Recent
from kdht.storage import Store
from kdht.wire._shared import MAX_REPLICAS


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many replicas a record has, and how many confirm a write. Raises ValueError."""

    replicas: int = 3
    acks: int = 2
    tombstone_ttl: int = 86400
    """Seconds after which a deletion is forgotten."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValueError(f"a record has 1 to {MAX_REPLICAS} replicas, not {self.replicas}")
        if not 1 <= self.acks <= self.replicas:
            raise ValueError(f"1 to {self.replicas} replicas can confirm a write, not {self.acks}")

    @property
    def majority(self) -> int:
        return self.replicas // 2 + 1

    def of(self, replicas: int) -> "Policy":
        """The same with so many replicas: one, a majority or all of them confirm, as it was."""
        if self.acks == self.replicas > self.majority:
            return replace(self, replicas=replicas, acks=replicas)
        acks = replicas // 2 + 1 if self.acks >= self.majority else self.acks
        return replace(self, replicas=replicas, acks=acks)


class Quorum(NamedTuple):
    """Of one key in the cluster as it is known."""

    nodes: int
    """Replicas that it has."""
    majority: int
    acks: int
    """Nodes that confirm a write."""


@dataclass(slots=True, kw_only=True)
class CoordinatorContext:
    """One coordinator's."""

    policy: Policy
    core: Core
    store: Store
    calls: Calls
    clock: HybridClock
    recent: Recent
    counters: Counter[str]
    holds: Callable[[bytes], bool]
    """Whether this node has caught up on a key, or kept it before others that have not."""
    on_missed: Callable[[bytes], None]
    """Hears of a key of which some replica did not confirm a write."""
