"""What the parts of a coordinator share."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kdht._routing import Core
from kdht.node.cluster import ClusterState
from kdht.node.replicas._clock import HybridClock
from kdht.node.replicas._recent import Recent
from kdht.node.replicas.calls import Calls
from kdht.storage import Store


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

    cluster: ClusterState
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
