"""kdhtctl: the command line of an operator and of scripts.

Commands are loaded when they are asked for, and rich only when something is drawn, so
that a script which calls kdhtctl often does not wait for either.
"""

from typing import NoReturn

import click

from kdht import __version__
from kdht.errors import exit_codes
from kdht.program import boundary
from kdht.program.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "status": LazyCommand("kdht.cli.node_commands", "status", "What the node is and how it does."),
    "top": LazyCommand("kdht.cli.top", "top", "The node's rates and queues, live."),
    "table": LazyCommand("kdht.cli.node_commands", "table", "The contacts in the node's routing table."),
    "stats": LazyCommand("kdht.cli.node_commands", "stats", "The node's counters."),
    "datapath": LazyCommand("kdht.cli.node_commands", "datapath", "Show or switch how packets are treated."),
    "drain": LazyCommand("kdht.cli.node_commands", "drain", "Give the node's records away, and stop it."),
    "move": LazyCommand("kdht.cli.move", "move", "Have the node move to where it makes shares more even."),
    "doctor": LazyCommand(
        "kdht.cli.doctor", "doctor", "Examine this host and its node; how to mend what is wrong."
    ),
    "stop": LazyCommand("kdht.cli.node_commands", "stop", "Stop the node, and wait until it has."),
    "put": LazyCommand("kdht.cli.data_commands", "put", "Store a value."),
    "get": LazyCommand("kdht.cli.data_commands", "get", "Fetch a value."),
    "delete": LazyCommand("kdht.cli.data_commands", "delete", "Remove a value."),
    "watch": LazyCommand("kdht.cli.watch", "watch", "Tell what a key holds, now and after every change."),
    "load": LazyCommand("kdht.cli.load", "load", "Store all values of a file."),
    "dump": LazyCommand("kdht.cli.dump", "dump", "Fetch the values of many keys into a file."),
    "bench": LazyCommand("kdht.cli.bench", "bench", "Measure puts and gets through a node."),
    "cluster": LazyCommand(
        "kdht.cli.cluster", "cluster", "All nodes that this one knows, and whether they agree."
    ),
    "closest": LazyCommand("kdht.cli.routes", "closest", "The nodes closest to a key."),
    "trace": LazyCommand("kdht.cli.routes", "trace", "The nodes on a key's way, with their times."),
    "simulate": LazyCommand("kdht.cli.simulate", "simulate", "What the node would do with a packet."),
    "join": LazyCommand("kdht.cli.routes", "join", "Join the cluster through other nodes."),
    "forget": LazyCommand("kdht.cli.forget", "forget", "Have the cluster wait no more for a node that died."),
    "config": LazyCommand("kdht.cli.config_commands", "config", "Check, show or explain the configuration."),
    "key": LazyCommand("kdht.cli.key", "key", "Make a cluster secret, and change it under traffic."),
    "nft": LazyCommand("kdht.cli.nft", "nft", "The nftables ruleset: show, apply, remove, diff."),
    "storage": LazyCommand(
        "kdht.cli.storage", "storage", "The records: stats, check, compact, export, import."
    ),
    "completion": LazyCommand("kdht.cli.completion", "completion", "Completion for bash, zsh or fish."),
}

SECTIONS = {"status": "This node", "put": "Values", "cluster": "The cluster", "config": "Setting up"}
"""The command that each section of the help begins with."""

HELP = f"""Look after a kdht node, and use the cluster from a shell.

{exit_codes()}
"""


@click.group(
    cls=LazyGroup,
    commands_by_name=COMMANDS,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=HELP,
)
@click.version_option(__version__, message="kdhtctl %(version)s")
def command() -> None:
    """See HELP."""


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdhtctl")


if __name__ == "__main__":
    main()
