"""kdht-replay explain: one packet, and why."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from kdht.errors import ConfigError
from kdht.replay import draw, options
from kdht.replay._capture import Batch
from kdht.replay.explain import explained
from kdht.replay.generate import START
from kdht.replay.implementations import made
from kdht.replay.tables import ReplayTable

# An IP packet's length has two bytes.
MAX_PACKET = 1 << 16
NANOSECONDS = 1_000_000_000


@click.command()
@click.argument("what")
@click.argument("number", type=click.IntRange(1), required=False)
@options.table_options
@options.wide
@options.as_json
def command(what: str, number: int | None, wide: bool, as_json: bool, **table_options: Any) -> None:
    """Explain the verdict on one IP packet.

    WHAT is a capture and NUMBER the packet's; or, without NUMBER, WHAT is hexadecimal digits, or a
    file with the packet as bytes, from the IP header on. - is standard input.
    """
    found = judged(options.table_of(**table_options), what, number)
    options.emit(found) if as_json else draw.explanation(found, wide=wide)


def judged(table: ReplayTable, what: str, number: int | None) -> dict[str, Any]:
    """The explanation of a packet, given as the command's arguments are. Raises ConfigError."""
    if number is not None:
        batch, index = options.packet_at(Path(what), number)
    else:
        now = table.now if table.now is not None else START
        batch, index = Batch.of([_single(what)], [now * NANOSECONDS]), 0
    with made("core", table) as core:
        judgement = core.run(batch, table.now).results.get(index)
    now = table.now if table.now is not None else batch.frame(index).nanos // NANOSECONDS
    return explained(table, batch.packet(index), now, judgement)


def _single(what: str) -> bytes:
    """The bytes of a packet, given in hexadecimal or as a file. Raises ConfigError."""
    digits = re.sub(r"[\s:]", "", what)
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        return bytes.fromhex(digits)
    try:
        with sys.stdin.buffer if what == "-" else Path(what).open("rb") as file:
            raw = file.read(MAX_PACKET + 1)
    except OSError as error:
        raise ConfigError(f"{what[:80]}: {error.strerror}: give hexadecimal digits or a file") from None
    if not 0 < len(raw) <= MAX_PACKET:
        raise ConfigError(
            f"{what}: {len(raw)} bytes are not a packet: to explain a packet of a capture, give its number"
        )
    return raw
