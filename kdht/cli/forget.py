"""forget: a dead node will not come back, and no longer counts in the quorum."""

from pathlib import Path

import click

from kdht.cli.options import as_json, control_socket, emit
from kdht.errors import Disagreement
from kdht.program import control_client
from kdht.program.answers import Forgotten

TIMEOUT = 60.0
"""Seconds: every contact is asked, and asked again."""


@click.command()
@click.argument("node")
@control_socket
@as_json
def forget(node: str, socket_path: Path, as_json: bool) -> None:
    """Stop waiting for a dead NODE: its ID, or its address and port. Run it once, on any node.

    This is needed only if fewer nodes live than `replicas` (3 by default). They then wait for the dead ones, because they
    must not take themselves for the whole cluster; `kdhtctl status` lists the dead. A node that still answers is not
    removed. Exits with 8 if some nodes did not answer.
    """
    data = control_client.ask(socket_path, "forget", Forgotten, timeout=TIMEOUT, node=node)
    emit(data, as_json, "cluster.forgotten")
    if data.silent:
        raise Disagreement(f"{', '.join(data.silent)} did not answer: run the command again when they do")
