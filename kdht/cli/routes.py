"""closest, trace, join: where keys lie, which way requests take, who else is there."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdht.cli.keys import KeyType, key_text
from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import as_json, control_socket, emit
from kdht.errors import ConfigError, NoDaemon, RequestError
from kdht.program import control_client
from kdht.wire import Address, hash_key, split_port
from kdht.wire._shared import HOP_LIMIT, ID_BITS, ID_LEN

if TYPE_CHECKING:
    from kdht.client import Hop

LOOKUP_TIMEOUT = 60.0
LOOK_AGAIN = 0.05
Data = dict[str, Any]


# --- closest


@click.command()
@click.argument("key", type=KeyType())
@click.option("--hex", "is_id", is_flag=True, help="KEY is an ID already: 40 hexadecimal digits.")
@click.option(
    "--count", "-c", type=click.IntRange(1, 100), default=8, show_default=True, help="Nodes to show."
)
@click.option("--lookup", is_flag=True, help="Ask the network; else what this node knows.")
@control_socket
@as_json
def closest(
    key: str | bytes, is_id: bool, count: int, lookup: bool, socket_path: Path, as_json: bool
) -> None:
    """Show the nodes closest to KEY by XOR distance, nearest first: the first is its owner."""
    id = _id(key, is_id)
    if lookup:
        found = control_client.call_slow(socket_path, LOOKUP_TIMEOUT, "lookup", key=id.hex())
        nodes, self_id = found["nodes"], found["node_id"]
    else:
        nodes, self_id = _known(socket_path)
    rows = _by_distance(nodes, id)[:count]
    for row in rows:
        row["self"] = row["id"] == self_id
    data = {"key": key_text(key), "id": id.hex(), "asked": "network" if lookup else "table", "nodes": rows}
    emit(data, as_json, "routes.closest")


def _id(key: str | bytes, is_id: bool) -> bytes:
    if not is_id:
        return hash_key(key)
    try:
        found = bytes.fromhex(key_text(key))
    except ValueError:
        found = b""
    if len(found) != ID_LEN:
        raise ConfigError(
            f"{key_text(key)[:60]!r} is no ID: with --hex, KEY has {2 * ID_LEN} hexadecimal digits"
        )
    return found


def _known(path: Path) -> tuple[list[Data], str]:
    """The nodes in this node's table and itself, and its ID."""
    table = control_client.call(path, "table")
    itself = {"id": table["node_id"], "address": control_client.call(path, "status")["address"]}
    others = [{"id": c["id"], "address": c["address"]} for b in table["buckets"] for c in b["contacts"]]
    return [itself, *others], table["node_id"]


def _by_distance(nodes: list[Data], id: bytes) -> list[Data]:
    wanted = int.from_bytes(id, "big")
    ranked = sorted((int(node["id"], 16) ^ wanted, node["id"], node["address"]) for node in nodes)
    return [
        {
            "rank": rank,
            "id": node,
            "address": address,
            "distance": f"{distance:040x}",
            "bits_shared": ID_BITS - distance.bit_length(),
        }
        for rank, (distance, node, address) in enumerate(ranked)
    ]


# --- trace


@click.command()
@click.argument("key", type=KeyType())
@click.option("--max-hops", "-m", type=click.IntRange(1, 255), default=HOP_LIMIT, show_default=True,
              help="Nodes to ask at most.")  # fmt: skip
@asks_nodes
def trace(key: str | bytes, max_hops: int, target: Target, as_json: bool) -> None:
    """Show the nodes on KEY's way, each with its time, by growing hop limits; then its replicas.

    What the replicas hold, a client cannot ask: the daemon on this host is asked, if there is one. Ends with
    status 6 where a node does not answer.
    """
    from kdht.client import Client

    with Client(target.nodes, timeout=target.timeout) as client:
        path = client.trace(key, max_hops=max_hops)
    id = hash_key(key)
    data = {
        "key": key_text(key),
        "id": id.hex(),
        "hops": [_plain_hop(number, hop, id) for number, hop in enumerate(path, 1)],
        "reached": bool(path) and path[-1].owner,
        "replicas": _replicas(target.socket, id),
    }
    emit(data, as_json, "routes.trace")
    if not data["reached"]:
        raise RequestError(_why(path, max_hops))


def _plain_hop(number: int, hop: "Hop", id: bytes) -> Data:
    if hop.contact is None:
        return {"hop": number, "id": None, "address": None, "ms": None, "bits_shared": None, "owner": False}
    distance = int.from_bytes(hop.contact.id, "big") ^ int.from_bytes(id, "big")
    return {
        "hop": number,
        "id": hop.contact.id.hex(),
        "address": str(hop.contact.address),
        "ms": None if hop.rtt is None else hop.rtt * 1000,
        "bits_shared": ID_BITS - distance.bit_length(),
        "owner": hop.owner,
    }


def _replicas(path: Path, id: bytes) -> Data | None:
    """What the nodes that should hold the key do hold; None without a daemon on this host."""
    try:
        found: Data = control_client.call_slow(path, LOOKUP_TIMEOUT, "replicas", key=id.hex())
    except NoDaemon:
        return None
    return found


def _why(path: list["Hop"], max_hops: int) -> str:
    if path and path[-1].contact is None:
        return f"hop {len(path)} did not answer: its node may have died just now; ask again"
    return f"the key's owner is not among the first {max_hops} nodes: raise --max-hops"


# --- join


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST[:PORT]...")
@click.option("--timeout", type=click.FloatRange(0, 3600, min_open=True), default=5.0, show_default=True,
              help="Seconds to wait for an answer.")  # fmt: skip
@control_socket
@as_json
def join(hosts: tuple[str, ...], timeout: float, socket_path: Path, as_json: bool) -> None:
    """Have the node join the cluster through other nodes, in place of node.bootstrap until it restarts.

    Ends with status 6 if none of them is known to the node afterwards.
    """
    addresses = [address for host in hosts for address in _resolved(host)]
    control_client.call(socket_path, "join", addresses=[str(address) for address in addresses])
    deadline = time.monotonic() + timeout
    for known in _contacts(socket_path):
        answered = [str(address) for address in addresses if str(address) in known]
        if answered or time.monotonic() > deadline:
            break
        time.sleep(LOOK_AGAIN)
    silent = [str(address) for address in addresses if str(address) not in answered]
    emit({"answered": answered, "silent": silent, "contacts": len(known)}, as_json, "routes.joined")
    if not answered:
        raise RequestError(
            f"none of {', '.join(silent)} answered within {timeout:g} s: does kdhtd run there, with the same key?"
        )


def _resolved(host: str) -> list[Address]:
    try:
        name, port = split_port(host)
        answers = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{host}: {getattr(error, 'strerror', None) or error}") from None
    return [Address.of(str(answer[4][0]), port) for answer in answers]


def _contacts(path: Path) -> Iterator[set[str]]:
    """The addresses in the node's table, again and again."""
    while True:
        table = control_client.call(path, "table")
        yield {contact["address"] for bucket in table["buckets"] for contact in bucket["contacts"]}
