"""Newcomers that start together are let into this node's gap one after the other.

Contract: the middle of a gap is asked of the node that is alone in it. It says yes to one newcomer at a time: until
that one is in the table, or for a while. So of many that choose at the same moment no two take the same place, and
no node has to move once it has joined. A claim is no membership: its newcomer is verified like any other.
"""

from kdht.node.table import Table
from kdht.times import SteadyTime
from kdht.wire._shared import Status

CLAIM_SECONDS = 5.0
"""How long a newcomer that does not come keeps others out."""


class Claims:
    """Of one node."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._id: bytes | None = None
        self._until = 0.0

    def claim(self, id: bytes, now: SteadyTime) -> Status:
        """OK; BUSY while another comes; NOT_RESPONSIBLE where a contact is as close to the ID as this node."""
        table = self._table
        if table.index(id) <= table.deepest():
            return Status.NOT_RESPONSIBLE
        if self._id not in (None, id) and now < self._until and table.get(self._id or b"") is None:
            return Status.BUSY
        self._id = id
        self._until = now + CLAIM_SECONDS
        return Status.OK
