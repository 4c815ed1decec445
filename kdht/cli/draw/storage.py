"""Draws the results of the storage commands."""

from msgspec.structs import asdict

from kdht.cli.report import grid, terminal
from kdht.cli.results import Exported, Imported, StorageChecked
from kdht.program.answers import Compacted, StoreFigures
from kdht.program.drawing import counted, line, styled


def stats(data: StoreFigures) -> None:
    """Figures, then LevelDB's own."""
    console = terminal()
    console.print(
        grid([(name.replace("_", " "), value) for name, value in asdict(data).items() if name != "detail"])
    )
    if data.detail:
        console.print(data.detail)


def checked(data: StorageChecked) -> None:
    """The counts, and the damage."""
    console = terminal()
    console.print(
        f"{counted(data.records, 'record')} and {counted(data.tombstones, 'tombstone')}, "
        f"{counted(data.value_bytes, 'byte')} of values; with an expiry: {data.with_expiry:,}"
    )
    if data.set_aside:
        console.print(
            f"{counted(data.set_aside, 'record')} set aside, because the version was beyond the clock"
        )
    for problem in data.problems:
        console.print(line(("problem:", "red"), f" {problem}"))
    if not data.problems:
        console.print(styled("checksums, index and counts agree", "green"))


def compacted(data: Compacted) -> None:
    """Bytes before and after."""
    terminal().print(f"on disk before: {counted(data.before, 'byte')}, now: {counted(data.after, 'byte')}")


def exported(data: Exported) -> None:
    """How many."""
    terminal().print(f"{counted(data.records, 'record')} in {data.file}")


def imported(data: Imported) -> None:
    """How many, and how many had to give way."""
    older = data.records - data.newest
    rest = f", {older:,} gave way to newer ones" if older else ""
    terminal().print(f"{counted(data.records, 'record')} of {data.file} imported{rest}")
