"""What it costs to compare how many packets a fast path re-addressed with how many left.

    python -m bench.path_check [--runs N] [--packets N]        needs root

Two parts, both in processor time:
- nfqueue's worker sends packets on, with nft's rules that count what leaves and without them, in turn. The kernel
  evaluates them in the worker's system call.
- One comparison: the question for the counts, of nfqueue and of ebpf. The daemon asks once in 0.6 s.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.nfqueue import NODE, OUT, Stage, configured, options
from kdht.datapath.base import FastPath
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.host import ruleset
from kdht.datapath.nfqueue.datapath import NfqueueDatapath
from kdht.datapath.path_check import PAUSE_S
from kdht.datapath.publish import Publisher
from kdht.errors import KdhtError
from kdht.lab.netns import Host, Lab
from kdht.wire import Address
from kdht.wire._shared import PORT

COUNTING = re.compile(r"\tchain (?:postrouting|input|count_left) \{\n(?:\t\t.*\n)*\t\}\n\n?")
"""The chains of nft/kdht.nft that count what leaves."""
QUESTIONS = 300


@contextmanager
def without_counting(directory: Path, is_so: bool) -> Iterator[None]:
    """The ruleset has no counting chains within the block, if `is_so`."""
    usual = ruleset.ruleset_path
    text, chains = COUNTING.subn("", usual().read_text())
    if chains != 3:
        raise SystemExit(f"nft/kdht.nft has {chains} chains that count, not three: correct this benchmark")
    cut = directory / "kdht.nft"
    cut.write_text(text)
    ruleset.ruleset_path = (lambda: cut) if is_so else usual
    try:
        yield
    finally:
        ruleset.ruleset_path = usual


def worker_ns(stage: Stage, state: Path, *, counting: bool) -> list[float]:
    """Nanoseconds of the worker's processor time for a packet, of two rounds."""
    path = NfqueueDatapath(configured(), options(state))
    with without_counting(state, not counting), stage.node.enter():
        path.start()
        try:
            runs = stage.measure(int(str(path.status()["worker"])), 2)
        finally:
            path.stop()
    return [run.cpu / run.packets * 1e9 for run in runs]


def question_us(path: FastPath, node: Host) -> float:
    """Microseconds of processor time for one comparison's counts."""
    with node.enter():
        path.start()
        try:
            begun = time.process_time()
            for _ in range(QUESTIONS):
                path.departed()
                path.host_changes()
            return (time.process_time() - begun) / QUESTIONS * 1e6
        finally:
            path.stop()


def ebpf(state: Path) -> EbpfDatapath:
    addresses = (Address.of(NODE, PORT), Address.of(OUT, PORT))
    return EbpfDatapath(
        Publisher(configured()),
        EbpfOptions(node_id=bytes(20), addresses=addresses, interfaces=("eth1", "eth2"), runtime_dir=state),
    )


@click.command(help=__doc__)
@click.option("--runs", default=6, show_default=True, help="Turns of each kind.")
@click.option("--packets", default=30_000, show_default=True, help="Packets in the queue in each run.")
def main(runs: int, packets: int) -> None:
    counted: list[float] = []
    plain: list[float] = []
    try:
        with Lab("bench-path-check") as lab, tempfile.TemporaryDirectory() as directory:
            state = Path(directory)
            stage = Stage(lab, packets, 2)
            for _ in range(runs):
                plain += worker_ns(stage, state, counting=False)
                counted += worker_ns(stage, state, counting=True)
            asked = {
                "nfqueue": question_us(NfqueueDatapath(configured(), options(state)), stage.node),
                "ebpf": question_us(ebpf(state), stage.node),
            }
    except KdhtError as error:
        raise SystemExit(str(error)) from None
    pairs = [with_rules / without for with_rules, without in zip(counted, plain, strict=True)]
    click.echo(
        f"nfqueue's worker, a packet: {statistics.median(plain):.0f} ns without the counting rules, "
        f"{statistics.median(counted):.0f} with them, ratio {statistics.median(pairs):.3f} "
        f"({min(pairs):.3f} to {max(pairs):.3f})"
    )
    for name, each in asked.items():
        click.echo(
            f"{name}, a comparison: {each:.0f} us, every {PAUSE_S} s: {each / PAUSE_S / 1e4:.3f} % of a processor"
        )


if __name__ == "__main__":
    main()
