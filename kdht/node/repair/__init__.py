"""Anti-entropy and handoff: every record on its replicas, and nowhere else for long.

Contract: no clock and no I/O but reads of the store and `Store.drop`; one caller at a time, the
node's. A push protocol: who sees that another replica lacks something offers it and
sends it as STORE. `ranges` says what two nodes share, `digests` sums up what lies there, `compare`
finds the difference, `push` moves records, `answers` is the other side, `handoff` gives away
what belongs elsewhere, `plan` says when, and `repair` has the seam to the node.
"""

from kdht.node.repair.caught_up import Doubt
from kdht.node.repair.keeping import Keeping, dropping_at_once
from kdht.node.repair.options import RepairOptions
from kdht.node.repair.repair import Repair

__all__ = ["Doubt", "Keeping", "Repair", "RepairOptions", "dropping_at_once"]
