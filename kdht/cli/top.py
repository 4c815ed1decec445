"""top: the node's present work, as the difference of two looks at its counters.

The counters are the daemon's (`stats`). A rate is their difference over the time between the
looks. The daemon does not know how long a request takes. So each look sends one TRACE of a random
key through the node, and times it here.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import msgspec

from kdht.cli.options import as_json, control_socket, emit_line
from kdht.cli.samples import Rates, RoundTrips, TopSample
from kdht.errors import RequestError
from kdht.program import control_client
from kdht.program.answers import NodeStats, RoutingTable
from kdht.program.node_status import NodeStatus

# Seconds. The picture is drawn anew every few seconds, and a dead node must not hold it up.
PROBE_TIMEOUT = 1.0


@click.command()
@control_socket
@click.option("--interval", "-i", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True,
              help="Seconds between two samples.")  # fmt: skip
@click.option(
    "--count", "-c", type=click.IntRange(1), help="Stop after this many samples. Default: run until Ctrl-C."
)
@click.option("--once", is_flag=True, help="The same as --count 1.")
@click.option("--probe/--no-probe", default=True, help="Time one request through the node for each sample.")
@as_json
def top(
    socket_path: Path, interval: float, count: int | None, once: bool, probe: bool, as_json: bool
) -> None:
    """Show the node's rates, round trips, queues, table and storage, live.

    JSON is one object a line.
    """
    samples = _samples(socket_path, interval, 1 if once else count, probe)
    if as_json:
        for sample in samples:
            emit_line(sample)
        return
    from kdht.cli.draw import top as draw

    draw.live(samples)


def _samples(path: Path, interval: float, count: int | None, probe: bool) -> Iterator[TopSample]:
    """A look every `interval` seconds, the first one interval after the start."""
    before, at = control_client.ask(path, "stats", NodeStats), time.monotonic()
    number = 0
    while count is None or number < count:
        time.sleep(max(0.0, at + interval - time.monotonic()))
        stats, now = control_client.ask(path, "stats", NodeStats), time.monotonic()
        status = control_client.ask(path, "status", NodeStatus)
        table = control_client.ask(path, "table", RoutingTable)
        yield TopSample(
            seconds=now - at,
            status=status,
            rates=rates(msgspec.to_builtins(before), msgspec.to_builtins(stats), now - at),
            stats=stats,
            round_trips=round_trips(table),
            probe_ms=_probe(status.address) if probe else None,
        )
        before, at = stats, now
        number += 1


def rates(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> Rates:
    """Every counter's growth a second, in the same groups. Anything but numbers is left out."""
    found: Rates = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping):
            found[name] = rates(old if isinstance(old, Mapping) else {}, value, seconds)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            grown = value - (old if isinstance(old, (int, float)) else 0)
            found[name] = max(grown, 0) / seconds if seconds else 0.0
    return found


def round_trips(table: RoutingTable) -> RoundTrips | None:
    """Milliseconds to the contacts: the least, the median, the 90th percentile, the most."""
    known = sorted(contact.rtt_ms for contact in table.contacts if contact.rtt_ms is not None)
    if not known:
        return None
    p90 = quantiles(known, n=10, method="inclusive")[-1] if len(known) > 1 else known[0]
    return RoundTrips(len(known), known[0], median(known), p90, known[-1])


def _probe(address: str) -> float | None:
    """Milliseconds until the owner of some key has answered through this node; None without an answer."""
    from kdht.client import Client

    try:
        with Client(address, timeout=PROBE_TIMEOUT, attempts=2) as client:
            path = client.trace(secrets.token_bytes(16))
    except RequestError:
        # The picture shows it as a node without an answer.
        return None
    return path[-1].rtt * 1000 if path and path[-1].owner and path[-1].rtt is not None else None
