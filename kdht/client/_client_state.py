"""The common state of all requests of one client: its limits, and its knowledge of nodes, keys and clocks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from kdht.client._clock import WriteClock
from kdht.client._datagram import RequestOutbox
from kdht.client._direct import DirectAnswers
from kdht.client._hedging import HedgeBudget
from kdht.client._nodes import KnownNodes
from kdht.client._owners import Owners
from kdht.client._rights import Rights
from kdht.client._routes import ReadRoutes
from kdht.client._seal import Seal
from kdht.client._versions import Versions


@dataclass(slots=True)
class ClientState:
    """The session makes it and hands it to every request and watch."""

    timeout: float
    """Seconds for one request."""
    attempts: int
    """Tries of one request."""
    rng: Random
    node_name: Callable[[int], str]
    """How a node is called in messages, by its index."""
    nodes: KnownNodes
    direct: DirectAnswers
    owners: Owners
    routes: ReadRoutes
    clock: WriteClock
    outgoing: RequestOutbox
    rights: Rights
    seal: Seal
    budget: HedgeBudget = field(default_factory=HedgeBudget)
    versions: Versions = field(default_factory=Versions)
    cookie: int = 0
    """That of the latest reply with one; 0 for none."""
