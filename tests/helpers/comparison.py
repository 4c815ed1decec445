"""What the comparisons of the core and of the XDP program with the oracle share."""

import os
import random

from builders import Node, id_sharing, random_contact

from kdht.wire import _shared as shared
from kdht.wire._shared import Reason

SEED = int(os.environ.get("KDHT_COMPARE_SEED", "0"))
PER_NODE = 100
"""Packets for each random node."""
ELSEWHERE = {
    Reason.NOT_READY,
    Reason.NO_NEIGHBOUR,
    Reason.NO_ROUTE,
    Reason.RATE_LIMITED,
    Reason.PARTIAL,
    Reason.ANSWERED,
    Reason.NO_ROOM,
}
"""Not published, or the eBPF datapath's: no traffic gives these here."""
MESSAGES_ONLY = {Reason.BAD_MAGIC}


def change_table(rng: random.Random, node: Node) -> None:
    """Publish another content for one bucket, as the control plane does meanwhile."""
    index = rng.randrange(rng.choice((4, shared.ID_BITS)))
    self_id = node.settings.self_id
    ids = {id_sharing(rng, self_id, index) for _ in range(rng.randint(0, shared.ROOM))}
    node.set_bucket(index, [random_contact(rng, contact_id) for contact_id in sorted(ids)])
