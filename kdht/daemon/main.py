"""kdhtd: the command line of the daemon."""

from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from kdht import __version__
from kdht.config import dev, places
from kdht.config.schema import DatapathKind, LogFormat, LogLevel
from kdht.config.settings import Settings, of_file, resolve, warn
from kdht.daemon.process import memory
from kdht.errors import ConfigError, exit_codes
from kdht.program import boundary

HELP = f"""Run one node of a kdht cluster.

{exit_codes(0, 1, 2, 3, 4)}
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=HELP)
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path),
    help=f"The configuration; {places.CONFIG} without it.",
)
@click.option(
    "--dev", "is_dev", is_flag=True, help="A node on loopback that needs no configuration and no root."
)
@click.option("--check", is_flag=True, help="Say whether it can work here and what it would do, and end.")
@click.option("--example", is_flag=True, help="Print a configuration with every field explained, and end.")
@click.option("--listen", multiple=True, metavar="ADDRESS", help="In place of node.listen. May be repeated.")
@click.option(
    "--bootstrap", multiple=True, metavar="HOST:PORT", help="In place of node.bootstrap. May be repeated."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="In place of node.data_dir.")
@click.option("--datapath", type=click.Choice(get_args(DatapathKind)), help="In place of datapath.kind.")
@click.option("--control", type=click.Path(path_type=Path), help="In place of control.socket.")
@click.option("--metrics", metavar="ADDRESS:PORT", help="In place of metrics.listen.")
@click.option("--web", metavar="ADDRESS:PORT", help="In place of web.listen.")
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="In place of log.level.")
@click.option("--log-format", type=click.Choice(get_args(LogFormat)), help="In place of log.format.")
@click.version_option(__version__, message="kdhtd %(version)s")
def command(path: Path | None, is_dev: bool, check: bool, example: bool, **given: Any) -> int:
    if example:
        from kdht.config.example import example as text

        click.echo(text(), nl=False)
        return 0
    load_settings = partial(_settings, path, is_dev, _overrides(given))
    if check:
        from kdht.daemon.check import check as check_environment

        return check_environment(load_settings())
    memory.without_tls()
    from kdht.daemon.process.daemon import run

    return run(load_settings)


def _overrides(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The command line's options as tables and fields of the configuration."""
    paths = {name: str(given[name].absolute()) for name in ("data_dir", "control") if given[name]}
    fields = {
        "node": {
            "listen": list(given["listen"]),
            "bootstrap": list(given["bootstrap"]),
            "data_dir": paths.get("data_dir"),
        },
        "datapath": {"kind": given["datapath"]},
        "control": {"socket": paths.get("control")},
        "metrics": {"listen": given["metrics"]},
        "web": {"listen": given["web"]},
        "log": {"level": given["log_level"], "format": given["log_format"]},
    }
    filled = {
        table: {name: value for name, value in under.items() if value} for table, under in fields.items()
    }
    return {table: under for table, under in filled.items() if under}


def _settings(path: Path | None, is_dev: bool, overrides: dict[str, dict[str, Any]]) -> Settings:
    if is_dev and path:
        raise ConfigError("--dev needs no --config: give one of them")
    if is_dev:
        return warn(resolve(dev.config(overrides)), dev.WARNING)
    if path is None and _is_missing(places.CONFIG):
        raise ConfigError(
            f"{places.CONFIG} does not exist: write it (kdhtd --example shows how), "
            "name another with --config, or try --dev"
        )
    return of_file(path or places.CONFIG, overrides)


def _is_missing(path: Path) -> bool:
    """Whether there is no such file; not so where this user may not look."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdhtd", patience_s=1.0)


if __name__ == "__main__":
    main()
