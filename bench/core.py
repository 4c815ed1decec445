"""The routing core alone: verdicts per second of one processor's time, on packets in memory.

    python bench/core.py [--runs N] [--seconds S] [--json]

Each figure is the median of N runs over 4,096 packets with different keys, each copied anew
before its verdict, with the tag checked, the header and the addresses rewritten and the
checksums mended. First each kind of packet over a table made from 10,000 contacts offered
(of which the buckets keep what fits), then members' requests over tables of other sizes.
"""

import json
import random
import statistics
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table

from kdht._routing import Core, common_bits
from kdht.lab._repeat import repeat
from kdht.replay.packets import packet
from kdht.wire import NO_FLAGS, Address, Contact, Message, seal
from kdht.wire._shared import HOP_LIMIT, ID_BITS, ID_LEN, PORT, Flag, K, Op
from kdht.wire.keys import derive

KEY = derive(1, b"a secret for benchmarks")
NOW = 1_800_000_000
PACKETS = 4096
OFFERED = 10_000
SIZES = (10, 100, 1_000, 10_000, 100_000)
SELF_ID = random.Random(1).randbytes(ID_LEN)

HERE = {4: Address.of("10.0.0.1", PORT), 6: Address.of("fd00::1", PORT)}
OTHER = {4: Address.of("10.0.0.2", PORT), 6: Address.of("fd00::2", PORT)}
CLIENT = {4: Address.of("10.0.0.99", 40000), 6: Address.of("fd00::99", 40000)}


def core_with(offered: int, version: int) -> Core:
    """A node after so many random contacts were offered. It kept the first K of each bucket."""
    chance = random.Random(2)
    core = Core()
    core.configure(
        self_id=SELF_ID,
        port=PORT,
        own=[address.ip for address in HERE.values()],
        source4=HERE[4].ip,
        source6=HERE[6].ip,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
    )
    buckets: list[list[Contact]] = [[] for _ in range(ID_BITS)]
    for _ in range(offered):
        contact_id = chance.randbytes(ID_LEN)
        held = buckets[common_bits(SELF_ID, contact_id)]
        if len(held) < K:
            held.append(Contact(contact_id, OTHER[version].ip, chance.randrange(1024, 65536)))
    for index, contacts in enumerate(buckets):
        core.set_bucket(index, contacts)
    return core


# --- Packets -----------------------------------------------------------------------------


def member(version: int, key: bytes, number: int, attempt: int = 0, flags: Flag = NO_FLAGS) -> bytes:
    """A request or a reply between members, tagged."""
    message = Message(
        op=Op.GET,
        key=key,
        request_id=number,
        attempt=attempt,
        flags=flags,
        hops=HOP_LIMIT,
        client=CLIENT[version],
        entry=HERE[version],
    ).pack()
    seal(message, KEY, NOW)
    return bytes(packet(bytes(message), OTHER[version], HERE[version]))


def client(version: int, key: bytes, number: int) -> bytes:
    message = Message(op=Op.GET, key=key, request_id=number).pack()
    return bytes(packet(bytes(message), CLIENT[version], HERE[version]))


KINDS: dict[str, Callable[[int, bytes, int], bytes]] = {
    "request of a member": member,
    "request of a member, attempt 1": lambda version, key, number: member(version, key, number, attempt=1),
    "request of a client": client,
    "reply to a client": lambda version, key, number: member(version, key, number, flags=Flag.REPLY),
}


def keys_to_forward(core: Core) -> list[bytes]:
    """Random keys with at least two closer contacts."""
    chance = random.Random(3)
    keys: list[bytes] = []
    while len(keys) < PACKETS:
        key = chance.randbytes(ID_LEN)
        if core.rank(key, 2) == 2:
            keys.append(key)
    return keys


# --- Measuring ---------------------------------------------------------------------------


def rate(core: Core, packets: list[bytes], runs: int, seconds: float) -> float:
    """The median of verdicts per second; every packet must have gone on."""

    def timed(rounds: int) -> float:
        begun = time.thread_time()
        moved = repeat(core, packets, rounds, NOW)
        spent = time.thread_time() - begun
        if moved != rounds * len(packets):
            raise SystemExit(f"{rounds * len(packets) - moved} packets were not sent on: {core.counters()}")
        return spent

    rounds = max(1, round(seconds / timed(1)))
    return statistics.median(rounds * len(packets) / timed(rounds) for _ in range(runs))


def measure(runs: int, seconds: float) -> dict[str, dict[str, float]]:
    kinds, sizes = {}, {}
    for version in (4, 6):
        core = core_with(OFFERED, version)
        keys = keys_to_forward(core)
        for name, make in KINDS.items():
            packets = [make(version, key, number) for number, key in enumerate(keys)]
            kinds[f"{name}, IPv{version}"] = rate(core, packets, runs, seconds)
    for offered in SIZES:
        core = core_with(offered, 4)
        packets = [member(4, key, number) for number, key in enumerate(keys_to_forward(core))]
        sizes[f"{offered}"] = rate(core, packets, runs, seconds)
    return {"kinds": kinds, "contacts_offered": sizes}


@click.command()
@click.option("--runs", default=5, show_default=True, help="The median of so many is shown.")
@click.option("--seconds", default=0.3, show_default=True, help="Length of one run.")
@click.option("--json", "as_json", is_flag=True, help="Plain figures for scripts.")
def main(runs: int, seconds: float, as_json: bool) -> None:
    """Verdicts per second of the routing core, on one processor: of its time, not the clock's."""
    figures = measure(runs, seconds)
    if as_json:
        size = len(member(4, bytes(ID_LEN), 0))
        click.echo(json.dumps({"packet_bytes": size, "verdicts_per_second": figures}))
        return
    titles = {"kinds": f"{OFFERED:,} contacts offered", "contacts_offered": "contacts offered"}
    for what, rates in figures.items():
        table = Table(titles[what], "verdicts a second", "ns each")
        for name, each in rates.items():
            table.add_row(name, f"{each:,.0f}", f"{1e9 / each:.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
