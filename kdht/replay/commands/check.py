"""kdht-replay check: fixtures against their expected verdicts."""

from pathlib import Path
from typing import Any

import click

from kdht.errors import DIFFERENCES
from kdht.replay import draw, options, tables
from kdht.replay.fixtures import Fixture, found_in, mismatches, verdicts_of
from kdht.replay.options import FILE


@click.command()
@click.argument("directory", type=FILE)
@click.option("--impl", "-i", "names", type=options.implementation_type, multiple=True, default=("core",),
              show_default=True, help="May be given several times.")  # fmt: skip
@click.option(
    "--update", is_flag=True, help="Write the verdicts of the first implementation as the expected ones."
)
@options.fault_option
@options.as_json
def command(directory: Path, names: tuple[str, ...], update: bool, fault: str | None, as_json: bool) -> int:
    """Check the fixture in DIRECTORY, or all fixtures below it.

    Exits with 8 if a verdict is not the expected one.
    """
    wrong = 0
    for fixture in found_in(directory):
        if update:
            _update(fixture, names[0])
        for name in names:
            found = _checked(fixture, name, fault)
            wrong += len(found["mismatches"])
            options.emit(found) if as_json else draw.checked(found)
    return DIFFERENCES if wrong else 0


def _checked(fixture: Fixture, name: str, fault: str | None) -> dict[str, Any]:
    table = tables.load(fixture.table)
    with options.opened(name, table, fault) as implementation:
        found = dict(verdicts_of(fixture, implementation, table.now))
    return {
        "type": "fixture",
        "fixture": fixture.name,
        "implementation": name,
        "packets": len(found),
        "mismatches": [each._asdict() for each in mismatches(fixture.expected(), found)],
    }


def _update(fixture: Fixture, name: str) -> None:
    """Remarks stay with their packets."""
    table = tables.load(fixture.table)
    remarks = {}
    if fixture.verdicts.exists():
        remarks = {number: each.remark for number, each in fixture.expected().items()}
    with options.opened(name, table, None) as implementation:
        fixture.update(dict(verdicts_of(fixture, implementation, table.now)), remarks)
