"""Numbers in order: percentiles, and the files that results are kept in."""

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import machine


def percentile(ascending: Sequence[float], part: float) -> float:
    """The smallest value that is at least as great as `part` of all; of a list that is not empty."""
    return ascending[min(int(part * len(ascending)), len(ascending) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, percentiles and the greatest; only the number where there are none."""
    if not values:
        return {"count": 0}
    ascending = sorted(values)
    return {
        "count": len(ascending),
        "mean": sum(ascending) / len(ascending),
        "p50": percentile(ascending, 0.5),
        "p90": percentile(ascending, 0.9),
        "p99": percentile(ascending, 0.99),
        "max": ascending[-1],
    }


def peak_mib() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save(directory: Path, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Keep the runs, with the machine's data, as sim-NAME.json; what was written."""
    result = {"simulation": name, "machine": machine(), "runs": runs}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"sim-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def load(directory: Path, name: str) -> list[dict[str, Any]]:
    """The runs kept by `save`; none if there are none."""
    path = directory / f"sim-{name}.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    return runs
