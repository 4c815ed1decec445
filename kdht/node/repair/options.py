"""What can be tuned in repair, with its bounds."""

from dataclasses import dataclass

from kdht.wire._shared import MAX_REPLICAS


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions:
    """Times are seconds. Raises ValueError for what cannot work."""

    replicas: int = 3
    rate: float = 10000.0
    """Datagrams per second for comparing and moving records, at most, apart from all other traffic: `window` says how many
    the network and the disks take beside it."""
    interval: float = 60.0
    """Between comparisons with each neighbour."""
    quiet: float = 1.5
    """Nothing begins before the contacts near this node have not changed for so long after the start..."""
    patience: float = 8.0
    """... or this long has passed."""
    first_delay: float = 0.6
    """From a change among the neighbours until the first replica acts: several changes are taken together."""
    second_delay: float = 7.0
    """Until the other replicas act, in case the first did not."""
    foreign_delay: float = 4.0
    """Until what belongs elsewhere is given away."""
    missed_delay: float = 2.0
    """Until a replica that did not confirm a write is looked after."""
    comparisons: int = 2
    """Neighbours that are compared with at the same time."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValueError(f"a record has 1 to {MAX_REPLICAS} replicas, not {self.replicas}")
        low = [name for name in RepairOptions.__slots__ if getattr(self, name) <= 0]
        if low:
            raise ValueError(f"{', '.join(low)}: must be above zero")
