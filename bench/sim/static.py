"""Static overlays: full tables from global knowledge, messages sent through them hop by hop."""

import time
from collections.abc import Callable
from random import Random
from typing import Any

from bench.sim import expected
from bench.sim.figures import peak_mib, percentile, spread
from kdht.lab._overlay import Overlay
from kdht.wire._shared import ID_LEN

BATCH = 10_000


def make_ids(nodes: int, seed: int) -> bytes:
    """So many random IDs, ascending."""
    drawn = Random(seed).randbytes(nodes * ID_LEN)
    return b"".join(sorted(drawn[at : at + ID_LEN] for at in range(0, len(drawn), ID_LEN)))


def run(
    nodes: int, messages: int, seed: int, k: int, progress: Callable[[int], None] = lambda sent: None
) -> dict[str, Any]:
    """One overlay's figures. Loads are multiples of the mean, which 1 / `nodes` of all would be."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    overlay = Overlay(make_ids(nodes, seed), seed, k)
    for sent in range(0, messages, BATCH):
        count = min(BATCH, messages - sent)
        overlay.send(count)
        progress(count)
    shares = overlay.shares()
    counted = list(overlay.hops)
    return {
        "nodes": nodes,
        "k": k,
        "seed": seed,
        "messages": messages,
        "astray": overlay.astray,
        "hops": hops_of(counted),
        "expected": {"halving": expected.halving(nodes), "best_of_k": expected.hops(nodes, k)},
        "forwarded": _multiples(list(overlay.forwarded)),
        "keys": _multiples(list(shares)),
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu_begun,
        "peak_mib": peak_mib(),
    }


def hops_of(counted: list[int]) -> dict[str, Any]:
    """Mean, 99th percentile and most of a histogram of hops."""
    total = sum(counted)
    histogram = {hops: number for hops, number in enumerate(counted) if number}
    mean = sum(hops * number for hops, number in histogram.items()) / total
    p99 = percentile([hops for hops, number in histogram.items() for _ in range(number)], 0.99)
    return {"mean": mean, "p99": p99, "max": max(histogram), "histogram": histogram}


def _multiples(values: list[float]) -> dict[str, float]:
    mean = sum(values) / len(values)
    return spread([value / mean for value in values]) if mean else {"count": 0}
