"""config: checks a configuration, shows its effective settings, explains all fields."""

from pathlib import Path
from typing import Any

import click
import msgspec

from kdht.cli.options import as_json, config_file, emit
from kdht.cli.results import ConfigChecked, ExampleConfig, Problem
from kdht.config.reading import load
from kdht.config.schema import Config

HIDDEN = "(hidden)"


@click.group()
def config() -> None:
    """Check, show or explain the configuration."""


@config.command()
@config_file
@as_json
def check(config_path: Path, as_json: bool) -> int:
    """Check whether the configuration works on this host, and show what it would do. Changes nothing.

    Exits with the code that kdhtd would exit with.
    """
    from kdht.config.settings import of_file
    from kdht.daemon.check import checked

    done = checked(of_file(config_path))
    problems = [Problem(str(error), error.exit_code) for error in done.problems]
    data = ConfigChecked(str(config_path), done.findings, problems, done.warnings)
    emit(data, as_json, "config.checked")
    return done.exit_code


@config.command()
@config_file
@as_json
def show(config_path: Path, as_json: bool) -> None:
    """Print all settings that the daemon would use, defaults included, as TOML. Secrets are hidden."""
    emit(effective(load(config_path)), as_json, "config.toml")


@config.command()
@as_json
def example(as_json: bool) -> None:
    """Print a configuration that explains every field."""
    from kdht.config.example import example as text

    emit(ExampleConfig(text()), as_json, "config.example")


def effective(config: Config) -> dict[str, Any]:
    """All fields as plain data."""
    data: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    for key in (*data["key"], *data["access"]["key"]):
        if key["secret"] is not None:
            key["secret"] = HIDDEN
    return data
