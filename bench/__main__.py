"""All measurements, one after the other: `make bench`, or `python -m bench [NAME]...`.

Every program in this folder measures one thing and takes --json. Without a NAME all run. Their results
go to bench/results as JSON, one report in Markdown, and plots. --quick makes fewer and smaller runs.
With NAMEs only those run, and print their own output. Arguments after a single NAME are its own:
`python -m bench sim static --nodes 1000`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.machine import RESULTS, machine

HERE = Path(__file__).parent
QUICK: Mapping[str, tuple[str, ...]] = {
    "core": ("--runs", "3"),
    "daemons": ("survival", "--nodes", "12", "--dying", "4", "--replicas", "3", "--seed", "1"),
    "dns_face": ("--names", "200", "--seconds", "2", "--rounds", "1"),
    "ebpf": ("--runs", "3", "--packets", "300000"),
    "ebpf_hot": ("--runs", "3", "--packets", "100000"),
    "http_face": ("--seconds", "2"),
    "nfqueue": ("--runs", "4"),
    "peers": ("--quick", "--nodes", "32", "--hosts", "8"),
    "scaling": ("--quick",),
    "sustained": ("--values", "20000"),
    "sim": ("static", "--nodes", "1000,10000", "--messages", "100000"),
    "tokens": ("--rounds", "5"),
}
"""The arguments of --quick, by measurement."""


def programs() -> dict[str, Path]:
    """The measurements by name: programs with --json, alone or as a folder. The other files help them."""
    single = [path for path in HERE.glob("*.py") if path != Path(__file__)]
    found = {path.stem: path for path in single} | {
        path.parent.name: path for path in HERE.glob("*/__main__.py")
    }
    return {name: path for name, path in sorted(found.items()) if "--json" in path.read_text()}


@click.command(
    help=__doc__,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
    },
)
@click.argument("names", nargs=-1, type=click.UNPROCESSED)
@click.option("--quick", is_flag=True, help="Fewer runs, smaller ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(names: tuple[str, ...], quick: bool, as_json: bool) -> None:
    known = programs()
    if names and names[-1] == "--json":
        names, as_json = names[:-1], True
    if len(names) > 1 and names[0] in known and names[1] not in known:
        sys.exit(_start(names[0], [*names[1:], *(["--json"] if as_json else [])]).returncode)
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no such measurement: {', '.join(unknown)}; there are {', '.join(known)}")
    results: dict[str, Any] = {"machine": machine()}
    kept = as_json or not names
    for name in names or known:
        click.secho(f"== {name}", bold=True, err=as_json)
        found = _run(name, QUICK.get(name, ()) if quick else (), kept)
        if found is not None:
            results[name] = found
            _keep(f"{name}.json", json.dumps(found, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(results, indent=2))
    elif not names:
        _report(results)


def _run(name: str, arguments: tuple[str, ...], as_json: bool) -> Any:
    """Its results. A failed one is reported, and the others go on. Nothing if it prints by itself."""
    given = [*arguments, *(["--json"] if as_json else [])]
    done = _start(name, given, stdout=subprocess.PIPE if as_json else None)
    if done.returncode == 0:
        return json.loads(done.stdout) if as_json else None
    if not as_json:
        raise click.ClickException(f"{name} ended with status {done.returncode}")
    click.secho(f"{name} ended with status {done.returncode}", fg="red", err=True)
    return {"failed": f"status {done.returncode}"}


def _start(name: str, arguments: list[str], stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"bench.{name}", *arguments]
    return subprocess.run(command, check=False, stdout=stdout, text=True, cwd=HERE.parent)


def _keep(name: str, text: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    path.write_text(text)
    return path


def _report(results: dict[str, Any]) -> None:
    from bench.plots import draw
    from bench.report import report

    text = report(results)
    click.echo(text)
    for path in [_keep("report.md", text), *draw(RESULTS)]:
        click.echo(path)


if __name__ == "__main__":
    command()
