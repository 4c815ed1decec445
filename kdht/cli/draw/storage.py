"""Draws the results of the storage commands."""

from msgspec.structs import asdict
from rich.markup import escape

from kdht.cli.report import grid, terminal
from kdht.cli.results import Exported, Imported, StorageChecked
from kdht.program.answers import Compacted, StoreFigures


def stats(data: StoreFigures) -> None:
    """Figures, then LevelDB's own."""
    console = terminal()
    console.print(
        grid([(name.replace("_", " "), value) for name, value in asdict(data).items() if name != "detail"])
    )
    if data.detail:
        console.print(escape(data.detail))


def checked(data: StorageChecked) -> None:
    """The counts, and the damage."""
    console = terminal()
    console.print(
        f"{data.records:,} records and {data.tombstones:,} tombstones, {data.value_bytes:,} bytes of values, {data.with_expiry:,} expire"
    )
    if data.set_aside:
        console.print(f"{data.set_aside:,} records set aside, because their version was beyond the clock")
    for problem in data.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    if not data.problems:
        console.print("[green]checksums, index and counts agree[/]")


def compacted(data: Compacted) -> None:
    """Bytes before and after."""
    terminal().print(f"{data.before:,} bytes on disk before, {data.after:,} now")


def exported(data: Exported) -> None:
    """How many."""
    terminal().print(f"{data.records:,} records in {escape(data.file)}")


def imported(data: Imported) -> None:
    """How many, and how many had to give way."""
    older = data.records - data.newest
    rest = f", {older:,} gave way to newer ones" if older else ""
    terminal().print(f"{data.records:,} records of {escape(data.file)} imported{rest}")
