"""simulate: the verdict of this node on a packet, by its own table and the core's own code.

Nothing is sent: the node tells its contacts, its configuration has the keys, and the verdict is
made here, as `kdht-replay explain` makes it.
"""

import time
from dataclasses import replace
from pathlib import Path

import click

from kdht.cli.options import as_json, config_file, control_socket, emit
from kdht.config import dev, places
from kdht.errors import ConfigError
from kdht.program import control_client
from kdht.program.node_status import NodeStatus
from kdht.wire.keys import ClusterSecret, derive


@click.command()
@click.argument("packet")
@click.argument("number", type=click.IntRange(1), required=False)
@config_file
@control_socket
@click.option("--now", type=click.IntRange(0), help="Unix second of the verdict. Default: now.")
@as_json
def simulate(
    packet: str, number: int | None, config_path: Path, socket_path: Path, now: int | None, as_json: bool
) -> None:
    """Show what the node would do with one IP packet: verdict, reason, next hop.

    With NUMBER, PACKET is a capture file. Without it, PACKET is hexadecimal digits or a file of raw bytes, from the
    IP header on. The cluster's keys are read from the configuration; a --dev node's key is known.
    """
    # The reader of captures is loaded for this command alone.
    from kdht.replay.commands.explain import judged
    from kdht.replay.tables import from_node

    config, keys = _keys(config_path, control_client.ask(socket_path, "status", NodeStatus))
    table = from_node(socket_path, config, keys)
    table = replace(table, now=now if now is not None else int(time.time()))
    emit(judged(table, packet, number), as_json, "simulate.simulate")


def _keys(path: Path, status: NodeStatus) -> tuple[Path | None, list[ClusterSecret]]:
    """The configuration with the node's keys, or the keys of a --dev node."""
    if dev.WARNING in status.warnings:
        return None, [derive(0, dev.SECRET.encode())]
    if path == places.CONFIG and not path.exists():
        raise ConfigError(f"{path} does not exist: name the node's configuration with --config, for its keys")
    return path, []
