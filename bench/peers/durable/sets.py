"""Sets of announcers: kdht beside etcd (a lease for each, read by prefix), Redis (a sorted set by expiry) and serf (gossip).

hard: two disks have the announcement before it is confirmed. soft: the memory of two nodes; of etcd, which has no such write, the
renewal of a lease, which only the leader's memory takes. read: of a set at one node. quorum: no older than the last confirmed
announcement. died: seconds from the last sign of life of an announcer until it is gone from the answers.

An announcement at etcd is two requests, LeaseGrant and Put. In serf each announcer is an agent of its own, and asks its own agent, so
only deaths are compared: of a killed agent, seen by another.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.peers import table
from bench.peers.asking import ask
from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds
from bench.peers.durable import etcd, grpc, own, redis
from bench.peers.durable.base import HOME, NODES, START, costing, found, free_ports, started
from bench.peers.kdht_cluster import PROTOCOL, cookie
from bench.peers.measure import Figures, medians
from bench.peers.missing import PeerMissing
from kdht.client._sets import announce_call, members_call
from kdht.errors import LabError
from kdht.lab.cluster import Cluster
from kdht.lab.wait import wait_until
from kdht.wire import OFFSET, pack_request

MEMBERS = 25
"""Of each set: as many as kdht's answer from a majority has, so that everybody's answer is the whole set."""
TTL = 600
DEATH_TTL = 5
OUTSTANDING = 32
LOOK = 0.02
WHAT = ("hard", "soft", "read", "quorum")
Loads: TypeAlias = Mapping[str, Callable[[], Timing]]
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    announcements: int = 4000
    reads: int = 10_000
    rounds: int = 3


@dataclass(frozen=True)
class Running:
    """A cluster: its processor time, its loads by name, and seconds until a death is seen."""

    cpu_seconds: Callable[[], float]
    loads: Loads
    died: Callable[[], float]


def payload(number: int) -> bytes:
    """An IPv4 address and a port, as bytes."""
    return number.to_bytes(6, "big")


def set_of(number: int) -> str:
    return f"set-{number // MEMBERS:06d}"


def gone(is_there: Callable[[], bool]) -> float:
    """Seconds until it is not there any more."""
    begun = time.monotonic()
    while is_there():
        time.sleep(LOOK)
    return time.monotonic() - begun


# --- kdht


@contextmanager
def in_kdht(plan: Plan, directory: Path) -> Iterator[Running]:
    with own.cluster(directory) as cluster:
        proof = cookie(str(cluster.nodes[0].address))

        def announced(soft: bool) -> Timing:
            return _ask_kdht(
                cluster, [_announcement(n, TTL, proof, soft) for n in range(plan.announcements)], []
            )

        def read(quorum: bool) -> Timing:
            numbers = _asked(plan)
            requests = [_question(set_of(n), proof, quorum) for n in numbers]
            return _ask_kdht(cluster, requests, [payload(n) for n in numbers])

        def died() -> float:
            number = plan.announcements + MEMBERS
            _ask_kdht(cluster, [_announcement(number, DEATH_TTL, proof, False)], [])
            question, answer = [_question(set_of(number), proof, True)], [payload(number)]
            return gone(lambda: not _ask_kdht(cluster, question, answer).failed)

        yield Running(
            lambda: cpu_seconds([node.pid for node in cluster.nodes]),
            {
                "hard": lambda: announced(False),
                "soft": lambda: announced(True),
                "read": lambda: read(False),
                "quorum": lambda: read(True),
            },
            died,
        )


def _announcement(number: int, ttl: int, proof: bytes, soft: bool) -> bytes:
    call = announce_call(set_of(number), payload(number), ttl, None, soft=soft)
    return _with_cookie(pack_request(call.op, call.key, 0, call.body), proof)


def _question(name: str, proof: bytes, quorum: bool) -> bytes:
    call = members_call(name, 0, quorum=quorum)
    return _with_cookie(pack_request(call.op, call.key, 0, call.body), proof)


def _with_cookie(message: bytearray, proof: bytes) -> bytes:
    at = OFFSET["cookie"]
    message[at : at + len(proof)] = proof
    return bytes(message)


def _ask_kdht(cluster: Cluster, requests: Sequence[bytes], answers: Sequence[bytes]) -> Timing:
    outstanding = min(OUTSTANDING, len(requests))
    return ask([str(cluster.nodes[-1].address)], requests, answers, PROTOCOL, outstanding)


# --- etcd

GRANT, KEEP_ALIVE = "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseKeepAlive"
# Above it all numbers have as many bytes as protobuf writes them in.
FIRST_LEASE = 1 << 56


@contextmanager
def in_etcd(plan: Plan, directory: Path) -> Iterator[Running]:
    with etcd.cluster(directory) as (pids, leader):
        store = etcd.Running((), pids, leader)
        leases = iter(range(FIRST_LEASE, FIRST_LEASE << 1, plan.announcements))
        kept: list[int] = []

        def put(numbers: Sequence[int], ttl: int) -> Timing:
            kept[:] = [next(leases)]
            grants = [grpc.request(GRANT, {1: ttl, 2: kept[0] + n}) for n in range(len(numbers))]
            puts = [etcd.put_request(_etcd_key(n), payload(n), kept[0] + at) for at, n in enumerate(numbers)]
            window = min(OUTSTANDING, len(numbers))
            granted, done = store.ask(grants, [], window), store.ask(puts, [], window)
            seconds, cpu = granted.seconds + done.seconds, granted.client_cpu + done.client_cpu
            failed = granted.failed + done.failed
            return Timing(done.done, failed, seconds, granted.p50 + done.p50, granted.p99 + done.p99, cpu)

        def renewed() -> Timing:
            calls = [grpc.request(KEEP_ALIVE, {1: kept[0] + n}) for n in range(plan.announcements)]
            return store.ask(calls, [], OUTSTANDING)

        def read(numbers: Sequence[int], serializable: bool) -> Timing:
            requests = [_prefix(set_of(n), serializable) for n in numbers]
            return store.ask(requests, [payload(n) for n in numbers], min(OUTSTANDING, len(numbers)))

        def died() -> float:
            number = plan.announcements + MEMBERS
            put([number], DEATH_TTL)
            return gone(lambda: not read([number], False).failed)

        yield Running(
            store.cpu_seconds,
            {
                "hard": lambda: put(range(plan.announcements), TTL),
                "soft": renewed,
                "read": lambda: read(_asked(plan), True),
                "quorum": lambda: read(_asked(plan), False),
            },
            died,
        )


def _etcd_key(number: int) -> bytes:
    return f"{set_of(number)}/{number:08d}".encode()


def _prefix(name: str, serializable: bool) -> bytes:
    fields: grpc.Fields = {1: f"{name}/".encode(), 2: f"{name}0".encode()}  # "0" comes after "/"
    return grpc.request(etcd.RANGE, fields | ({7: 1} if serializable else {}))


# --- Redis


@contextmanager
def in_redis(plan: Plan, directory: Path) -> Iterator[Running]:
    with redis.cluster(directory) as (pids, ports):
        store = redis.Running((), pids, ports[0])

        def put(numbers: Sequence[int], ttl: int, sync: bytes) -> Timing:
            for port in ports:
                redis.Running((), pids, port).call(redis.command(b"CONFIG", b"SET", b"appendfsync", sync))
            expiry = b"%.3f" % (time.time() + ttl)
            adds = [redis.command(b"ZADD", set_of(n).encode(), expiry, payload(n)) for n in numbers]
            return store.write(adds, min(OUTSTANDING, len(numbers)))

        def read(numbers: Sequence[int]) -> Timing:
            # The reader's clock, as a client has it.
            now = b"(%.3f" % time.time()
            asked = [redis.command(b"ZRANGEBYSCORE", set_of(n).encode(), now, b"+inf") for n in numbers]
            return store.read(
                asked, [payload(n) for n in numbers], min(OUTSTANDING, len(numbers)), len(numbers)
            )

        def died() -> float:
            number = plan.announcements + MEMBERS
            put([number], DEATH_TTL, b"always")
            return gone(lambda: not read([number]).failed)

        yield Running(
            store.cpu_seconds,
            {
                "hard": lambda: put(range(plan.announcements), TTL, b"always"),
                "soft": lambda: put(range(plan.announcements), TTL, b"everysec"),
                "read": lambda: read(_asked(plan)),
            },
            died,
        )


# --- serf


@contextmanager
def in_serf(plan: Plan, directory: Path) -> Iterator[Running]:
    if found("serf") is None:
        raise PeerMissing("serf is not installed")
    agents = [free_ports(2) for _ in range(NODES)]
    with ExitStack() as stack:
        processes = []
        for number, (port, rpc) in enumerate(agents):
            command = ["serf", "agent", f"-node=n{number}", f"-bind={HOME}:{port}", f"-rpc-addr={HOME}:{rpc}"]
            command += [f"-join={HOME}:{agents[0][0]}"] if number else []
            processes.append(stack.enter_context(started(command, directory / f"serf{number}.log")))
            if not number:
                wait_until(lambda: _alive(agents[0][1]) == 1, "serf to start", START)
        wait_until(lambda: _alive(agents[0][1]) == NODES, "serf's agents to know each other", START)

        def died() -> float:
            processes[-1].kill()
            seconds = gone(lambda: _alive(agents[0][1]) == NODES)
            processes[-1].wait()
            port, rpc = agents[-1]
            again = [
                "serf",
                "agent",
                f"-node=n{NODES - 1}",
                f"-bind={HOME}:{port}",
                f"-rpc-addr={HOME}:{rpc}",
            ]
            again += [f"-join={HOME}:{agents[0][0]}"]
            processes[-1] = stack.enter_context(started(again, directory / "serf-again.log"))
            wait_until(lambda: _alive(agents[0][1]) == NODES, "serf's agent to be back", START)
            return seconds

        yield Running(lambda: cpu_seconds(process.pid for process in processes), {}, died)


def _alive(rpc: int) -> int:
    """How many members an agent takes for living."""
    command = ["serf", "members", f"-rpc-addr={HOME}:{rpc}", "-status=alive", "-format=json"]
    done = subprocess.run(command, capture_output=True, check=False)
    return len(json.loads(done.stdout)["members"]) if done.returncode == 0 else 0


# --- All of them

PEERS = {"kdht": in_kdht, "etcd": in_etcd, "Redis": in_redis, "serf": in_serf}


def _asked(plan: Plan) -> list[int]:
    return [n * 7919 % plan.announcements for n in range(plan.reads)]


def compare(plan: Plan, tell: Tell) -> dict[str, Any]:
    """All clusters run at once and are asked in turn."""
    rounds: dict[str, list[Figures]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="kdht-sets.") as directory, ExitStack() as stack:
        running: dict[str, Running] = {}
        for name, start in PEERS.items():
            try:
                running[name] = stack.enter_context(start(plan, Path(directory)))
            except (PeerMissing, LabError, OSError) as why:
                missing[name] = str(why)
        for number in range(plan.rounds):
            figures: dict[str, Figures] = {name: {} for name in running}
            for what in WHAT:
                for name, each in running.items():
                    if what in each.loads:
                        _add(figures[name], what, *costing(each.cpu_seconds, each.loads[what]))
                        tell(
                            f"round {number + 1}: {name}, {what}: {figures[name][f'{what}_per_second']:,.0f}/s"
                        )
            for name, each in running.items():
                figures[name]["died_seconds"] = each.died()
                rounds.setdefault(name, []).append(figures[name])
    return {"peers": {name: medians(each) for name, each in rounds.items()}, "missing": missing}


def _add(figures: Figures, what: str, done: Timing, cpu_us: float) -> None:
    figures[f"{what}_per_second"] = done.done / done.seconds
    figures[f"{what}_p50_ms"] = done.p50
    figures[f"{what}_cpu_us"] = cpu_us
    figures[f"{what}_failed"] = float(done.failed)


def report(measured: Mapping[str, Any]) -> str:
    """As Markdown."""
    columns = [
        (f"{what}{unit}", f"{what}{key}")
        for what in WHAT
        for unit, key in (("/s", "_per_second"), (", CPU µs", "_cpu_us"))
    ]
    rows = []
    for name, figures in measured["peers"].items():
        cells = [format(figures[key], ",.0f") if key in figures else "" for _, key in columns]
        failed = sum(value for key, value in figures.items() if key.endswith("_failed"))
        rows.append([name, *cells, f"{figures['died_seconds']:.1f}", f"{failed:.0f}"])
    head = ["", *(title for title, _ in columns), f"died (TTL {DEATH_TTL} s), s", "failed"]
    title = f"### Sets of {MEMBERS} members on 3 nodes on loopback, {OUTSTANDING} outstanding"
    absent = "\n".join(f"- missing: {name}: {why}" for name, why in measured["missing"].items())
    return "\n\n".join(filter(None, (title, table.markdown(head, rows), absent))) + "\n"
