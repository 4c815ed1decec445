"""Writes without a pause: is the last quarter as fast as the first, and how much does LevelDB write for it?

    python -m bench.sustained [--values N] [--size BYTES] [--write-buffer MIB]... [--json]

Three nodes on loopback, so each has all records; new keys in four equal parts. Bytes written are those that a node's process gave to
write(2), the log and all merges of tables included (`wchar` in /proc/PID/io). What the page cache makes of them is not counted.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from bench.machine import machine
from bench.peers import table
from bench.peers.asking import ask
from bench.peers.base import make_values
from bench.peers.counting import cpu_seconds, pss_mib
from bench.peers.kdht_cluster import PROTOCOL, cookie, key_of, put_request
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.ids import spread
from kdht.wire._shared import MAX_VALUE

NODES = 3
PARTS = 4
DIFFERENT = 1000
"""Values; the keys are all different."""


def measure(values: int, size: int, outstanding: int, write_buffer: int) -> dict[str, Any]:
    """One cluster; `write_buffer` in MiB."""
    settings = {"storage": {"write_buffer": write_buffer}}
    with (
        tempfile.TemporaryDirectory(prefix="kdht-sustained.") as directory,
        Cluster(
            places_on_loopback(NODES),
            Path(directory),
            datapath="socket",
            settings=settings,
            ids=spread(NODES),
        ) as cluster,
    ):
        pids = [node.pid for node in cluster.nodes]
        idle = max(map(pss_mib, pids))
        before, quarters = _written(pids), []
        failed = 0
        for part in range(PARTS):
            numbers = range(part * values // PARTS, (part + 1) * values // PARTS)
            rate, cpu_us, wrong = _quarter(cluster, pids, numbers, size, outstanding)
            quarters.append({"puts_per_second": rate, "cpu_us": cpu_us})
            failed += wrong
        written = _written(pids) - before
        return {
            "write_buffer_mib": write_buffer,
            "quarters": quarters,
            "last_of_first": quarters[-1]["puts_per_second"] / quarters[0]["puts_per_second"],
            "cpu_first_of_last": quarters[0]["cpu_us"] / quarters[-1]["cpu_us"],
            "written_of_data": written / (NODES * values * size),
            "idle_mib": idle,
            "after_mib": max(map(pss_mib, pids)),
            "failed": failed,
        }


def _quarter(
    cluster: Cluster, pids: list[int], numbers: range, size: int, outstanding: int
) -> tuple[float, float, int]:
    """PUTs a second, processor time of all nodes a PUT in µs, and failures."""
    proof = cookie(str(cluster.nodes[0].address))
    values = make_values(DIFFERENT, size)
    requests = [put_request(key_of(n), values[n % DIFFERENT], proof) for n in numbers]
    cpu = cpu_seconds(pids)
    done = ask([str(cluster.nodes[0].address)], requests, [], PROTOCOL, outstanding)
    return done.done / done.seconds, 1e6 * (cpu_seconds(pids) - cpu) / done.done, done.failed


def _written(pids: list[int]) -> int:
    """Bytes given to write(2) so far."""
    return sum(
        int(line.split()[1])
        for pid in pids
        for line in Path(f"/proc/{pid}/io").read_text().splitlines()
        if line.startswith("wchar:")
    )


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--values", type=click.IntRange(PARTS), default=200_000, show_default=True)
@click.option("--size", type=click.IntRange(1, MAX_VALUE), default=1024, show_default=True, help="Bytes.")
@click.option("--outstanding", type=click.IntRange(1), default=128, show_default=True, help="A power of two.")
@click.option(
    "--write-buffer", "buffers", type=click.IntRange(2, 256), multiple=True, default=(32,), show_default=True,
    help="MiB of storage.write_buffer; several: one after the other.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(values: int, size: int, outstanding: int, buffers: tuple[int, ...], as_json: bool) -> None:
    found = {
        "machine": machine(),
        "values": values,
        "size": size,
        "runs": [measure(values, size, outstanding, buffer) for buffer in buffers],
    }
    click.echo(json.dumps(found, indent=2) if as_json else report(found))


def report(found: dict[str, Any]) -> str:
    """As Markdown."""
    head = ["write buffer, MiB", *(f"puts/s, part {n + 1}" for n in range(PARTS)), "last / first",
            "CPU a put first / last", "written / data", "MiB a node, idle", "after", "failed"]  # fmt: skip
    return table.markdown(head, [_row(run) for run in found["runs"]]) + "\n"


def _row(run: dict[str, Any]) -> list[str]:
    rates = [f"{each['puts_per_second']:,.0f}" for each in run["quarters"]]
    ratios = [f"{run[name]:.2f}" for name in ("last_of_first", "cpu_first_of_last", "written_of_data")]
    memory = [f"{run[name]:.1f}" for name in ("idle_mib", "after_mib")]
    return [str(run["write_buffer_mib"]), *rates, *ratios, *memory, str(run["failed"])]


if __name__ == "__main__":
    main()
