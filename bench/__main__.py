"""All measurements, one after the other: `make bench`, or `python -m bench [NAME]...`.

Every program in this folder measures one thing by itself and takes --json. This one runs
them as they are; with --json it prints one object of their results and the machine's data.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
CPU_INFO = Path("/proc/cpuinfo")


def programs() -> dict[str, Path]:
    """What can be run, by name: programs that take --json; the others help them."""
    found = {path.stem: path for path in sorted(HERE.glob("*.py")) if path != Path(__file__)}
    return {name: path for name, path in found.items() if "--json" in path.read_text()}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line.split(": ", 1)[1] for line in CPU_INFO.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Run the measurements NAMES, or all."""
    known = programs()
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no such measurement: {', '.join(unknown)}; there are {', '.join(known)}")
    results: dict[str, Any] = {"machine": machine()}
    for name in names or known:
        click.secho(f"== {name}", bold=True, err=as_json)
        results[name] = _run(known[name], as_json)
    if as_json:
        click.echo(json.dumps(results, indent=2))


def _run(path: Path, as_json: bool) -> Any:
    arguments = [sys.executable, str(path), *(["--json"] if as_json else [])]
    done = subprocess.run(arguments, check=False, stdout=subprocess.PIPE if as_json else None, text=True)
    if done.returncode != 0:
        raise click.ClickException(f"{path.name} ended with status {done.returncode}")
    return json.loads(done.stdout) if as_json else None


if __name__ == "__main__":
    command()
