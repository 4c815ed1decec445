"""Writes a man page for each program, from the click commands that print --help.

    python scripts/manpages.py DIRECTORY      man1/kdhtctl.1, man1/kdht-replay.1, man8/kdhtd.8, man8/kdht-faces.8,
                                              man5/kdhtd.toml.5

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
from kdht.config.example import example
from kdht.errors import EXIT_CODES

WIDTH = 76
CONFIGURATION = ("kdhtd.toml", 5)
EXAMPLE = """\
[node]
listen = ["10.0.0.1"]
bootstrap = ["10.0.0.2", "10.0.0.3"]
[[key]]
file = "/etc/kdht/secret"
[[access.key]]
file = "/etc/kdht/access-secret\""""


class Program(NamedTuple):
    """Where a program's command is, and what click does not know about it."""

    name: str
    section: int
    module: str
    about: str
    files: dict[str, str]
    examples: dict[str, str]
    """What is done, and the command."""
    signals: dict[str, str]
    environment: dict[str, str]
    """Variables that stand for no option."""


FILES = {
    str(places.CONFIG): "the configuration of the node; kdhtd --example explains every field",
    str(places.DATA_DIR): "the node's ID, its records and its last contacts",
    str(places.SOCKET): "the control socket",
}
PROGRAMS = (
    Program(
        "kdhtd", 8, "kdht.daemon.main", "run one node of a kdht cluster", FILES,
        examples={
            "A node to try things on, without root": "kdhtd --dev",
            "Would this configuration work here?": "kdhtd --check --config /etc/kdht/kdhtd.toml",
            "A configuration to begin with": "kdhtd --example > /etc/kdht/kdhtd.toml",
        },
        signals={
            "SIGTERM, SIGINT": "Stop: answer what is under way, tell the other nodes, undo all changes of this host. With "
            "node.lame_duck serve on for a while first, not ready; another SIGTERM ends that. A further one ends at once.",
            "SIGHUP": "Read the configuration again: its keys, its access rules and the level of the log. A log says which "
            "changes wait for a restart.",
        },
        environment={"XDG_STATE_HOME": "Where a --dev node keeps its data: in kdht/ there. Default: ~/.local/state."},
    ),
    Program(
        "kdht-faces", 8, "kdht.faces.main", "serve a kdht cluster by DNS, by HTTP and as a tracker",
        {str(places.FACES_CONFIG): "the configuration of faces without kdhtd"},
        examples={"Faces beside a node that has none": "kdht-faces --config /etc/kdht/faces.toml"},
        signals={"SIGTERM, SIGINT": "Stop: answer what is under way, and close."},
        environment={},
    ),
    Program(
        "kdhtctl", 1, "kdht.cli.main", "look after a kdht node, and use its cluster", FILES,
        examples={
            "Store a value for a day, and fetch it": "kdhtctl put greeting hello --ttl 1d; kdhtctl get greeting",
            "Change it only if nobody else has": "kdhtctl put greeting hi --if-version 1796051726197793",
            "Ask a node of another host": "kdhtctl get greeting --node 10.0.0.2",
            "Is all well? What should be done?": "kdhtctl status && kdhtctl doctor",
            "In a script": "kdhtctl get greeting --json",
            "Take a node out of service": "kdhtctl drain",
        },
        signals={"SIGINT": "End. What goes on without the command is told, and how to call it off."},
        environment={},
    ),
    Program(
        "kdht-replay", 1, "kdht.replay.main", "replay captured packets through kdht's routing", {},
        examples={
            "What would the running node do with these packets?": "kdht-replay run capture.pcap --node /run/kdht/kdhtd.sock "
            "--config /etc/kdht/kdhtd.toml",
            "Why is packet 7 dropped?": "kdht-replay explain capture.pcap --packet 7 --table table.json",
        },
        signals={"SIGINT": "End. A recording is complete then."},
        environment={},
    ),
)  # fmt: skip


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
    parts += [".SH EXIT STATUS", *_terms((str(code), f"{what}.") for code, what in EXIT_CODES.items())]
    parts += [".SH SIGNALS", *_terms(program.signals.items())]
    named = {name for each in (context, *_below(context)) for name in _variables(each)}
    if environment := sorted({*named, *program.environment.items()}):
        parts += [".SH ENVIRONMENT", *_terms(environment)]
    if program.files:
        parts += [".SH FILES", *_terms(program.files.items())]
    parts += [".SH EXAMPLES", *_examples(program.examples)]
    parts += [".SH SEE ALSO", _others(program.name)]
    return "\n".join(parts) + "\n"


def _others(name: str) -> str:
    pages = [*((each.name, each.section) for each in PROGRAMS), CONFIGURATION]
    return ", ".join(f"\\fB{escaped(page)}\\fR({section})" for page, section in pages if page != name)


def _examples(examples: dict[str, str]) -> Iterator[str]:
    for what, command in examples.items():
        yield from (".TP", escaped(what), f"\\fB{escaped(command)}\\fR")


def configuration() -> str:
    """The page of the configuration file, from the descriptions of its fields."""
    name, section = CONFIGURATION
    title = f'.TH {name.upper()} {section} "" "kdht {__version__}" "kdht manual"'
    parts = [title, ".ad l", ".nh", ".SH NAME", f"{escaped(name)} \\- the configuration of a kdht node"]
    parts += [".SH DESCRIPTION", *_prose("kdhtd reads it when it starts, from --config or from the file below. "
              "It is TOML. kdhtd --example prints it with every field, kdhtd --check says whether it works here.")]  # fmt: skip
    parts += [".SH EXAMPLES", ".nf", escaped(EXAMPLE), ".fi", ".SH FIELDS"]
    for table in example().split("\n\n[")[1:]:
        head, _, rest = f"[{table}".partition("\n")
        parts += [f".SS {escaped(head)}", *_fields(rest)]
    parts += [".SH FILES", *_terms({str(places.CONFIG): "unless --config names another"}.items())]
    parts += [".SH SEE ALSO", _others(name)]
    return "\n".join(parts) + "\n"


def _fields(text: str) -> Iterator[str]:
    """Of one table of the example file: its words, then each field with its own."""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        words = " ".join(each[2:] for each in lines if each.startswith("# "))
        fields = [each.lstrip("#") for each in lines if not each.startswith("# ")]
        if fields and fields[0]:
            yield from _terms([(fields[0], words)])
        else:
            yield from _prose(words)


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
    path = directory / "man5/kdhtd.toml.5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(configuration())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
