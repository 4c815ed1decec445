"""kdhtctl: the command line of an operator and of scripts.

Commands are loaded when they are asked for, and rich only when something is drawn, so
that a script which calls kdhtctl often does not wait for either.
"""

from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from kdht import __version__
from kdht.errors import exit_codes
from kdht.program import boundary

# name: (module, attribute, the line in the help)
COMMANDS = {
    "status": ("kdht.cli.node_commands", "status", "What the node is and how it does."),
    "top": ("kdht.cli.top", "top", "The node's rates and queues, live."),
    "table": ("kdht.cli.node_commands", "table", "The contacts in the node's routing table."),
    "stats": ("kdht.cli.node_commands", "stats", "The node's counters."),
    "datapath": ("kdht.cli.node_commands", "datapath", "Show or switch how packets are treated."),
    "drain": ("kdht.cli.node_commands", "drain", "Give the node's records away, and stop it."),
    "move": ("kdht.cli.move", "move", "Have the node move to where it makes shares more even."),
    "doctor": ("kdht.cli.doctor", "doctor", "Examine this host and its node; how to mend what is wrong."),
    "stop": ("kdht.cli.node_commands", "stop", "Stop the node, and wait until it has."),
    "put": ("kdht.cli.data_commands", "put", "Store a value."),
    "get": ("kdht.cli.data_commands", "get", "Fetch a value."),
    "delete": ("kdht.cli.data_commands", "delete", "Remove a value."),
    "watch": ("kdht.cli.watch", "watch", "Tell what a key holds, now and after every change."),
    "load": ("kdht.cli.load", "load", "Store all values of a file."),
    "dump": ("kdht.cli.dump", "dump", "Fetch the values of many keys into a file."),
    "bench": ("kdht.cli.bench", "bench", "Measure puts and gets through a node."),
    "cluster": ("kdht.cli.cluster", "cluster", "All nodes that this one knows, and whether they agree."),
    "closest": ("kdht.cli.routes", "closest", "The nodes closest to a key."),
    "trace": ("kdht.cli.routes", "trace", "The nodes on a key's way, with their times."),
    "simulate": ("kdht.cli.simulate", "simulate", "What the node would do with a packet."),
    "join": ("kdht.cli.routes", "join", "Join the cluster through other nodes."),
    "forget": ("kdht.cli.forget", "forget", "Have the cluster wait no more for a node that died."),
    "config": ("kdht.cli.config_commands", "config", "Check, show or explain the configuration."),
    "key": ("kdht.cli.key", "key", "Make a cluster secret, and change it under traffic."),
    "nft": ("kdht.cli.nft", "nft", "The nftables ruleset: show, apply, remove, diff."),
    "storage": ("kdht.cli.storage", "storage", "The records: stats, check, compact, export, import."),
    "completion": ("kdht.cli.completion", "completion", "Completion for bash, zsh or fish."),
}

SECTIONS = {"status": "This node", "put": "Values", "cluster": "The cluster", "config": "Setting up"}
"""The command that each section of the help begins with."""

HELP = f"""Look after a kdht node, and use the cluster from a shell.

{exit_codes()}
"""


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
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        for name, (_, _, line) in COMMANDS.items():
            if name in SECTIONS:
                sections.append((SECTIONS[name], []))
            sections[-1][1].append((name, line))
        width = max(map(len, COMMANDS))
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in rows])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table alone, so that a shell does not wait for every command's imports."""
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        if incomplete.startswith("-") or not names:
            return super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else []
        return [CompletionItem(name, help=COMMANDS[name][2]) for name in names]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, help=HELP)
@click.version_option(__version__, message="kdhtctl %(version)s")
def command() -> None:
    """See HELP."""


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdhtctl")


if __name__ == "__main__":
    main()
