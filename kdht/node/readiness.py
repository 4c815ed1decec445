"""Whether a node should serve yet. That is another question than whether it lives.

Contract: a node is ready once everything required has been reached. The node requires that it has joined and that its
table is warm. Other parts add their requirements before the node starts.
"""

from collections import deque

from kdht.node.events import Event, Ready

JOINED = "joined"
TABLE = "table"
RECORDS = "records"
"""What other replicas have, and this node does not yet."""
REACH = "reach"
"""Members that others name, and that this node cannot talk to."""
DISK = "disk"
"""A disk that takes writes: the last one failed."""
OWN_ID = "own ID"
"""An ID that no older living node has."""
REPLICAS = "replicas"
"""Another living node, of a node that had others: see Census."""
LEAVING = "leaving"
"""Required of a node that goes, and never reached."""


class Readiness:
    """What is still missing, by name."""

    def __init__(self, events: deque[Event]) -> None:
        self._events = events
        self._missing: dict[str, None] = {}

    @property
    def ready(self) -> bool:
        return not self._missing

    @property
    def missing(self) -> list[str]:
        """What is required and not reached, in the order in which it was required."""
        return list(self._missing)

    def require(self, what: str) -> None:
        """Not ready before `what` is reached, again if it was."""
        self._missing[what] = None

    def reached(self, what: str) -> None:
        """`what` is given. An event tells when that was the last thing missing."""
        if what in self._missing:
            del self._missing[what]
            if self.ready:
                self._events.append(Ready())
