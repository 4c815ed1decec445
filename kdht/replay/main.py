"""kdht-replay: the command line. Its exit statuses are part of its interface."""

from typing import NoReturn

import click

from kdht import __version__
from kdht.errors import exit_codes
from kdht.program import boundary
from kdht.program.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "run": LazyCommand("kdht.replay.commands.run", "command", "Give verdicts on every packet of a capture."),
    "diff": LazyCommand(
        "kdht.replay.commands.diff",
        "command",
        "Give a capture to several implementations and show where they differ.",
    ),
    "check": LazyCommand(
        "kdht.replay.commands.check", "command", "Hold fixtures to their expected verdicts."
    ),
    "record": LazyCommand(
        "kdht.replay.commands.record", "command", "Capture what a running node gets, as a fixture."
    ),
    "explain": LazyCommand("kdht.replay.commands.explain", "command", "Say why one packet gets its verdict."),
    "generate": LazyCommand("kdht.replay.commands.generate", "command", "Make a seeded capture."),
    "bench": LazyCommand(
        "kdht.replay.commands.bench", "command", "Measure packets per second of each implementation."
    ),
    "completion": LazyCommand(
        "kdht.replay.commands.completion", "command", "Print a completion script for bash, zsh or fish."
    ),
}


HELP = f"""Replay captured packets through any implementation of kdht's routing.

{exit_codes(0, 1, 2, 4, 5, 8)} A damaged capture counts as usage, an implementation that cannot
run here as datapath.
"""


@click.group(
    cls=LazyGroup,
    commands_by_name=COMMANDS,
    sections={"run": "Commands"},
    context_settings={"help_option_names": ["-h", "--help"]},
    help=HELP,
)
@click.version_option(__version__, message="kdht-replay %(version)s")
def command() -> None:
    """See HELP."""


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdht-replay")


if __name__ == "__main__":
    main()
