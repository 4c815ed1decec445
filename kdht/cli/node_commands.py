"""status, table, stats, datapath, stop: what a daemon tells over its control socket."""

from pathlib import Path

import click

from kdht.cli import control_client
from kdht.cli.options import as_json, control_socket, emit


@click.command()
@control_socket
@as_json
def status(socket_path: Path, as_json: bool) -> None:
    """Show what the node is and how it does."""
    emit(control_client.call(socket_path, "status"), as_json, "status")


@click.command()
@control_socket
@as_json
def table(socket_path: Path, as_json: bool) -> None:
    """Show the contacts in the node's routing table, nearest bucket last."""
    emit(control_client.call(socket_path, "table"), as_json, "table")


@click.command()
@control_socket
@click.option("--all", "show_all", is_flag=True, help="Counters that are zero too.")
@as_json
def stats(socket_path: Path, show_all: bool, as_json: bool) -> None:
    """Show the node's counters: packets by reason, datapaths, storage, requests."""
    data = control_client.call(socket_path, "stats")
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
        data = control_client.call(socket_path, "datapath")
    else:
        data = control_client.switch(socket_path, kind)
    emit(data, as_json, "datapath")


@click.command()
@control_socket
@as_json
def stop(socket_path: Path, as_json: bool) -> None:
    """Stop the node, and wait until it has put back everything that it changed."""
    emit(control_client.stop(socket_path), as_json, "stopped")
