"""kdht-replay bench: packets per second, every implementation in turn in one run."""

import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

from kdht.errors import ConfigError
from kdht.replay import draw, options
from kdht.replay.base import Implementation
from kdht.replay.capture import Capture

READING = "reading alone"
DEFAULT = ("core", "ebpf", "oracle")


class Round(NamedTuple):
    """One run of one implementation: packets, seconds by the clock, and seconds of all processors."""

    packets: int
    seconds: float
    cpu_seconds: float


@click.command()
@options.capture_argument
@options.table_options
@click.option("--impl", "-i", "names", type=options.implementation_type, multiple=True, default=DEFAULT,
              show_default=True, help="The ratios are to the first.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.01), default=5.0, show_default=True,
              help="Of one implementation in one round, at most.")  # fmt: skip
@options.wide
@options.as_json
def command(
    capture: Path,
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    wide: bool,
    as_json: bool,
    **table_options: Any,
) -> None:
    """Measure how many packets of CAPTURE a second each implementation judges, reading included.

    They take turns, so that a busy machine treats all alike; each figure is the median of its rounds.
    CPU time is this process's, over all its threads: it hardly depends on what else runs.
    """
    if not capture.is_file():
        raise click.UsageError(f"{capture}: the capture is read once a round: name a file")
    table = options.table_of(**table_options)
    rounds_of: dict[str, list[Round]] = {READING: [], **{name: [] for name in names}}
    with ExitStack() as stack:
        runners = {name: stack.enter_context(options.opened(name, table, None)) for name in names}
        for _ in range(rounds):
            for name, found in rounds_of.items():
                found.append(_measured(capture, runners.get(name), table.now, seconds))
    summary = {
        "type": "bench",
        "packets": max(each.packets for found in rounds_of.values() for each in found),
        "bytes": capture.stat().st_size,
        "rounds": rounds,
        "ratio_to": names[0],
        "figures": [_figure(name, found, _rate(rounds_of[names[0]])) for name, found in rounds_of.items()],
    }
    options.emit(summary) if as_json else draw.bench(summary, wide=wide)


def _measured(path: Path, runner: Implementation | None, now: int | None, limit: float) -> Round:
    """The whole file, or as much as time allowed."""
    count = 0
    begun, cpu = time.perf_counter(), time.process_time()
    with Capture(path) as capture:
        for batch in capture:
            if runner is not None:
                runner.run(batch, now)
            count += len(batch)
            if time.perf_counter() - begun > limit:
                break
    if not count:
        raise ConfigError(f"{path}: holds no packets to measure with")
    return Round(count, time.perf_counter() - begun, time.process_time() - cpu)


def _rate(rounds: list[Round]) -> float:
    return median(each.packets / each.seconds for each in rounds)


def _figure(name: str, rounds: list[Round], first: float) -> dict[str, Any]:
    rate = _rate(rounds)
    return {
        "implementation": name,
        "packets_per_second": rate,
        "ratio": rate / first,
        "nanoseconds": 1e9 / rate,
        "cpu_nanoseconds": 1e9 * median(each.cpu_seconds / each.packets for each in rounds),
        "rounds": [each.packets / each.seconds for each in rounds],
    }
