"""kdht-replay diff: one capture through several implementations."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from kdht.errors import DIFFERENCES, CaptureError
from kdht.replay import draw, options, plain
from kdht.replay.compare import BatchComparison, compared

DEFAULT = ("oracle", "core", "ebpf")
SHOWN = 20


@click.command()
@options.capture_argument
@options.table_options
@click.option("--impl", "-i", "names", type=options.implementation_type, multiple=True, default=DEFAULT,
              show_default=True, help="Two or more; the first is what the others are held against.")  # fmt: skip
@click.option("--show", type=click.IntRange(min=0), default=SHOWN, show_default=True,
              help="Differences to show; all are counted. JSON has all of them.")  # fmt: skip
@options.fault_option
@options.as_json
def command(
    capture: Path, names: tuple[str, ...], show: int, fault: str | None, as_json: bool, **table_options: Any
) -> int:
    """Give every packet of CAPTURE (- is standard input) to several implementations, and show every difference.

    Exits with 8 if there is one. Live implementations use the real clock, so messages are sealed again for them, as
    docs/replay.md explains.
    """
    if len(set(names)) < 2:
        raise click.UsageError("two or more implementations are needed: name them with --impl")
    table = options.table_of(**table_options)
    summary = Summary(names)
    damage = None
    with ExitStack() as stack:
        first, *others = [stack.enter_context(options.opened(name, table, fault)) for name in names]
        try:
            for batch in stack.enter_context(options.reading(capture)):
                found = compared(batch, table, first, others)
                summary.count(found)
                for each in found.differences:
                    if as_json:
                        options.emit(plain.difference(table, each))
                    elif summary.shown < show:
                        draw.difference(plain.difference(table, each))
                        summary.shown += 1
        except CaptureError as error:
            damage = error
    total = summary.plain(damage)
    if as_json or total["packets"] or not damage:
        options.emit(total) if as_json else draw.diff_summary(total)
    if damage:
        raise damage
    return DIFFERENCES if summary.differences else 0


class Summary:
    """Counts over all batches."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._packets = 0
        self._reasons: Counter[Any] = Counter()
        self._skipped: Counter[str] = Counter()
        self._incomparable: Counter[str] = Counter()
        self.differences: Counter[str] = Counter()
        self.shown = 0
        self._begun = time.perf_counter()

    def count(self, found: BatchComparison) -> None:
        self._packets += len(found.usual.results)
        self._reasons.update(found.usual.results.tally())
        self._skipped.update(found.usual.results.batch.skipped())
        self.differences.update(each.names[1] for each in found.differences)
        self._incomparable.update(dict(zip(self._names[1:], found.incomparable, strict=True)))

    def plain(self, damage: Exception | None) -> dict[str, Any]:
        """Plain data."""
        return {
            "type": "summary",
            "implementations": list(self._names),
            "packets": self._packets,
            "differences": {name: self.differences[name] for name in self._names[1:]},
            "not_comparable": {name: self._incomparable[name] for name in self._names[1:]},
            "skipped": dict(self._skipped),
            "reasons": plain.tally(dict(self._reasons)),
            "seconds": time.perf_counter() - self._begun,
            "damage": str(damage) if damage else None,
        }
