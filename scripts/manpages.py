"""Writes a man page for each program, from the click commands that print --help.

    python scripts/manpages.py DIRECTORY      man1/kdhtctl.1, man1/kdht-replay.1, man8/kdhtd.8, man8/kdht-faces.8

A program's page has its subcommands, too. click-man was tried: it sees no command of a group that loads
them lazily, escapes no text, and knows section 1 only.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click

from kdht import __version__
from kdht.config import places

WIDTH = 76


class Program(NamedTuple):
    """Where a program's command is, and what click does not know about it."""

    name: str
    section: int
    module: str
    about: str
    files: dict[str, str]


FILES = {
    str(places.CONFIG): "the configuration of the node; kdhtd --example explains every field",
    str(places.DATA_DIR): "the node's ID, its records and its last contacts",
    str(places.SOCKET): "the control socket",
}
PROGRAMS = (
    Program("kdhtd", 8, "kdht.daemon.main", "run one node of a kdht cluster", FILES),
    Program(
        "kdht-faces",
        8,
        "kdht.faces.main",
        "serve a kdht cluster by DNS, by HTTP and as a tracker",
        {str(places.FACES_CONFIG): "the configuration of faces without kdhtd"},
    ),
    Program("kdhtctl", 1, "kdht.cli.main", "look after a kdht node, and use its cluster", FILES),
    Program("kdht-replay", 1, "kdht.replay.main", "replay captured packets through kdht's routing", {}),
)


def escaped(text: str) -> str:
    """Text as roff shows it: no line of it is a request, a hyphen can be copied, a list of choices broken."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").replace("|", "|\\:").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def page(program: Program) -> str:
    """The whole page."""
    command: click.Command = import_module(program.module).command
    context = click.Context(command, info_name=program.name, **command.context_settings)
    title = f'.TH {program.name.upper()} {program.section} "" "kdht {__version__}" "kdht manual"'
    ragged = [".ad l", ".nh"]  # names of options are neither stretched nor broken
    parts = [title, *ragged, ".SH NAME", f"{escaped(program.name)} \\- {escaped(program.about)}"]
    parts += [".SH SYNOPSIS", *_usage(context)]
    parts += [".SH DESCRIPTION", *_prose(command.help or "")]
    parts += [".SH OPTIONS", *_options(context)]
    if isinstance(command, click.Group):
        parts += [".SH COMMANDS", *(line for each in _below(context) for line in _subcommand(each))]
    if environment := sorted({name for each in (context, *_below(context)) for name in _variables(each)}):
        parts += [".SH ENVIRONMENT", *_terms((name, about) for name, about in environment)]
    if program.files:
        parts += [".SH FILES", *_terms(program.files.items())]
    others = [f"\\fB{escaped(each.name)}\\fR({each.section})" for each in PROGRAMS if each != program]
    parts += [".SH SEE ALSO", ", ".join(others)]
    return "\n".join(parts) + "\n"


def _below(context: click.Context) -> Iterator[click.Context]:
    """All visible subcommands, at any depth, groups before what they hold."""
    if not isinstance(context.command, click.Group):
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        if not command.hidden:
            inner = click.Context(command, info_name=name, parent=context)
            yield inner
            yield from _below(inner)


def _subcommand(context: click.Context) -> Iterator[str]:
    yield f".SS {escaped(context.command_path.partition(' ')[2])}"
    yield from _usage(context)
    yield ".PP"
    yield from _prose(context.command.help or "")
    yield from _options(context)


def _usage(context: click.Context) -> list[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return [f"\\fB{escaped(context.command_path)}\\fR {escaped(pieces)}"]


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; click's mark of those that keep their lines is obeyed."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", escaped(paragraph[2:]), ".fi")
        else:
            yield escaped("\n".join(textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False)))


def _options(context: click.Context) -> list[str]:
    found = [param.get_help_record(context) for param in context.command.get_params(context)]
    return list(_terms(record for record in found if record and record[1]))


def _terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, about in pairs:
        yield from (".TP", f"\\fB{escaped(term)}\\fR", *_prose(about))


def _variables(context: click.Context) -> Iterator[tuple[str, str]]:
    """Environment variables that stand for options."""
    for param in context.command.get_params(context):
        if isinstance(param, click.Option) and isinstance(param.envvar, str):
            yield param.envvar, f"In place of {param.opts[0]}."


def main(directory: Path) -> None:
    for program in PROGRAMS:
        path = directory / f"man{program.section}" / f"{program.name}.{program.section}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(program))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
