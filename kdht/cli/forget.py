"""forget: a node that died does not come back, and counts no more in what a write needs."""

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
    """Have all nodes wait no more for NODE, which died and does not come back: its ID, or its address and port.

    Only where fewer nodes live than keep a key are the dead remembered, so that those who are left do not take
    themselves for the whole cluster: `kdhtctl status` lists them. It is typed once, on any node. A node that lives is not
    forgotten. Ends with status 8 if some nodes did not answer.
    """
    data = control_client.ask(socket_path, "forget", Forgotten, timeout=TIMEOUT, node=node)
    emit(data, as_json, "cluster.forgotten")
    if data.silent:
        raise Disagreement(f"{', '.join(data.silent)} did not answer: type it again when they do")
