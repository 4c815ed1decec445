"""One sample of `kdhtctl top`."""

from typing import Any

import msgspec

from kdht.program.answers import NodeStats
from kdht.program.node_status import NodeStatus

Rates = dict[str, Any]
"""As `stats`, with events a second in place of counts."""


class RoundTrips(msgspec.Struct):
    """Of the contacts, milliseconds."""

    contacts: int
    min: float
    p50: float
    p90: float
    max: float


class TopSample(msgspec.Struct, kw_only=True):
    """What a look shows."""

    seconds: float
    """Since the look before."""
    status: NodeStatus
    rates: Rates
    stats: NodeStats
    round_trips: RoundTrips | None
    probe_ms: float | None
    """Milliseconds until some key's owner answered through this node."""
