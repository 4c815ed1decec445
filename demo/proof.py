"""The packets' way according to the counters: facts of each node, and the checks.

The path has three independent witnesses. nft counts diverted and re-addressed packets. The queue's
worker and the socket count their verdicts in their own lanes. The client's host counts its
datagrams.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from demo.stage import Stage
from demo.traffic import Pass
from kdht.client import Hop
from kdht.config.schema import ReplicationSection
from kdht.errors import LabError
from kdht.lab.cluster import LabNode
from kdht.lab.wait import wait_until
from kdht.node.repair.ranges import View, number
from kdht.wire import hash_key

READDRESSED = ("ENTERED", "NEXT_HOP", "RELAYED")
"""Reasons of the verdicts that send a packet on: into the cluster, to the next hop, to the client."""

SETTLED = 30.0
"""Seconds until every record is at its nodes, and at no others."""

MOST_LOOKS = 50
"""Pairs of looks at a node's counters, until none of its packets passes between the two."""

CLIENT_COUNTERS = """
table inet demo_client {
    counter asked { }
    counter answered { }
    chain output { type filter hook output priority 0; udp dport %(port)d counter name asked; }
    chain input { type filter hook input priority 0; udp sport %(port)d counter name answered; }
}
"""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    address: str
    node_id: str
    records: int
    datapaths: Mapping[str, str]
    """State by name."""
    socket: Mapping[str, int]
    """Verdicts by reason, given on the daemon's socket."""
    queue: Mapping[str, int]
    """Verdicts by reason, given by the queue's worker."""
    program: Mapping[str, int]
    """Verdicts by reason, given by the XDP program."""
    nft: Mapping[str, int]
    """Packets by nft counter; empty without nft."""

    def readdressed(self, lane: Mapping[str, int]) -> int:
        return sum(lane.get(reason, 0) for reason in READDRESSED)


class Check(NamedTuple):
    claim: str
    holds: bool
    detail: str


def facts_of(node: LabNode) -> NodeFacts:
    status = node.status()
    lanes, counters = _counted_together(node)
    return NodeFacts(
        name=node.name,
        address=str(node.address),
        node_id=status["node_id"],
        records=status["records"],
        datapaths={path["name"]: path["state"] for path in status["datapaths"]},
        socket=lanes["socket"],
        queue=lanes.get("nfqueue", {}),
        program=lanes.get("ebpf", {}),
        nft=counters,
    )


def _counted_together(node: LabNode) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, int]]:
    """The verdicts of each lane, and nft's counters, of one moment: no verdict of the queue came in between."""
    lanes = node.stats()["packets"]
    for _ in range(MOST_LOOKS):
        counters = node.host.counters() if node.place.host else {}
        before, lanes = lanes, node.stats()["packets"]
        # A node checks its fast path all the time, so packets leave also when no client asks.
        if before.get("nfqueue") == lanes.get("nfqueue"):
            return lanes, counters
    raise LabError(f"{node.name}: the queue has not paused between two looks at its counters")


def wait_kept(nodes: Sequence[LabNode], keys: Iterable[str]) -> int:
    """How many records the nodes should have; waits until they do, for a node may have stood in for a slow one."""
    ids = [bytes.fromhex(node.status()["node_id"]) for node in nodes]
    views = [View(id, set(ids) - {id}, ReplicationSection().replicas) for id in ids]
    kept = sum(view.kept_range(number(hash_key(key))) is not None for key in keys for view in views)
    with suppress(LabError):
        wait_until(lambda: sum(node.status()["records"] for node in nodes) == kept, "all replicas", SETTLED)
    return kept


def count_datagrams(stage: Stage) -> None:
    """From now on the client's host counts its datagrams."""
    if stage.client:
        stage.client.nft(CLIENT_COUNTERS % {"port": stage.nodes[0].address.port})


def checks(
    stage: Stage,
    entries: int,
    kept: int,
    passes: Mapping[str, Pass],
    ways: Mapping[str, Sequence[Hop]],
    facts: Sequence[NodeFacts],
) -> Iterator[Check]:
    """The conditions of a valid demonstration. `kept`: the number of records expected."""
    for name, result in passes.items():
        lost = len(result.failures)
        detail = f"{result.done} of {result.asked}" + (f", first: {result.failures[0]}" if lost else "")
        yield Check(f"{name}: all right", lost == 0 and result.done == result.asked, detail)
    stored = sum(node.records for node in facts)
    detail = f"{stored} records for {entries} values, {kept} should be"
    yield Check("every value has all its replicas", stored == kept, detail)
    hops = histogram(ways)
    yield Check("some keys are owned elsewhere", sum(hops[n] for n in hops if n) > 0, f"hops: {dict(hops)}")
    if stage.datapath == "nfqueue":
        yield from _queue_checks(stage, facts)
    if stage.datapath == "ebpf":
        yield from _program_checks(stage, facts)


def _queue_checks(stage: Stage, facts: Sequence[NodeFacts]) -> Iterator[Check]:
    assert stage.client is not None
    counted = stage.client.counters()
    asked, answered = counted["asked"], counted["answered"]
    yield Check("no datagram was lost", asked == answered, f"{asked} asked, {answered} answered")
    diverted = sum(node.nft.get("clients", 0) for node in facts)
    yield Check("nft diverted every request", diverted == asked, f"{diverted} diverted of {asked} asked")
    down = [node.name for node in facts if node.datapaths.get("nfqueue") != "up"]
    yield Check("the queue's workers run", not down, ", ".join(down) or "all up")
    queue = sum(node.readdressed(node.queue) for node in facts)
    socket = sum(node.readdressed(node.socket) for node in facts)
    yield Check(
        "the queue re-addressed, no socket did",
        queue > 0 and socket == 0,
        f"{queue} by the queue, {socket} by sockets",
    )
    forwarded = sum(node.nft.get("forwarded", 0) for node in facts)
    yield Check("nft saw each of them leave", forwarded == queue, f"{forwarded} forwarded, {queue} verdicts")


def _program_checks(stage: Stage, facts: Sequence[NodeFacts]) -> Iterator[Check]:
    assert stage.client is not None
    counted = stage.client.counters()
    asked, answered = counted["asked"], counted["answered"]
    yield Check("no datagram was lost", asked == answered, f"{asked} asked, {answered} answered")
    down = [node.name for node in facts if node.datapaths.get("ebpf") != "up"]
    yield Check("an XDP program on every node", not down, ", ".join(down) or "all up")
    program = sum(node.readdressed(node.program) for node in facts)
    socket = sum(node.readdressed(node.socket) for node in facts)
    left = sum(node.program.get("NO_NEIGHBOUR", 0) for node in facts)
    yield Check(
        "XDP re-addressed; sockets, at most what wanted a neighbour",
        program > 0 and socket <= left < program / 10,
        f"{program} in the kernel, {socket} by sockets",
    )
    entered, relayed = (sum(node.program[reason] for node in facts) for reason in ("ENTERED", "RELAYED"))
    yield Check(
        "each request that entered was relayed an answer",
        abs(entered - relayed) <= left,
        f"{entered} entered, {relayed} relayed",
    )


def histogram(ways: Mapping[str, Sequence[Hop]]) -> Counter[int]:
    """Keys by hops: how often a request is handed from node to node, 0 where the entry node owns the key."""
    return Counter(len(way) - 1 for way in ways.values())
