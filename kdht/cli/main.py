"""kdhtctl: the command line of an operator and of scripts.

Commands are loaded when they are asked for, and rich only when something is drawn, so
that a script which calls kdhtctl often does not wait for either.
"""

from importlib import import_module
from typing import NoReturn

import click

from kdht import __version__
from kdht.daemon import boundary

# name: (module, attribute, the line in the help)
COMMANDS = {
    "status": ("kdht.cli.node_commands", "status", "What the node is and how it does."),
    "table": ("kdht.cli.node_commands", "table", "The contacts in the node's routing table."),
    "stats": ("kdht.cli.node_commands", "stats", "The node's counters."),
    "datapath": ("kdht.cli.node_commands", "datapath", "Show or switch how packets are treated."),
    "stop": ("kdht.cli.node_commands", "stop", "Stop the node, and wait until it has."),
    "put": ("kdht.cli.data_commands", "put", "Store a value."),
    "get": ("kdht.cli.data_commands", "get", "Fetch a value."),
    "delete": ("kdht.cli.data_commands", "delete", "Remove a value."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="kdhtctl %(version)s")
def command() -> None:
    """Look after a kdht node, and use the cluster from a shell.

    Exit codes: 0 done, 1 other, 2 usage or configuration, 3 storage, 4 datapath,
    5 no daemon, 6 request failed, 7 not found.
    """


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdhtctl")


if __name__ == "__main__":
    main()
