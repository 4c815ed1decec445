"""status, table, stats, stop: what a daemon tells over its control socket."""

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
@control_socket
@as_json
def stop(socket_path: Path, as_json: bool) -> None:
    """Stop the node, and wait until it has put back everything that it changed."""
    emit(control_client.stop(socket_path), as_json, "stopped")
