"""Draws the results of `top`."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kdht.cli.report import duration, grid, terminal
from kdht.cli.samples import TopSample


def live(samples: Iterable[TopSample]) -> None:
    """Each sample in place of the one before. Without a terminal, one after the other."""
    console = terminal()
    if not console.is_terminal:
        for sample in samples:
            console.print(picture(sample))
        return
    first = Text("looking ...")
    with Live(first, console=console, auto_refresh=False, vertical_overflow="visible") as screen:
        for sample in samples:
            screen.update(picture(sample), refresh=True)


def picture(sample: TopSample) -> RenderableType:
    """One sample."""
    parts = [_head(sample), _verdicts(sample), _requests(sample), *_queues(sample), _rest(sample)]
    return Group(*(part for part in parts if part is not None))


def _head(sample: TopSample) -> RenderableType:
    status = sample.status
    states = "  ".join(f"{path['name']} {path.get('state')}" for path in status.datapaths)
    return Text.from_markup(
        f"[bold]{escape(status.address)}[/]  {escape(str(status.node_id))}  up {duration(status.uptime)}  "
        f"{status.contacts} contacts  {status.records:,} records  {escape(states)}"
    )


def _right(*columns: str, title: str) -> Table:
    drawn = Table(*columns, title=title, title_justify="left", box=None, padding=(0, 2))
    for column in drawn.columns[1:]:
        column.justify = "right"
    return drawn


def _verdicts(sample: TopSample) -> RenderableType | None:
    """Packets a second by reason, of each datapath that does anything."""
    packets: dict[str, dict[str, float]] = sample.rates["packets"]
    lanes = [lane for lane in packets if lane != "all" and any(packets[lane].values())]
    if not lanes:
        return Text("no packets")
    drawn = _right("reason", *lanes, "all", title="packets a second")
    for reason, total in packets["all"].items():
        if total:
            drawn.add_row(reason, *(_rate(packets[lane][reason]) for lane in lanes), _rate(total))
    drawn.add_row("[bold]together[/]", *(_rate(sum(packets[lane].values())) for lane in (*lanes, "all")))
    return drawn


def _requests(sample: TopSample) -> RenderableType | None:
    busy = {name: rate for name, rate in sample.rates["requests"].items() if rate}
    if not busy:
        return None
    drawn = _right("answered here", "a second", title="requests")
    for name, rate in busy.items():
        drawn.add_row(escape(name), _rate(rate))
    return drawn


def _queues(sample: TopSample) -> Iterable[RenderableType]:
    """Depth and losses of the kernel's queues; `full` and `failed` since they were bound."""
    nfqueue: dict[str, Any] = sample.stats.datapaths.get("nfqueue", {})
    if nfqueue.get("queues"):
        drawn = _right("queue", "waiting", "full", "failed", title="queues of nfqueue")
        for queue in nfqueue["queues"]:
            drawn.add_row(
                str(queue["number"]), *(f"{queue.get(n, 0):,}" for n in ("waiting", "full", "failed"))
            )
        yield drawn
    if any(nfqueue.get("nft", {}).values()):
        yield Text(
            "nft: " + "  ".join(f"{name} {count:,}" for name, count in nfqueue["nft"].items() if count)
        )


def _rest(sample: TopSample) -> RenderableType:
    storage, rates, trips = sample.stats.storage, sample.rates["storage"], sample.round_trips
    rows: list[tuple[str, object]] = [
        (
            "storage",
            f"{storage.records:,} records, {storage.value_bytes:,} bytes of values, "
            f"{storage.disk_bytes:,} on disk; {_rate(rates['written'])} writes a second",
        )
    ]
    if trips:
        rows.append(
            (
                "round trips",
                f"to {trips.contacts} contacts: {trips.min:.2f} ms at least, median {trips.p50:.2f}, "
                f"p90 {trips.p90:.2f}, most {trips.max:.2f}",
            )
        )
    if sample.probe_ms is not None:
        rows.append(("probe", f"a key's owner answered through this node after {sample.probe_ms:.2f} ms"))
    return grid(rows)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"
