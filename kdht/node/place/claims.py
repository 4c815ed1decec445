"""Newcomers that start together are let into this node's gap one after the other.

Contract: a newcomer claims the middle of a gap from the node that is alone in it. That node lets in one newcomer at a time: it
refuses others until the first is in its table, or for a while. So no two of them take the same place, and no node has to
move after it has joined. A claim is no membership: the newcomer is verified like any other.
"""

from kdht.node.table import Table
from kdht.times import SteadyTime
from kdht.wire._shared import Status

# Longer than a join takes. A newcomer that died on the way must not keep others out for long.
CLAIM_SECONDS = 5.0
"""Seconds for which a newcomer that does not join keeps others out."""


class Claims:
    """The claims at one node."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._id: bytes | None = None
        self._until = 0.0

    def claim(self, id: bytes, now: SteadyTime) -> Status:
        """The answer to a claim: OK, BUSY while another one joins, or NOT_RESPONSIBLE if a contact is as close to the ID."""
        table = self._table
        # This node is not alone there: another one owns the gap.
        if table.index(id) <= table.deepest():
            return Status.NOT_RESPONSIBLE
        # Once the first is in the table it owns its half, and this gap is another one.
        if self._id not in (None, id) and now < self._until and table.get(self._id or b"") is None:
            return Status.BUSY
        self._id = id
        self._until = now + CLAIM_SECONDS
        return Status.OK
