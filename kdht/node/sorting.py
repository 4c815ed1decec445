"""Whom a message that ends at this node is for."""

from collections.abc import Iterable
from typing import NamedTuple

from kdht.datapath.base import Datagram
from kdht.node.replicas.coordinator import OPS
from kdht.wire import OFFSET
from kdht.wire._shared import Reason

_OP = OFFSET["op"]


class Sorted(NamedTuple):
    """One batch, each part in its order."""

    routed: list[Datagram]
    """Requests: the service's."""
    replicas: list[Datagram]
    """STORE and FETCH, requests and replies: the coordinator's."""
    control: list[Datagram]
    """What is left: the node's."""


def by_receiver(batch: Iterable[Datagram]) -> Sorted:
    """Part a batch of local messages."""
    found = Sorted([], [], [])
    for datagram in batch:
        if datagram.reason is not Reason.CONTROL:
            found.routed.append(datagram)
        elif datagram.data[_OP] in OPS:
            found.replicas.append(datagram)
        else:
            found.control.append(datagram)
    return found
