"""kdht-replay run: every packet of a capture through one implementation."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from kdht.errors import CaptureError
from kdht.replay import draw, options, plain
from kdht.replay._engine import Results
from kdht.replay.base import Run
from kdht.replay.capture import CaptureWriter
from kdht.replay.options import FILE
from kdht.replay.tables import ReplayTable
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

SHOWN = 20
NAMES = [each.name for each in Verdict] + [each.name for each in Reason]


@click.command()
@options.capture_argument
@options.table_options
@click.option("--impl", "-i", type=options.implementation_type, default="core", show_default=True)
@click.option("--show", type=click.IntRange(min=0), default=SHOWN, show_default=True, help="Packets to show.")
@click.option("--all", "everything", is_flag=True, help="Show all packets.")
@click.option("--only", multiple=True, type=click.Choice(NAMES, case_sensitive=False),
              help="Show those with this verdict or reason.")  # fmt: skip
@click.option("--packet", metavar="N[-M]", help="Show those with these numbers.")
@click.option("--bytes", "changes", is_flag=True, help="What changed, byte by byte.")
@click.option("--write", type=FILE, help="Write the packets that went on to this capture.")
@options.fault_option
@options.wide
@options.as_json
def command(
    capture: Path,
    impl: str,
    show: int,
    everything: bool,
    only: tuple[str, ...],
    packet: str | None,
    changes: bool,
    write: Path | None,
    fault: str | None,
    wide: bool,
    as_json: bool,
    **table_options: Any,
) -> None:
    """Give verdicts on every packet of CAPTURE, a pcap or pcapng file, or - for standard input.

    Without --only, --packet and --all, the first packets that are ours are shown.
    """
    table = options.table_of(**table_options)
    wanted = _reasons(only) if only or everything or packet else set(Reason) - {Reason.NOT_OURS}
    limit = None if everything or packet else show
    emit = options.emit if as_json else partial(draw.packet, wide=wide)
    shower = Shower(table, wanted or set(Reason), options.numbers(packet), limit, changes, emit)
    with ExitStack() as stack:
        implementation = stack.enter_context(options.opened(impl, table, fault))
        writer = stack.enter_context(CaptureWriter(write)) if write else None
        total = Total(impl)
        damage = None
        try:
            for batch in stack.enter_context(options.reading(capture)):
                ran = total.timed(lambda batch=batch: implementation.run(batch, table.now))
                if writer:
                    writer.write_records(ran.results.gone_on())
                shower.show(ran)
        except CaptureError as error:
            damage = error
    if as_json or total.packets or not damage:
        summary = total.summary(damage)
        options.emit(summary) if as_json else draw.summary(summary)
    if damage:
        raise damage


def _reasons(only: tuple[str, ...]) -> set[Reason]:
    names = {name.upper() for name in only}
    return {reason for reason in Reason if reason.name in names or VERDICT_OF[reason].name in names}


class Total:
    """Counts over all batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[Reason | None] = Counter()
        self.packets = self.cut_short = 0
        self.skipped: Counter[str] = Counter()
        self._begun = time.perf_counter()
        self._spent = 0.0

    def timed(self, run: Any) -> Run:
        """Run one batch and count it."""
        begun = time.perf_counter()
        ran: Run = run()
        self._spent += time.perf_counter() - begun
        self.counts.update(ran.results.tally())
        self.packets += len(ran.results)
        self.cut_short += ran.results.batch.cut_short()
        self.skipped.update(ran.results.batch.skipped())
        return ran

    def summary(self, damage: Exception | None = None) -> dict[str, Any]:
        """Plain data; `seconds` includes reading, `verdict_seconds` does not."""
        return {
            "type": "summary",
            "implementation": self.name,
            "packets": self.packets,
            "cut_short": self.cut_short,
            "skipped": dict(self.skipped),
            "seconds": time.perf_counter() - self._begun,
            "verdict_seconds": self._spent,
            "reasons": plain.tally(dict(self.counts)),
            "damage": str(damage) if damage else None,
        }


class Shower:
    """Shows chosen packets, up to a limit, as they come."""

    def __init__(
        self,
        table: ReplayTable,
        reasons: set[Reason],
        numbers: range | None,
        limit: int | None,
        changes: bool,
        emit: Callable[[dict[str, Any]], None],
    ) -> None:
        self._table = table
        self._reasons = reasons
        self._numbers = numbers
        self._left = limit
        self._changes = changes
        self._emit = emit

    def show(self, ran: Run) -> None:
        for index in self._chosen(ran.results):
            if self._left is not None:
                if self._left <= 0:
                    return
                self._left -= 1
            batch = ran.results.batch
            verdict = plain.judgement(self._table, batch.packet(index), ran.results.get(index), self._changes)
            found = {"type": "packet", **plain.frame(batch.frame(index)), **verdict}
            if ran.seen:
                found["seen"] = plain.seen(ran.seen[index])
            self._emit(found)

    def _chosen(self, results: Results) -> Iterator[int]:
        if self._left is not None and self._left <= 0:
            return
        if self._numbers is None:
            yield from results.having(self._reasons)
            return
        first, count = results.batch.first, len(results)
        for number in range(max(first, self._numbers.start), min(first + count, self._numbers.stop)):
            yield number - first
