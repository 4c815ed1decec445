"""kdht-replay generate: seeded captures."""

from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from kdht.replay import options
from kdht.replay.capture import CaptureWriter
from kdht.replay.generate import KINDS, START, generated
from kdht.replay.options import FILE

POOL = 20_000
"""Different packets; a longer capture repeats them."""


@click.command()
@click.argument("capture", type=FILE)
@options.table_options
@click.option("--kind", "-k", type=click.Choice(list(KINDS)), default="mix", show_default=True)
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True, help="Packets.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same file.")
@click.option("--rate", type=click.IntRange(1), default=100_000, show_default=True, help="Packets a second, in their time stamps.")  # fmt: skip
@options.as_json
def command(
    capture: Path, kind: str, count: int, seed: int, rate: int, as_json: bool, **table_options: Any
) -> None:
    """Write a CAPTURE of traffic for the table's node.

    mix: clients' and members' requests, replies and control messages. mutations: the same, each
    with one thing wrong. flood: one key, again and again. retransmissions: what clients repeat.
    """
    table = options.table_of(**table_options)
    pool = list(islice(generated(table, kind, seed), min(count, POOL)))
    begin = (table.now if table.now is not None else START) * 1_000_000_000
    with CaptureWriter(capture) as writer:
        for number in track(range(count), "writing", transient=True, disable=count <= POOL or as_json):
            writer.write(pool[number % len(pool)], begin + number * 1_000_000_000 // rate)
    found = {"type": "generated", "capture": str(capture), "kind": kind, "seed": seed, "packets": count,
             "different": len(pool), "bytes": capture.stat().st_size}  # fmt: skip
    if as_json:
        options.emit(found)
    else:
        options.console().print(
            f"{capture}: {count:,} packets of {kind}, {found['bytes']:,} bytes, from seed {seed}"
        )
