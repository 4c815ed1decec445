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
    "status": LazyCommand("kdht.cli.node_commands", "status", "Show the node's state and health."),
    "top": LazyCommand("kdht.cli.top", "top", "Show the node's rates and queues, live."),
    "table": LazyCommand("kdht.cli.node_commands", "table", "List the contacts in the routing table."),
    "stats": LazyCommand("kdht.cli.node_commands", "stats", "Show the node's counters."),
    "datapath": LazyCommand("kdht.cli.node_commands", "datapath", "Show or switch the datapath."),
    "drain": LazyCommand("kdht.cli.node_commands", "drain", "Hand over the node's records, then stop it."),
    "move": LazyCommand("kdht.cli.move", "move", "Move the node to an ID that evens out the shares."),
    "doctor": LazyCommand(
        "kdht.cli.doctor", "doctor", "Check this host and its node, and say how to fix problems."
    ),
    "stop": LazyCommand("kdht.cli.node_commands", "stop", "Stop the node and wait for it to end."),
    "put": LazyCommand("kdht.cli.data_commands", "put", "Store a value."),
    "get": LazyCommand("kdht.cli.data_commands", "get", "Fetch a value."),
    "delete": LazyCommand("kdht.cli.data_commands", "delete", "Remove a value."),
    "watch": LazyCommand("kdht.cli.watch", "watch", "Print a key's value, now and after every change."),
    "announce": LazyCommand("kdht.cli.sets", "announce", "Be a member of a set."),
    "withdraw": LazyCommand("kdht.cli.sets", "withdraw", "Be a member no more."),
    "members": LazyCommand("kdht.cli.sets", "members", "List the members of a set."),
    "load": LazyCommand("kdht.cli.load", "load", "Store all values in a file."),
    "dump": LazyCommand("kdht.cli.dump", "dump", "Fetch the values of many keys into a file."),
    "bench": LazyCommand("kdht.cli.bench", "bench", "Measure puts and gets through a node."),
    "cluster": LazyCommand("kdht.cli.cluster", "cluster", "List all nodes, and check that they agree."),
    "closest": LazyCommand("kdht.cli.routes", "closest", "List the nodes closest to a key."),
    "trace": LazyCommand("kdht.cli.routes", "trace", "Show a key's route, with times."),
    "simulate": LazyCommand("kdht.cli.simulate", "simulate", "Show what the node would do with a packet."),
    "join": LazyCommand("kdht.cli.routes", "join", "Join the cluster through other nodes."),
    "forget": LazyCommand("kdht.cli.forget", "forget", "Stop waiting for a dead node."),
    "config": LazyCommand("kdht.cli.config_commands", "config", "Check, show or explain the configuration."),
    "key": LazyCommand("kdht.cli.key", "key", "Create a secret, or rotate it under traffic."),
    "token": LazyCommand("kdht.cli.token", "token", "Make, show, check or revoke a client's token."),
    "nft": LazyCommand("kdht.cli.nft", "nft", "Show, apply, remove or diff the nftables ruleset."),
    "storage": LazyCommand(
        "kdht.cli.storage", "storage", "Inspect, check, compact, export or import the records."
    ),
    "completion": LazyCommand(
        "kdht.cli.completion", "completion", "Print a completion script for bash, zsh or fish."
    ),
}

SECTIONS = {"status": "This node", "put": "Values", "cluster": "The cluster", "config": "Setting up"}
"""The command that each section of the help begins with."""

HELP = f"""Manage a kdht node, and use the cluster from a shell.

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
