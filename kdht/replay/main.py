"""kdht-replay: the command line. Its exit statuses are part of its interface."""

from importlib import import_module
from typing import NoReturn

import click

from kdht import __version__
from kdht.errors import exit_codes
from kdht.program import boundary

# name: (module, the line in the help)
COMMANDS = {
    "run": ("run", "Give verdicts on every packet of a capture."),
    "diff": ("diff", "Give a capture to several implementations and show where they differ."),
    "check": ("check", "Hold fixtures to their expected verdicts."),
    "record": ("record", "Capture what a running node gets, as a fixture."),
    "explain": ("explain", "Say why one packet gets its verdict."),
    "generate": ("generate", "Make a seeded capture."),
    "bench": ("bench", "Measure packets per second of each implementation."),
}


class LazyGroup(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"kdht.replay.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


HELP = f"""Replay captured packets through any implementation of kdht's routing.

{exit_codes(0, 1, 2, 4, 5, 8)} A damaged capture counts as usage, an implementation that cannot
run here as datapath.
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, help=HELP)
@click.version_option(__version__, message="kdht-replay %(version)s")
def command() -> None:
    """See HELP."""


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdht-replay")


if __name__ == "__main__":
    main()
