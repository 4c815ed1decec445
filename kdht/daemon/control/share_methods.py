"""Methods of the control socket for shares: the part of each node, and the move that would make them more even."""

from collections.abc import Iterable, Sequence

from kdht.daemon.control.running import RunningNode
from kdht.daemon.control.server import Method, Params
from kdht.daemon.everyone import MAX_LOOKUPS, everyone, number_of
from kdht.node.place.shares import kept, least_greatest, move_that_helps, owned
from kdht.program.answers import Move, Share, Shares
from kdht.wire import Contact


class ShareMethods:
    """The methods of one daemon."""

    def __init__(self, running: RunningNode) -> None:
        self._running = running

    def table(self) -> dict[str, Method]:
        return {"shares": Method(self._shares)}

    async def _shares(self, params: Params) -> Shares:
        """Each node's part of all keys, as its owner and as one of its replicas."""
        parts = self._running().parts
        nodes, complete = await everyone(parts, MAX_LOOKUPS)
        return shares_of(nodes, complete, parts.coordinator.cluster.policy.replicas)


def shares_of(nodes: Iterable[Contact], complete: bool, replicas: int) -> Shares:
    """The shares of all nodes, how even they are, and the node that should move."""
    ordered = sorted(nodes)
    ids = [number_of(contact.id) for contact in ordered]
    owners, keepers = owned(ids), kept(ids, replicas)
    return Shares(
        complete=complete,
        replicas=replicas,
        nodes=[
            Share(contact.id.hex(), str(contact.address), owns, keeps)
            for contact, owns, keeps in zip(ordered, owners, keepers, strict=True)
        ],
        greatest_owner=max(owners) * len(ids),
        greatest_keeper=max(keepers) * len(ids) / sum(keepers),
        least_possible=least_greatest(len(ids)),
        move=_move(ordered, ids, owners),
    )


def _move(ordered: Sequence[Contact], ids: Sequence[int], owners: Sequence[float]) -> Move | None:
    found = move_that_helps(ids)
    if found is None:
        return None
    who, beside = found
    return Move(
        str(ordered[who].address), owners[who], str(ordered[beside].address), would_own=owners[beside] / 2
    )
