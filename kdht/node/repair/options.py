"""The options of repair, with their bounds."""

from dataclasses import dataclass

from kdht.wire._shared import MAX_REPLICAS


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions:
    """Times are seconds. Raises ValueError for what cannot work."""

    replicas: int = 3
    rate: float = 10000.0
    """Datagrams per second for comparing and moving records, at most. `window` keeps below that if network or disks are slow."""
    interval: float = 60.0
    """Between two comparisons with a neighbour."""
    quiet: float = 1.5
    """At the start, nothing begins before the table was unchanged for so long,"""
    patience: float = 8.0
    """or so long has passed."""
    first_delay: float = 0.6
    """From a change of neighbours until the first replica acts. Several changes are taken together."""
    second_delay: float = 7.0
    """From a change of neighbours until the other replicas act, in case the first did not."""
    foreign_delay: float = 4.0
    """Until records that belong elsewhere are given away."""
    missed_delay: float = 2.0
    """From a missed write until its key is compared."""
    comparisons: int = 2
    """Comparisons at the same time."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValueError(f"a record has 1 to {MAX_REPLICAS} replicas, not {self.replicas}")
        low = [name for name in RepairOptions.__slots__ if getattr(self, name) <= 0]
        if low:
            raise ValueError(f"{', '.join(low)}: must be above zero")
