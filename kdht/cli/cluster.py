"""cluster: all nodes that the local one knows, in one table, their shares, and whether they see the same cluster.

There is no remote control protocol: a node tells its version, load and uptime on its own control
socket only. So there are two sources: the local daemon's knowledge of its contacts (round trip, age,
clock), and a client's requests. Every node in turn is the entry node of TRACEs to some keys, and
their owners are compared.

Nodes hear of a change one after the other, within a second or two. So differing views are asked
for again for a while, and only lasting differences count.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import click
import msgspec
from msgspec import structs

from kdht.cli.options import as_json, control_socket, emit, wide
from kdht.client import AsyncClient
from kdht.errors import Disagreement, RequestError
from kdht.program import control_client
from kdht.program.answers import Move, RoutingTable, Share, Shares
from kdht.program.node_status import NodeStatus, TwinPair

# Nodes asked at once: each answers within milliseconds, and silent ones must not add up their time-outs.
WINDOW = 16
# Seconds. Nodes agree a few seconds after a change, and each look asks all of them.
LOOK_AGAIN = 0.25
# Seconds. A large cluster is looked up in many steps, and each step may wait for a dead node.
SHARES_TIMEOUT = 60.0
Views = dict[str, dict[str, str | None]]
"""By the address asked and the key: the owner's ID, None without an answer."""


class Evenness(msgspec.Struct):
    """Shares as a whole: `Shares` without the nodes."""

    complete: bool
    replicas: int
    greatest_owner: float
    greatest_keeper: float
    least_possible: float
    move: Move | None

    @classmethod
    def of(cls, shares: Shares) -> Self:
        return cls(**{name: getattr(shares, name) for name in cls.__struct_fields__})


class NodeSeen(msgspec.Struct, kw_only=True):
    """One node. None: the local one does not know it, or did not ask."""

    id: str
    address: str
    self: bool = False
    version: str | None = None
    uptime: float | None = None
    records: int | None = None
    bucket: int | None = None
    rtt_ms: float | None = None
    age: float | None = None
    seen: float | None = None
    clock: float | None = None
    failures: int = 0
    demoted: bool | msgspec.UnsetType = msgspec.UNSET
    """Of the local one's contacts only."""
    asked: int | None = None
    """Keys that it was asked for."""
    answered: int | None = None
    agrees: int | None = None
    """How often it named the owner that most nodes name."""
    owns: float | None = None
    keeps: float | None = None

    @property
    def differs(self) -> bool:
        return self.agrees != self.asked


class ClusterSeen(msgspec.Struct, kw_only=True):
    """`cluster`."""

    node_id: str | None
    keys: int
    nodes: list[NodeSeen]
    shares: Evenness
    twins: list[TwinPair]


@click.command()
@control_socket
@click.option("--keys", type=click.IntRange(1, 256), default=8, show_default=True,
              help="Random keys; every node is asked for their owners.")  # fmt: skip
@click.option("--views/--no-views", default=True, help="Ask all nodes, not only the local daemon.")
@click.option("--timeout", type=click.FloatRange(0, 60, min_open=True), default=2.0, show_default=True,
              help="Seconds without an answer until a node counts as silent.")  # fmt: skip
@click.option("--settle", type=click.FloatRange(0, 600), default=10.0, show_default=True,
              help="While nodes differ, ask again for this many seconds.")  # fmt: skip
@wide
@as_json
def cluster(
    socket_path: Path, keys: int, views: bool, timeout: float, settle: float, wide: bool, as_json: bool
) -> None:
    """List all nodes that this one knows, and check that they agree on the owners of keys.

    A node owns the keys that it is closest to. It keeps the keys of which it is a replica. Both are shown as parts of
    all keys. If moving a node would make the shares more even, the last line names it (run kdhtctl move there).

    Load and uptime of the other nodes are not shown: run kdhtctl status there. Exits with 8 if a node is silent, or
    disagrees with most nodes, for longer than --settle. Nodes need a few seconds to learn of a change.
    """
    deadline = time.monotonic() + settle
    data = _look(socket_path, keys if views else 0, timeout)
    while _differ(data) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN)
        data = _look(socket_path, keys, timeout)
    emit(data, as_json, "cluster.cluster", wide=wide)
    if data.twins:
        raise Disagreement(two_with_one_id(data.twins))
    if _differ(data):
        raise Disagreement(difference(data.nodes))


def _look(path: Path, keys: int, timeout: float) -> ClusterSeen:
    """All nodes as they are seen now; each is asked for `keys` owners, if that is not 0."""
    status = control_client.ask(path, "status", NodeStatus)
    nodes = [_itself(status), *_contacts(control_client.ask(path, "table", RoutingTable))]
    if keys:
        names = [secrets.token_hex(8) for _ in range(keys)]
        seen = asyncio.run(_ask([node.address for node in nodes], names, timeout))
        compare(nodes, seen, names)
    shares = control_client.ask(path, "shares", Shares, timeout=SHARES_TIMEOUT)
    _give_shares(nodes, shares.nodes)
    return ClusterSeen(
        node_id=status.node_id, keys=keys, nodes=nodes, shares=Evenness.of(shares), twins=status.twins
    )


def _give_shares(nodes: list[NodeSeen], shares: Sequence[Share]) -> None:
    """Each node's part of all keys. Nodes that are no contacts of the local one come last."""
    by_id = {share.id: share for share in shares}
    for node in nodes:
        if share := by_id.pop(node.id, None):
            node.owns, node.keeps = share.owns, share.keeps
    nodes += [NodeSeen(**structs.asdict(share)) for share in by_id.values()]


def _differ(data: ClusterSeen) -> bool:
    return any(node.differs for node in data.nodes)


def two_with_one_id(twins: list[TwinPair]) -> str:
    """The problem and its remedy, in one line."""
    found = "; ".join(f"{' and '.join(pair.addresses)} have the ID {pair.id}" for pair in twins)
    return f"{found}: one of them was copied: stop the copy, move its data directory away, and start it again"


def difference(nodes: list[NodeSeen]) -> str:
    """The problem and its remedy, in one line."""
    differing = [node for node in nodes if node.differs]
    silent = [node.address for node in differing if node.answered != node.asked]
    others = [node.address for node in differing if node.answered == node.asked]
    found = [f"{', '.join(silent)} did not answer"] if silent else []
    found += [f"{', '.join(others)} named other owners than most"] if others else []
    return f"{'; '.join(found)}: ask again in a minute, then try kdhtctl doctor there"


def _itself(status: NodeStatus) -> NodeSeen:
    return NodeSeen(
        id=status.node_id or "",
        address=status.address,
        self=True,
        version=status.version,
        uptime=status.uptime,
        records=status.records,
    )


def _contacts(table: RoutingTable) -> list[NodeSeen]:
    return [
        NodeSeen(**structs.asdict(contact), bucket=bucket.index)
        for bucket in table.buckets
        for contact in bucket.contacts
    ]


async def _ask(addresses: list[str], keys: list[str], limit: float) -> Views:
    """The owner of every key by way of every node."""
    views: Views = {address: {} for address in addresses}
    turns = asyncio.Semaphore(WINDOW)

    async def ask(address: str) -> None:
        async with turns, AsyncClient(address, timeout=limit, attempts=3) as client:
            for key in keys:
                views[address][key] = await _owner(client, key)
                if views[address][key] is None:
                    return  # it is silent: one time-out is enough

    await asyncio.gather(*(ask(address) for address in addresses))
    return views


async def _owner(client: AsyncClient, key: str) -> str | None:
    try:
        path = await client.trace(key)
    except RequestError:
        # Shown as a node that named no owner: the others' views still count.
        return None
    return path[-1].contact.id.hex() if path and path[-1].owner and path[-1].contact else None


def compare(nodes: list[NodeSeen], views: Views, keys: list[str]) -> None:
    """How many keys each node was asked for, and how often it agreed with most nodes on the owner."""
    usual = {key: _most_common([view.get(key) for view in views.values()]) for key in keys}
    for node in nodes:
        view = views[node.address]
        node.asked = len(keys)
        node.answered = sum(owner is not None for owner in view.values())
        node.agrees = sum(view.get(key) is not None and view[key] == usual[key] for key in keys)


def _most_common(owners: list[str | None]) -> str | None:
    counted = Counter(owner for owner in owners if owner is not None)
    return counted.most_common(1)[0][0] if counted else None
