"""closest, trace, join: the nodes of a key, the way of a request, other nodes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from kdht.cli.keys import KeyType, key_text
from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import as_json, control_socket, emit, wide
from kdht.errors import ConfigError, NoDaemon, RequestError
from kdht.program import control_client
from kdht.program.answers import Closest, Joining, Replicas, RoutingTable
from kdht.program.node_status import NodeAt, NodeStatus
from kdht.wire import Address, hash_key, split_port
from kdht.wire._shared import HOP_LIMIT, ID_BITS, ID_LEN

if TYPE_CHECKING:
    from kdht.client import Hop

# Seconds: a look-up has several steps, and each may wait for a dead node.
LOOKUP_TIMEOUT = 60.0
# Seconds. The other node's answer is here within milliseconds, and somebody waits for it.
LOOK_AGAIN = 0.05


class Ranked(msgspec.Struct, kw_only=True):
    """A node by its distance to a key."""

    rank: int
    """0: the key's owner."""
    id: str
    address: str
    distance: str
    """40 hexadecimal digits."""
    bits_shared: int
    is_self: bool = msgspec.field(name="self")


class Ranking(msgspec.Struct):
    """What `closest` found."""

    key: str
    id: str
    asked: Literal["network", "table"]
    nodes: list[Ranked]


class TraceHop(msgspec.Struct, kw_only=True):
    """A node on a key's route; without an answer all but the number is None."""

    hop: int
    id: str | None
    address: str | None
    ms: float | None
    bits_shared: int | None
    owner: bool


class Route(msgspec.Struct):
    """What `trace` found."""

    key: str
    id: str
    hops: list[TraceHop]
    reached: bool
    """The last hop is the key's owner."""
    replicas: Replicas | None
    """None without a daemon on this host."""


class JoinDone(msgspec.Struct):
    """The result of `join`: addresses with and without an answer, and the contacts in the table now."""

    answered: list[str]
    silent: list[str]
    contacts: int


# --- closest


@click.command()
@click.argument("key", type=KeyType())
@click.option("--hex", "is_id", is_flag=True, help="KEY is an ID: 40 hexadecimal digits.")
@click.option(
    "--count", "-c", type=click.IntRange(1, 100), default=8, show_default=True, help="Nodes to show."
)
@click.option("--lookup", is_flag=True, help="Ask the network. Default: use this node's routing table.")
@control_socket
@wide
@as_json
def closest(
    key: str | bytes, is_id: bool, count: int, lookup: bool, socket_path: Path, wide: bool, as_json: bool
) -> None:
    """List the nodes closest to KEY by XOR distance, nearest first. The first is its owner."""
    id = _id(key, is_id)
    if lookup:
        found = control_client.ask(socket_path, "lookup", Closest, timeout=LOOKUP_TIMEOUT, key=id.hex())
    else:
        found = _known(socket_path)
    rows = _by_distance(found, id)[:count]
    data = Ranking(key_text(key), id.hex(), "network" if lookup else "table", rows)
    emit(data, as_json, "routes.closest", wide=wide)


def _id(key: str | bytes, is_id: bool) -> bytes:
    if not is_id:
        return hash_key(key)
    try:
        found = bytes.fromhex(key_text(key))
    except ValueError:
        found = b""
    if len(found) != ID_LEN:
        raise ConfigError(
            f"{key_text(key)[:60]!r} is not an ID: with --hex, KEY must be {2 * ID_LEN} hexadecimal digits"
        )
    return found


def _known(path: Path) -> Closest:
    """The nodes in this node's table, and itself."""
    table = control_client.ask(path, "table", RoutingTable)
    itself = NodeAt(table.node_id, control_client.ask(path, "status", NodeStatus).address)
    return Closest(table.node_id, [itself, *(NodeAt(each.id, each.address) for each in table.contacts)])


def _by_distance(found: Closest, id: bytes) -> list[Ranked]:
    wanted = int.from_bytes(id, "big")
    by_distance = sorted((int(node.id, 16) ^ wanted, node.id, node.address) for node in found.nodes)
    return [
        Ranked(
            rank=rank,
            id=node,
            address=address,
            distance=f"{distance:040x}",
            bits_shared=ID_BITS - distance.bit_length(),
            is_self=node == found.node_id,
        )
        for rank, (distance, node, address) in enumerate(by_distance)
    ]


# --- trace


@click.command()
@click.argument("key", type=KeyType())
@click.option("--max-hops", "-m", type=click.IntRange(1, 255), default=HOP_LIMIT, show_default=True,
              help="Most nodes to ask.")  # fmt: skip
@wide
@asks_nodes
def trace(key: str | bytes, max_hops: int, wide: bool, target: Target, as_json: bool) -> None:
    """Show the nodes on the route to KEY, each with its time, and then KEY's replicas.

    One request is sent for each hop limit from 1. The replicas are shown if a daemon runs on this host, because only
    a daemon can ask them. Exits with 6 if a node does not answer.
    """
    with target.client() as client:
        path = client.trace(key, max_hops=max_hops)
        id = client.key_of(key)
    data = Route(
        key_text(key),
        id.hex(),
        hops=[_trace_hop(number, hop, id) for number, hop in enumerate(path, 1)],
        reached=bool(path) and path[-1].owner,
        replicas=_replicas(target.socket, id),
    )
    emit(data, as_json, "routes.trace", wide=wide)
    if not data.reached:
        raise RequestError(_why(path, max_hops))


def _trace_hop(number: int, hop: "Hop", id: bytes) -> TraceHop:
    if hop.contact is None:
        return TraceHop(hop=number, id=None, address=None, ms=None, bits_shared=None, owner=False)
    distance = int.from_bytes(hop.contact.id, "big") ^ int.from_bytes(id, "big")
    return TraceHop(
        hop=number,
        id=hop.contact.id.hex(),
        address=str(hop.contact.address),
        ms=None if hop.rtt is None else hop.rtt * 1000,
        bits_shared=ID_BITS - distance.bit_length(),
        owner=hop.owner,
    )


def _replicas(path: Path, id: bytes) -> Replicas | None:
    """The records at the key's nodes; None without a daemon on this host."""
    try:
        return control_client.ask(path, "replicas", Replicas, timeout=LOOKUP_TIMEOUT, key=id.hex())
    except NoDaemon:
        # A trace needs no daemon here. Only the records at the end need one.
        return None


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
    """Join the cluster through other nodes. They replace node.bootstrap until the daemon restarts.

    Exits with 6 if none of them answers.
    """
    addresses = [address for host in hosts for address in _resolved(host)]
    control_client.ask(socket_path, "join", Joining, addresses=[str(address) for address in addresses])
    deadline = time.monotonic() + timeout
    for known in _contacts(socket_path):
        answered = [str(address) for address in addresses if str(address) in known]
        if answered or time.monotonic() > deadline:
            break
        time.sleep(LOOK_AGAIN)
    silent = [str(address) for address in addresses if str(address) not in answered]
    emit(JoinDone(answered, silent, len(known)), as_json, "routes.joined")
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
        table = control_client.ask(path, "table", RoutingTable)
        yield {contact.address for contact in table.contacts}
