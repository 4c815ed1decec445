"""move: the node gives its records away, takes the ID where it serves best now, and joins again.

The daemon does all of it; this waits, and says how far it is.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from kdht.cli.done import MoveDone
from kdht.cli.options import Seconds, as_json, control_socket, emit
from kdht.errors import KdhtError
from kdht.program import control_client
from kdht.program.answers import MoveBegun
from kdht.program.node_status import NodeStatus

MOVE_TIMEOUT = 60.0
"""Seconds until the daemon has begun: it first looks at the whole cluster."""
LOOK = 0.3
"""Seconds between two looks."""
SAY_AGAIN = 1.0
"""Seconds, at least, between two lines about how far it is."""


@click.command()
@control_socket
@click.option("--anyway", is_flag=True, help="Move even if the shares do not become more even.")
@click.option(
    "--timeout", type=Seconds(), default="30m", show_default=True, help="Give up waiting after this time."
)
@as_json
def move(socket_path: Path, anyway: bool, timeout: int, as_json: bool) -> None:
    """Move the node to the widest gap: it hands over its records, takes another ID and joins again.

    kdhtctl cluster names the node for which this helps. The daemon continues if this command is interrupted;
    kdhtctl status shows its progress. A daemon that stops meanwhile loses nothing: after a restart it has its old ID
    or a new one.
    """
    begun = control_client.ask(socket_path, "move", MoveBegun, timeout=MOVE_TIMEOUT, anyway=anyway)
    try:
        status = _wait(socket_path, begun.node_id, timeout, _say if not as_json else lambda text: None)
    except KeyboardInterrupt:
        click.echo("the daemon continues the move: kdhtctl status shows when it is ready", err=True)
        raise
    done = MoveDone(begun.node_id, status.node_id, status.address, begun.records)
    emit(done, as_json, "moved")


def _wait(path: Path, former: str, timeout: int, say: Callable[[str], None]) -> NodeStatus:
    """The status once it is ready with another ID. Raises KdhtError."""
    end = time.monotonic() + timeout
    said, due = "", 0.0
    while True:
        status = control_client.ask(path, "status", NodeStatus)
        if status.ready and status.node_id != former:
            return status
        # `kdhtctl drain --cancel` ends a move, too.
        if status.node_id == former and not status.moving:
            raise KdhtError("the move was cancelled: the node keeps its ID")
        phase = _phase(status, former)
        # The count of records changes at every look.
        if phase != said and time.monotonic() > due:
            say(phase)
            said, due = phase, time.monotonic() + SAY_AGAIN
        if time.monotonic() > end:
            raise KdhtError(
                f"not done in {timeout} s ({phase}): the daemon continues; kdhtctl status shows when it is ready"
            )
        time.sleep(LOOK)


def _phase(status: NodeStatus, former: str) -> str:
    if status.node_id == former:
        return f"giving records away: {status.records:,} are left"
    if status.node_id is None:
        return "choosing another ID"
    return f"joined as {status.node_id}: waiting for {', '.join(status.waiting_for) or 'nothing'}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
