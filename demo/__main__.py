"""`make demo`: see demo/__init__.py. Ends with status 0 only if every claim was shown."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from rich.progress import Progress

from demo import proof, report, ten_lines, traffic
from demo.dataset import DPKG_STATUS, Package, packages
from demo.stage import Stage, built
from kdht.client import Hop
from kdht.program import boundary
from kdht.program.drawing import PlainConsole


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--datapath",
    type=click.Choice(["nfqueue", "ebpf", "socket"]),
    default="nfqueue",
    show_default=True,
    help="nfqueue, ebpf: in network namespaces, as root. socket: over loopback, as anyone.",
)
@click.option("--nodes", type=click.IntRange(2, 21), default=8, show_default=True, help="How many daemons.")
@click.option("--ipv6", is_flag=True, help="IPv6 in place of IPv4 (not for socket).")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many packages.")
@click.option(
    "--packages",
    "path",
    type=click.Path(path_type=Path),
    default=DPKG_STATUS,
    show_default=True,
    help="The list of installed Debian packages.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
def command(datapath: str, nodes: int, ipv6: bool, limit: int | None, path: Path, as_json: bool) -> int:
    """A cluster that keeps the control record of every installed Debian package, and how it did."""
    if ipv6 and datapath == "socket":
        raise click.UsageError(
            "--ipv6 needs the nfqueue or ebpf datapath: loopback has one IPv6 address only"
        )
    entries = packages(path, limit)
    console = PlainConsole(stderr=as_json)
    size = sum(len(entry.value) for entry in entries)
    console.print(f"{len(entries):,} values, {size:,} bytes; {nodes} nodes, {datapath} datapath")
    with ExitStack() as stack:
        with console.status("starting the nodes"):
            stage = stack.enter_context(built(datapath, nodes, ipv6=ipv6))
        return _show(stage, entries, console, as_json)


def _show(stage: Stage, entries: list[Package], console: PlainConsole, as_json: bool) -> int:
    proof.count_datagrams(stage)
    with report.progress(console) as progress:
        passes, ways = _play(stage, entries, progress)
    kept = proof.wait_kept(stage.nodes, (entry.name for entry in entries))
    facts = [proof.facts_of(node) for node in stage.nodes]
    claims = list(proof.checks(stage, len(entries), kept, passes, ways, facts))
    report.passes(console, passes)
    report.shares(console, facts)
    report.packets(console, facts)
    report.ways(console, ways, facts)
    report.hops(console, ways)
    report.checks(console, claims)
    if as_json:
        print(msgspec.json.encode(report.as_json(passes, facts, ways, claims)).decode())
    return 0 if all(check.holds for check in claims) else 1


def _play(
    stage: Stage, entries: list[Package], progress: Progress
) -> tuple[dict[str, traffic.Pass], dict[str, list[Hop]]]:
    """All passes, each with a bar of its own."""

    def bar(name: str, total: int) -> Callable[[], object]:
        task = progress.add_task(name, total=total)
        return lambda: progress.advance(task)

    sample = ten_lines.sample(entries)
    passes = {
        "put": traffic.write(stage, entries, bar("put", len(entries))),
        "get through another node": traffic.read(
            stage, entries, bar("get through another node", len(entries))
        ),
        "get in ten lines": ten_lines.read(stage, sample, bar("get in ten lines", len(sample))),
    }
    passes["trace"], ways = traffic.trace(stage, entries, bar("trace", len(entries)))
    return passes, ways


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "demo")


if __name__ == "__main__":
    main()
