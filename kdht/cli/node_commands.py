"""status, table, stats, datapath, drain, stop: commands for a daemon over its control socket."""

import time
from collections.abc import Callable
from pathlib import Path

import click

from kdht.cli.done import DrainDone
from kdht.cli.options import Seconds, as_json, control_socket, emit, wide
from kdht.errors import NOT_READY, Interrupted, KdhtError
from kdht.program import control_client
from kdht.program.answers import DatapathChoice, DrainCancelled, DrainState, NodeStats, RoutingTable
from kdht.program.node_status import NodeStatus

DRAIN_LOOK = 0.3
"""Seconds between two looks at how far a drain is."""

# Seconds. The verifier alone takes some on a busy machine, before the old datapath is stopped.
SWITCH_TIMEOUT = 60.0


@click.command()
@control_socket
@as_json
def status(socket_path: Path, as_json: bool) -> int:
    """Show the node's state and health. Exits with 12 if it is not ready: clients should not be sent there."""
    found = control_client.ask(socket_path, "status", NodeStatus)
    emit(found, as_json, "status")
    return 0 if found.ready else NOT_READY


@click.command()
@control_socket
@wide
@as_json
def table(socket_path: Path, wide: bool, as_json: bool) -> None:
    """Show the contacts in the node's routing table, nearest bucket last."""
    emit(control_client.ask(socket_path, "table", RoutingTable), as_json, "table", wide=wide)


@click.command()
@control_socket
@click.option("--all", "show_all", is_flag=True, help="Show counters that are zero, too.")
@as_json
def stats(socket_path: Path, show_all: bool, as_json: bool) -> None:
    """Show the node's counters: packets by reason, datapaths, storage, requests."""
    data = control_client.ask(socket_path, "stats", NodeStats)
    emit(data, as_json, "all_stats" if show_all else "stats")


@click.command()
@click.argument("kind", required=False, type=click.Choice(["socket", "nfqueue", "ebpf"]))
@control_socket
@as_json
def datapath(kind: str | None, socket_path: Path, as_json: bool) -> None:
    """Show which datapath runs, or switch to KIND while traffic flows.

    A datapath that cannot start leaves the old one running.
    """
    if kind is None:
        data = control_client.ask(socket_path, "datapath", DatapathChoice)
    else:
        data = control_client.ask(socket_path, "switch", DatapathChoice, timeout=SWITCH_TIMEOUT, kind=kind)
    emit(data, as_json, "datapath")


@click.command()
@control_socket
@click.option(
    "--timeout", type=Seconds(), default="10m", show_default=True, help="Give up waiting after this time."
)
@click.option("--cancel", is_flag=True, help="Cancel a drain: the node joins again and catches up.")
@as_json
def drain(socket_path: Path, timeout: int, cancel: bool, as_json: bool) -> None:
    """Hand over the node's records to the nodes that keep them from now on, then stop it.

    The daemon continues the drain if this command is interrupted or times out. Run it again to wait, or cancel the
    drain with --cancel: the node then gets its records back, as after a restart.
    """
    if cancel:
        emit(control_client.ask(socket_path, "stay", DrainCancelled), as_json, "stays")
        return
    try:
        first = control_client.ask(socket_path, "drain", DrainState).left
        if as_json:
            _wait_until_drained(socket_path, timeout, lambda left: None)
        else:
            from kdht.cli import progress

            with progress.bar("records given away", first) as shown:
                _wait_until_drained(socket_path, timeout, lambda left: shown(first - left))
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted, but the drain continues: the node has left its cluster and hands over its records. kdhtctl drain "
            "waits for the end and stops it, kdhtctl drain --cancel cancels it, kdhtctl status shows its progress"
        ) from None
    stopped = control_client.stop(socket_path)
    emit(DrainDone(stopped.pid, stopped.address, first), as_json, "drained")


def _wait_until_drained(socket_path: Path, timeout: int, shown: Callable[[int], None]) -> None:
    end = time.monotonic() + timeout
    while not (state := control_client.ask(socket_path, "drain", DrainState)).drained:
        shown(state.left)
        if time.monotonic() > end:
            raise KdhtError(
                f"{state.left} records were not handed over in {timeout} s: run kdhtctl drain again, cancel it "
                "with kdhtctl drain --cancel, or stop the node with kdhtctl stop; then they stay in its data directory"
            )
        time.sleep(DRAIN_LOOK)


@click.command()
@control_socket
@as_json
def stop(socket_path: Path, as_json: bool) -> None:
    """Stop the node, and wait until it has restored everything that it changed on this host."""
    emit(control_client.stop(socket_path), as_json, "stopped")
