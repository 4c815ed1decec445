"""Runs the fuzzers, one after the other: `make fuzz TIME=600 TARGET=packet`, or `python -m fuzz --help`.

Exit status 1 if there is a finding. What a run learns stays in fuzz/build/corpus, and --keep
puts a minimised corpus from it into fuzz/corpus, which is committed.
"""

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from fuzz import targets
from fuzz.build import BUILD, Unbuildable, build, environment

CORPUS = Path(__file__).parent / "corpus"
MAX_INPUT = {
    "packet": 1400,
    "message": 1300,
    "netlink": 6000,
    "control": 1000,
    "service": 3000,
    "certified": 1200,
    "rights": 1200,
    "sets": 1200,
    "client": 1400,
    "lies": 1500,
    "dns": 800,
    "tracker": 1800,
    "http": 4096,
}
SLOWEST = 20
"""Seconds that one input may take. Enough on a busy machine; a longer run is an endless loop."""

_PROGRESS = re.compile(
    rb"#(\d+)\s+(?:DONE|INITED|NEW|REDUCE|RELOAD|pulse)\s+cov: (\d+) ft: (\d+) corp: (\d+)/"
)
_FINDING = re.compile(rb"Test unit written to (.+)")


class Run(NamedTuple):
    """The result of fuzzing one target. `finding`: the input that broke the invariant."""

    target: str
    executions: int
    seconds: float
    cpu_seconds: float
    edges: int
    features: int
    inputs: int
    finding: Path | None
    log: Path


def fuzz(target: str, seconds: int, out: Path = BUILD, committed: Path = CORPUS) -> Run:
    """Fuzz one target with the harness in `out`. Start from all its known inputs."""
    learnt, findings, log = out / "corpus" / target, out / "findings", out / "logs" / f"{target}.log"
    for folder in (learnt, findings, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("wb") as output:
        status = subprocess.run(
            [out / "harness", f"-max_total_time={seconds}", f"-max_len={MAX_INPUT[target]}",
             f"-timeout={SLOWEST}", f"-artifact_prefix={findings}/{target}-", learnt, *_starts(target, out, committed)],
            env=environment(target, out),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode  # fmt: skip
    spent, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = log.read_bytes()
    broken = _FINDING.findall(said) if status else []
    if status and not broken:
        raise click.ClickException(f"{target}: the harness ended with status {status}; {log} says why")
    numbers = [int(number) for number in (_PROGRESS.findall(said) or [(0, 0, 0, 0)])[-1]]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(
        target, numbers[0], spent, cpu, *numbers[1:], Path(broken[-1].decode()) if broken else None, log
    )


def _starts(target: str, out: Path, committed: Path = CORPUS) -> list[Path]:
    """The first inputs: the committed corpus, and the seeds that the target makes."""
    seeds = out / "seeds" / target
    seeds.mkdir(parents=True, exist_ok=True)
    for name, data in targets.module(target).seeds():
        (seeds / name).write_bytes(data)
    return [path for path in (committed / target, seeds) if path.is_dir()]


def keep(target: str, out: Path = BUILD) -> int:
    """Reduce the committed corpus to the fewest inputs that cover as much. Returns how many.

    Counts of how often an edge was taken are left out of it, else there would be thousands.
    Findings that were put there by hand, `found-...`, stay.
    """
    committed = CORPUS / target
    with tempfile.TemporaryDirectory(dir=out) as least:
        sources = [out / "corpus" / target, *_starts(target, out)]
        options = ["-merge=1", "-use_counters=0", f"-max_len={MAX_INPUT[target]}"]
        subprocess.run(
            [out / "harness", *options, least, *sources],
            env=environment(target, out),
            capture_output=True,
            check=True,
        )
        committed.mkdir(parents=True, exist_ok=True)
        for path in committed.iterdir():
            if not path.name.startswith("found-"):
                path.unlink()
        for path in Path(least).iterdir():
            shutil.copy(path, committed / path.name[:12])
    return len(list(committed.iterdir()))


def summary(runs: Iterable[Run]) -> Table:
    table = Table("target", box=None)
    for heading in ("runs", "per CPU s", "CPU min", "C edges", "features", "inputs", "findings"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.target,
            f"{run.executions:,}",
            f"{run.executions / max(run.cpu_seconds, 0.01):,.0f}",
            f"{run.cpu_seconds / 60:.1f}",
            f"{run.edges:,}",
            f"{run.features:,}",
            f"{run.inputs:,}",
            str(int(run.finding is not None)),
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--target", "names", multiple=True, type=click.Choice(targets.NAMES), help="All if not given.")
@click.option(
    "--time", "seconds", default=60, show_default=True, type=click.IntRange(1), help="Seconds for each."
)
@click.option("--keep", "keeping", is_flag=True, help="Put what was learnt, minimised, into fuzz/corpus.")
def command(names: tuple[str, ...], seconds: int, keeping: bool) -> None:
    """Fuzz kdht's parsers under clang's sanitizers, guided by coverage."""
    console, runs = Console(), []
    try:
        with console.status("building under the sanitizers"):
            build()
    except Unbuildable as why:
        raise click.ClickException(str(why)) from None
    for name in names or targets.NAMES:
        with console.status(f"{name}: {seconds} s"):
            runs.append(fuzz(name, seconds))
        if keeping and runs[-1].finding is None:
            console.print(f"{name}: {keep(name)} inputs in fuzz/corpus/{name}")
    console.print(summary(runs))
    for run in runs:
        if run.finding is not None:
            console.print(f"{run.target}: a finding. {run.log} tells of it; once more: ", end="")
            console.print(f"python -m fuzz.replay {run.target} {run.finding}", soft_wrap=True)
    sys.exit(any(run.finding for run in runs))


if __name__ == "__main__":
    command()
