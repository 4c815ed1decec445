"""The datapath without a kernel, for tests and virtual clusters: a network with a clock of its own, and a node's place on it."""

from kdht.datapath.memory.network import START, Event, MemoryClient, MemoryNetwork, Received
from kdht.datapath.memory.transport import TICK, MemoryTransport, attach

__all__ = [
    "START",
    "TICK",
    "Event",
    "MemoryClient",
    "MemoryNetwork",
    "MemoryTransport",
    "Received",
    "attach",
]
