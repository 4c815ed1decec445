"""Anti-entropy and handoff: bring every record to its replicas, and away from other nodes.

A node that sees that another replica lacks a record offers it, and sends it as STORE. `ranges` says which keys two nodes
keep in common, `digests` sums up their records, `compare` finds the difference, `push` moves records, `answers` is the
other side, `handoff` gives away what belongs elsewhere, `plan` says when, `caught_up` says what this node may answer for,
and `repair` is the interface to the node.

Contract: no clock, and no I/O but reads of the store and `Store.drop`. The node is the only caller.
"""

from kdht.node.repair.caught_up import Doubt
from kdht.node.repair.keeping import Keeping, dropping_at_once
from kdht.node.repair.options import RepairOptions
from kdht.node.repair.repair import Repair

__all__ = ["Doubt", "Keeping", "Repair", "RepairOptions", "dropping_at_once"]
