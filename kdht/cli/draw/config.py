"""Draws the results of the config and key commands."""

import json
import sys
from typing import Any

from kdht.cli.report import Data, terminal
from kdht.cli.results import ClientKey, ConfigChecked, ExampleConfig, Rotated, SecretMade
from kdht.program.drawing import line, styled


def checked(data: ConfigChecked) -> None:
    """All findings, then the errors."""
    console = terminal()
    for finding in data.findings:
        console.print(finding)
    for problem in data.problems:
        console.print(line(("problem:", "red"), f" {problem.error}"))
    for warning in data.warnings:
        console.print(line(("warning:", "yellow"), f" {warning}"))
    if not data.problems:
        console.print(styled(f"{data.config} can work here", "green"))


def toml(data: Data) -> None:
    """A configuration as TOML, without colours: it may be used."""
    for table, content in data.items():
        _table(table, content)


def _table(path: str, content: Any) -> None:
    """One table, or each of a list of them, then the tables inside."""
    for fields in content if isinstance(content, list) else [content]:
        print(f"[[{path}]]" if isinstance(content, list) else f"[{path}]")
        inner = {name: value for name, value in fields.items() if name == "key"}
        for name, value in fields.items():
            if name not in inner:
                print(f"{name} = {_toml(value)}" if value is not None else f"# {name} is not set")
        print()
        for name, value in inner.items():
            _table(f"{path}.{name}", value)


def _toml(value: Any) -> str:
    """Numbers, texts, truth values and lists look in TOML as they do in JSON."""
    return json.dumps(value)


def example(data: ExampleConfig) -> None:
    """The text as it is."""
    sys.stdout.write(data.toml)


def made_for_clients(data: ClientKey) -> None:
    """A new key of a client."""
    print(f"made {data.file}, a key for {data.use}: keep a copy, nobody can make it again")
    client_key(data)


def client_key(data: ClientKey) -> None:
    """What may be told of a client's key."""
    if data.public_key:
        print(f"public key {data.public_key}: readers name it with get --signed-by")
    else:
        print(f"a key for {data.use}, ID {data.id}")


def made(data: SecretMade) -> None:
    """A new secret's file."""
    console = terminal()
    console.print(f"made {data.file}: copy it to all nodes, readable by the daemon only, then on each:")
    console.print(f"  kdhtctl key rotate --stage accept --file {data.file}")


def rotated(data: Rotated) -> None:
    """One stage on one node."""
    console = terminal()
    done = "signs with" if data.changed else "nothing to change: signs with"
    first, *others = data.epochs
    accepts = f", accepts {', '.join(map(str, others))} too" if others else ""
    console.print(f"{data.config}: {done} epoch {first}{accepts}")
    console.print({True: "the daemon has it", False: "takes effect when the daemon starts"}[data.reloaded])
    if data.waiting:
        console.print(
            line(("other changes in it wait for a restart:", "yellow"), f" {', '.join(data.waiting)}")
        )
    console.print(f"next: {data.next}")
