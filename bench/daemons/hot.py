"""One key with nearly all reads: the rate of its owner alone, and of its replicas together.

The C load asks all nodes in turn. "owner": every GET goes to the owner, as GETs do. "replicas": GETs go to the owner, the second and the
third replica in turn (`attempt` 0, 1, 2), as a client with `spread_reads` sends them. "at the owner": the owner is the only entry
node, which costs nobody else anything: its own limit.

"gets_per_owner_second" are all GETs for one second of the owner's processor: so many the cluster answers before its owner
has no time left. On a busy machine it says more than the rate.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from bench.daemons.clusters import Built, running
from bench.daemons.quota import limited
from bench.peers.asking import Protocol, ask
from bench.peers.base import Timing
from bench.peers.kdht_cluster import PROTOCOL, cookie, get_request
from kdht import Client
from kdht.lab.census import closest
from kdht.lab.cluster import LabNode
from kdht.lab.wait import wait_until
from kdht.wire import OFFSET, hash_key

VALUE_BYTES = 100
COLD = 200
"""Other keys."""
CYCLE = 2000
"""The repeated requests, drawn at random."""
TRIAL = 2000
HOT = "the hot key"
SETTLED = 60.0


class Plan(NamedTuple):
    """The setting. `hot` is the hot key's part of the reads, `cpu` a node's part of a processor."""

    nodes: int
    replicas: int
    hot: float
    cpu: float
    outstanding: int
    seconds: float
    seed: int
    datapath: str


def run(plan: Plan) -> dict[str, Any]:
    """All ways, one after the other, with one cluster."""
    with running(plan.nodes, plan.replicas, plan.datapath) as built:
        values = _fill(built, plan)
        ranked = _ranked(built)
        wait_until(lambda: all(node.status()["ready"] for node in built.nodes), "all to be ready", SETTLED)
        with limited(built.nodes, plan.cpu):
            everybody, owner = [str(node.address) for node in built.nodes], [str(ranked[0].address)]
            ways = {
                "at the owner": _measure(built, ranked, plan, values, owner, 1),
                "owner": _measure(built, ranked, plan, values, everybody, 1),
                "replicas": _measure(built, ranked, plan, values, everybody, plan.replicas),
            }
    return {**plan._asdict(), "ways": ways}


def _fill(built: Built, plan: Plan) -> dict[str, bytes]:
    rng = Random(plan.seed)
    values = {name: rng.randbytes(VALUE_BYTES) for name in (HOT, *(f"cold {n}" for n in range(COLD)))}
    with built.client.enter(), Client([str(node.address) for node in built.nodes], timeout=20) as client:
        for name, value in values.items():
            client.put(name, value)
    return values


def _ranked(built: Built) -> list[LabNode]:
    """Nearest to the hot key first."""
    named = {node.name: node for node in built.nodes}
    ids = [(id, name) for name, id in built.ids().items()]
    return [named[name] for name in closest(ids, hash_key(HOT), len(ids))]


def _measure(
    built: Built,
    ranked: Sequence[LabNode],
    plan: Plan,
    values: dict[str, bytes],
    targets: list[str],
    places: int,
) -> dict[str, Any]:
    with built.client.enter():
        proof = cookie(targets[0])
        requests, answers = _requests(plan, values, proof, places)
        # A repetition keeps its attempt, because attempts are measured here.
        protocol = Protocol(id_at=PROTOCOL.id_at, id_size=PROTOCOL.id_size, status_at=PROTOCOL.status_at)

        def load(count: int) -> Timing:
            return ask(targets, requests, answers, protocol, plan.outstanding, count)

        trial = load(TRIAL)
        before = [_answered(node) for node in ranked]
        spent = [_cpu_seconds(node) for node in ranked]
        done = load(max(TRIAL, round(plan.seconds * trial.done / trial.seconds)))
    answered = [late - early for early, late in zip(before, map(_answered, ranked), strict=True)]
    used = [late - early for early, late in zip(spent, map(_cpu_seconds, ranked), strict=True)]
    return {
        "gets_per_second": done.done / done.seconds,
        "failed": done.failed,
        "p50_ms": done.p50,
        "p99_ms": done.p99,
        "answered": answered,
        "processor": [each / done.seconds for each in used],
        "gets_per_owner_second": done.done / used[0],
    }


def _requests(
    plan: Plan, values: dict[str, bytes], proof: bytes, places: int
) -> tuple[list[bytes], list[bytes]]:
    """A cycle of GETs, the hot one's attempts in turn, and what must be in their answers."""
    rng = Random(plan.seed + 1)
    cold = [name for name in values if name != HOT]
    names = [HOT if rng.random() < plan.hot else rng.choice(cold) for _ in range(CYCLE)]
    requests = []
    for number, name in enumerate(names):
        message = bytearray(get_request(hash_key(name), proof))
        message[OFFSET["attempt"]] = number % places
        requests.append(bytes(message))
    return requests, [values[name] for name in names]


def _answered(node: LabNode) -> int:
    """GETs answered with a record."""
    stats = node.stats()
    return int(stats["requests"].get("GET OK", 0)) + int(stats["datapaths"]["socket"]["cache_answers"])


def _cpu_seconds(node: LabNode) -> float:
    """Of all threads of the daemon, in nanoseconds: the clock ticks of `stat` are too coarse for a lightly used node."""
    threads = Path(f"/proc/{node.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
