"""PUTs that two disks have, and reads of a majority: rounds in which the peers take turns, and medians of them."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.peers import table
from bench.peers.base import Timing, make_values
from bench.peers.durable.base import Durable, Store
from bench.peers.durable.etcd import Etcd
from bench.peers.durable.own import Own
from bench.peers.durable.postgres import Postgres
from bench.peers.durable.redis import Redis
from bench.peers.measure import Figures, medians
from bench.peers.missing import PeerMissing
from kdht.errors import LabError

PEERS: tuple[Durable, ...] = (Own(), Etcd(), Postgres(), Redis())
OUTSTANDING = (1, 32, 128)
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of it."""

    values: int = 4000
    """At 32 and 128 outstanding."""
    alone: int = 500
    size: int = 100
    rounds: int = 3


def compare(plan: Plan, tell: Tell, peers: Sequence[Durable] = PEERS) -> dict[str, Any]:
    """All clusters run at once and are asked in turn, so what else this machine does meets all of them."""
    values = make_values(plan.values, plan.size)
    missing = {peer.name: why for peer in peers if (why := peer.missing())}
    rounds: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="kdht-durable.") as directory, ExitStack() as stack:
        stores: dict[str, Store] = {}
        for peer in peers:
            if peer.name in missing:
                continue
            try:
                stores[peer.name] = stack.enter_context(peer.store(values, Path(directory)))
            except (PeerMissing, LabError) as why:
                missing[peer.name] = str(why)
        for number in range(plan.rounds):
            for name, figures in one_round(stores, plan).items():
                rounds.setdefault(name, []).append(figures)
                tell(
                    f"round {number + 1} of {plan.rounds}: {name}, {figures['put_32_per_second']:,.0f} PUTs/s"
                )
    return {
        "stores": {name: medians(each) for name, each in rounds.items()},
        "missing": missing,
        "notes": {peer.name: peer.notes for peer in peers},
    }


def one_round(stores: Mapping[str, Store], plan: Plan) -> dict[str, Figures]:
    """All loads, each at every store in turn."""
    found: dict[str, Figures] = {name: {} for name in stores}
    for outstanding in OUTSTANDING:
        numbers = range(plan.alone if outstanding == 1 else plan.values)
        for name, store in stores.items():
            _add(found[name], f"put_{outstanding}", store, partial(store.put, numbers, outstanding))
        for name, store in stores.items():
            _add(found[name], f"get_{outstanding}", store, partial(store.get, numbers, outstanding))
    return found


def _add(figures: Figures, what: str, store: Store, load: Callable[[], Timing | None]) -> None:
    before = store.cpu_seconds()
    done = load()
    if done is None:
        return
    figures[f"{what}_cpu_us"] = 1e6 * (store.cpu_seconds() - before) / done.done
    figures[f"{what}_per_second"] = (done.done - done.failed) / done.seconds
    figures[f"{what}_p50_ms"] = done.p50
    figures[f"{what}_p99_ms"] = done.p99
    figures[f"{what}_client_us"] = 1e6 * done.client_cpu / done.done
    figures[f"{what}_failed"] = float(done.failed)


def report(found: Mapping[str, Any]) -> str:
    """As Markdown."""
    plan = found["plan"]
    parts = [f"### 3 nodes on loopback, {plan['size']}-byte values, synced on two disks"]
    for what, title in (("put", "PUT"), ("get", "read of a majority")):
        rows = [
            [name, *(_columns(figures, what))]
            for name, figures in found["stores"].items()
            if f"{what}_1_p50_ms" in figures
        ]
        counts = " / ".join(map(str, OUTSTANDING))
        head = ["", f"{title}s/s at {counts}", "p50 ms", "p99 ms", f"server CPU µs a {title}", "failed"]
        parts.append(table.markdown(head, rows))
    parts.append("\n".join(f"- missing: {name}: {why}" for name, why in found["missing"].items()))
    parts.append("\n".join(f"- {name}: {note}" for name, note in found["notes"].items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _columns(figures: Figures, what: str) -> list[str]:
    forms = (
        ("per_second", ",.0f"),
        ("p50_ms", ".2f"),
        ("p99_ms", ".1f"),
        ("cpu_us", ",.0f"),
        ("failed", ".0f"),
    )
    return [
        " / ".join(format(figures[f"{what}_{n}_{key}"], form) for n in OUTSTANDING) for key, form in forms
    ]
