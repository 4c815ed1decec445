"""kdht-replay bench: packets per second, every implementation in turn in one run."""

import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click

from kdht.errors import ConfigError
from kdht.replay import draw, options
from kdht.replay.capture import Capture
from kdht.replay.implementations import Implementation

READING = "reading alone"
DEFAULT = ("core", "ebpf", "oracle")


@click.command()
@options.capture_argument
@options.table_options
@click.option("--impl", "-i", "names", type=options.implementation_type, multiple=True, default=DEFAULT,
              show_default=True, help="The ratios are to the first.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.01), default=5.0, show_default=True,
              help="Of one implementation in one round, at most.")  # fmt: skip
@options.as_json
def command(
    capture: Path, names: tuple[str, ...], rounds: int, seconds: float, as_json: bool, **table_options: Any
) -> None:
    """Measure how many packets of CAPTURE a second each implementation judges, reading included.

    They take turns, so that a busy machine treats all alike; each figure is the median of its rounds.
    """
    table = options.table_of(**table_options)
    rates: dict[str, list[float]] = {READING: [], **{name: [] for name in names}}
    packets = 0
    with ExitStack() as stack:
        runners = {name: stack.enter_context(options.opened(name, table, None)) for name in names}
        for _ in range(rounds):
            for name, found in rates.items():
                rate, count = _measured(capture, runners.get(name), table.now, seconds)
                found.append(rate)
                packets = max(packets, count)
    summary = {
        "type": "bench",
        "packets": packets,
        "bytes": capture.stat().st_size,
        "rounds": rounds,
        "ratio_to": names[0],
        "figures": [_figure(name, found, median(rates[names[0]])) for name, found in rates.items()],
    }
    options.emit(summary) if as_json else draw.bench(summary)


def _measured(path: Path, runner: Implementation | None, now: int | None, limit: float) -> tuple[float, int]:
    """(packets a second, packets): the whole file, or what there was time for."""
    count = 0
    begun = time.perf_counter()
    with Capture(path) as capture:
        for batch in capture:
            if runner is not None:
                runner.run(batch, now)
            count += len(batch)
            if time.perf_counter() - begun > limit:
                break
    if not count:
        raise ConfigError(f"{path}: holds no packets to measure with")
    return count / (time.perf_counter() - begun), count


def _figure(name: str, rates: list[float], first: float) -> dict[str, Any]:
    rate = median(rates)
    return {
        "implementation": name,
        "packets_per_second": rate,
        "ratio": rate / first,
        "nanoseconds": 1e9 / rate,
        "rounds": rates,
    }
