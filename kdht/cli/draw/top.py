"""Draws the results of `top`: the most important lines first, no more than the terminal has."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from kdht.cli.report import duration, grid, terminal
from kdht.cli.samples import TopSample
from kdht.program.drawing import Column, Listing, counted, line, styled

LEAST_REASONS = 3
"""Rows that are shown however low the terminal is."""


def live(samples: Iterable[TopSample]) -> None:
    """Each sample in place of the one before. Without a terminal, one after the other."""
    console = terminal()
    if not console.is_terminal:
        for sample in samples:
            console.print(picture(sample))
        return
    first = Text("looking ...")
    # What has no room below the last line is cut with three dots.
    with Live(first, console=console, auto_refresh=False, vertical_overflow="ellipsis") as screen:
        for sample in samples:
            screen.update(picture(sample, console.height), refresh=True)


def picture(sample: TopSample, height: int | None = None) -> RenderableType:
    """One sample. `height` None: as high as it takes."""
    around = [*_requests(sample), *_queues(sample)]
    taken = 7 + sum(_height(part) for part in around)
    rows = None if height is None else max(height - taken, LEAST_REASONS)
    return Group(_head(sample), _rest(sample), *_verdicts(sample, rows), *around)


def _height(part: RenderableType) -> int:
    return getattr(part, "row_count", 0) + 1


def _head(sample: TopSample) -> RenderableType:
    status = sample.status
    states = "  ".join(f"{path['name']} {path.get('state')}" for path in status.datapaths)
    return line(
        (status.address, "bold"),
        f"  up {duration(status.uptime)}  {counted(status.contacts, 'contact')}  "
        f"{counted(status.records, 'record')}  {states}",
    )


def _verdicts(sample: TopSample, most: int | None) -> list[RenderableType]:
    """Packets a second by reason, of each datapath that does anything; the busiest reasons first."""
    packets: dict[str, dict[str, float]] = sample.rates["packets"]
    lanes = [lane for lane in packets if lane != "all" and any(packets[lane].values())]
    if not lanes:
        return [Text("no packets")]
    drawn = Listing(
        "packets a second", *(Column(lane, right=True) for lane in lanes), Column("all", right=True)
    )
    drawn.add(styled("together", "bold"), *(_rate(sum(packets[lane].values())) for lane in (*lanes, "all")))
    busy = sorted(((total, reason) for reason, total in packets["all"].items() if total), reverse=True)
    for total, reason in busy[:most]:
        drawn.add(reason, *(_rate(packets[lane][reason]) for lane in lanes), _rate(total))
    if most is not None and len(busy) > most:
        drawn.add(f"... {counted(len(busy) - most, 'reason')} more", *("" for _ in lanes), "")
    return [drawn.whole()]


def _requests(sample: TopSample) -> list[RenderableType]:
    busy = {name: rate for name, rate in sample.rates["requests"].items() if rate}
    if not busy:
        return []
    drawn = Listing("answered here", Column("a second", right=True))
    for name, rate in busy.items():
        drawn.add(name, _rate(rate))
    return [drawn.whole()]


def _queues(sample: TopSample) -> Iterable[RenderableType]:
    """Depth and losses of the kernel's queues; `full` and `failed` since they were bound."""
    nfqueue: dict[str, Any] = sample.stats.datapaths.get("nfqueue", {})
    if nfqueue.get("queues"):
        names = ("waiting", "full", "failed")
        drawn = Listing("queue of nfqueue", *(Column(name, right=True) for name in names))
        for queue in nfqueue["queues"]:
            drawn.add(str(queue["number"]), *(f"{queue.get(name, 0):,}" for name in names))
        yield drawn.whole()
    if any(nfqueue.get("nft", {}).values()):
        yield Text(
            "nft: " + "  ".join(f"{name} {count:,}" for name, count in nfqueue["nft"].items() if count)
        )


def _rest(sample: TopSample) -> RenderableType:
    storage, rates, trips = sample.stats.storage, sample.rates["storage"], sample.round_trips
    rows: list[tuple[str, object]] = [
        (
            "storage",
            f"{counted(storage.value_bytes, 'byte')} of values, {storage.disk_bytes:,} on disk; "
            f"{_rate(rates['written'])} writes a second",
        )
    ]
    if trips:
        rows.append(
            (
                "round trips",
                f"to {counted(trips.contacts, 'contact')}: {trips.min:.2f} ms at least, median {trips.p50:.2f}, "
                f"p90 {trips.p90:.2f}, most {trips.max:.2f}",
            )
        )
    if sample.probe_ms is not None:
        rows.append(("probe", f"a key's owner answered after {sample.probe_ms:.2f} ms"))
    return grid(rows)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"
