"""The judging node: its identity, keys and contacts, from a file or a running node.

A table file is JSON or TOML (by its ending); docs/replay.md has one. Keys are given in it
as the cluster's secret or its file. A running node never tells its keys, so they come from its
configuration or a file. ConfigError names the fault and its place.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from kdht._routing import Core, common_bits
from kdht.errors import ConfigError
from kdht.program.json import decoded
from kdht.remedies import about_file
from kdht.wire import Address, Contact, keys, split_port
from kdht.wire._shared import HOP_LIMIT, ID_LEN, MAX_OWN, PORT, REPLAY_WINDOW, ROOM
from kdht.wire.keys import ClusterSecret

FIXTURE_SECRET = "kdht-replay's fixture secret, known to everybody"
"""The published key of captures without secrets."""
# A contact is a line of some hundred bytes. This keeps a wrong path from filling the memory.
MAX_FILE = 16 << 20


class KeyEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A cluster secret, or its file, relative to the table's."""

    epoch: int = 0
    secret: str | None = None
    file: str | None = None


class ContactEntry(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    address: str


class TableFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The content of a table file."""

    id: str
    """Of this node: 40 hexadecimal digits."""
    own: list[str]
    """This node's addresses, anycast included."""
    source4: str | None = None
    """The source of its messages. Without one, the first own address of the IP version."""
    source6: str | None = None
    port: int = PORT
    key: list[KeyEntry]
    """The first signs."""
    cookies: bool = True
    window: int = REPLAY_WINDOW
    hop_limit: int = HOP_LIMIT
    now: int | None = None
    """The unix second of the verdicts; without it, each packet is judged when it was captured."""
    contacts: list[ContactEntry] = []


@dataclass(frozen=True, kw_only=True)
class ReplayTable:
    """A node's routing state, as the implementations take it."""

    self_id: bytes
    port: int
    own: tuple[bytes, ...]
    source4: bytes | None
    source6: bytes | None
    keys: tuple[ClusterSecret, ...]
    cookies: bool
    window: int
    hop_limit: int
    now: int | None
    contacts: tuple[Contact, ...]

    def buckets(self) -> dict[int, list[Contact]]:
        """The contacts by the number of leading bits shared with the node."""
        found: dict[int, list[Contact]] = {}
        for contact in self.contacts:
            found.setdefault(common_bits(self.self_id, contact.id), []).append(contact)
        return found

    def settings(self) -> dict[str, Any]:
        """The arguments of Core.configure, and of the oracle's Settings."""
        return {
            "self_id": self.self_id,
            "port": self.port,
            "own": list(self.own),
            "source4": self.source4,
            "source6": self.source6,
            "keys": [(key.epoch, key.tag) for key in self.keys],
            "cookie_key": self.keys[0].cookie,
            "cookies": self.cookies,
            "window": self.window,
            "hop_limit": self.hop_limit,
        }

    def core(self) -> Core:
        """A core in this state. Raises ConfigError if the core refuses it."""
        core = Core()
        try:
            core.configure(**self.settings())
            for index, contacts in self.buckets().items():
                core.set_bucket(index, contacts)
        except ValueError as error:
            raise ConfigError(f"the table: {error}") from None
        return core


def at(table: ReplayTable, now: int | None) -> ReplayTable:
    """The same table, judging at another second."""
    return replace(table, now=now)


# --- Files -------------------------------------------------------------------------------


def load(path: Path) -> ReplayTable:
    """The table in a JSON or TOML file. Raises ConfigError."""
    try:
        raw = path.read_bytes()[: MAX_FILE + 1]
    except OSError as error:
        raise ConfigError(about_file(path, error, "name the table's file with --table")) from None
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE} bytes: is this a table?")
    try:
        data = tomllib.loads(raw.decode()) if path.suffix == ".toml" else decoded(raw, object)
        file = msgspec.convert(data, TableFile)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"{path}: not a table: {error}") from None
    try:
        return from_file(file, path.parent)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None


def from_file(file: TableFile, directory: Path) -> ReplayTable:
    """Raises ValueError or ConfigError for an impossible table."""
    own = tuple(Address.of(host, 0).ip for host in file.own)
    by_family = {Address(ip, 0).is_ipv4: ip for ip in reversed(own)}
    if not 1 <= len(own) <= MAX_OWN:
        raise ValueError(f"own: a node has 1 to {MAX_OWN} addresses, not {len(own)}")
    table = ReplayTable(
        self_id=_id(file.id, "id"),
        port=file.port,
        own=own,
        source4=Address.of(file.source4, 0).ip if file.source4 else by_family.get(True),
        source6=Address.of(file.source6, 0).ip if file.source6 else by_family.get(False),
        keys=tuple(_key(entry, directory) for entry in file.key),
        cookies=file.cookies,
        window=file.window,
        hop_limit=file.hop_limit,
        now=file.now,
        contacts=tuple(_contact(entry, number) for number, entry in enumerate(file.contacts)),
    )
    if not table.keys:
        raise ValueError("key: at least one secret is needed")
    _check_buckets(table)
    table.core()
    return table


def _check_buckets(table: ReplayTable) -> None:
    for index, contacts in table.buckets().items():
        if index == 8 * ID_LEN:
            raise ValueError("contacts: the node itself is among them")
        if len(contacts) > ROOM:
            raise ValueError(f"contacts: bucket {index} holds {ROOM} contacts, not {len(contacts)}")


def _id(text: str, where: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != ID_LEN:
        raise ValueError(f"{where}: an ID is {2 * ID_LEN} hexadecimal digits, not {text!r}")
    return found


def _key(entry: KeyEntry, directory: Path) -> ClusterSecret:
    if (entry.secret is None) == (entry.file is None):
        raise ValueError("key: either `secret` or `file` is needed")
    if entry.secret is not None:
        return keys.derive(entry.epoch, entry.secret.encode())
    return read_key(entry.epoch, directory / str(entry.file))


def read_key(epoch: int, path: Path) -> ClusterSecret:
    """The keys of the secret in a file, as the daemon reads it. Raises ConfigError."""
    try:
        return keys.derive(epoch, path.read_bytes().strip())
    except OSError as error:
        raise ConfigError(about_file(path, error, "name the file with the cluster's secret")) from None


def _contact(entry: ContactEntry, number: int) -> Contact:
    where = f"contacts[{number}]"
    host, port = split_port(entry.address)
    try:
        return Contact(_id(entry.id, where), *Address.of(host.strip("[]"), port))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def to_file(table: ReplayTable, secrets: Sequence[KeyEntry]) -> bytes:
    """The table as a JSON file's content, with the caller's keys."""
    file = TableFile(
        id=table.self_id.hex(),
        own=[Address(ip, 0).host for ip in table.own],
        source4=Address(table.source4, 0).host if table.source4 else None,
        source6=Address(table.source6, 0).host if table.source6 else None,
        port=table.port,
        key=list(secrets),
        cookies=table.cookies,
        window=table.window,
        hop_limit=table.hop_limit,
        now=table.now,
        contacts=[ContactEntry(contact.id.hex(), str(contact.address)) for contact in table.contacts],
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


# --- Running nodes ---------------------------------------------------------------------------


def from_node(socket: Path, config: Path | None = None, secrets: Iterable[ClusterSecret] = ()) -> ReplayTable:
    """The table of the node behind a control socket.

    Its configuration file has the rest, keys included; without the file the defaults and `secrets`
    count. Everybody knows the key of a --dev node. Raises NoDaemon, ConfigError.
    """
    from kdht.config import dev
    from kdht.program import control_client
    from kdht.program.answers import RoutingTable
    from kdht.program.node_status import NodeStatus

    status = control_client.ask(socket, "status", NodeStatus)
    held = control_client.ask(socket, "table", RoutingTable)
    own = [Address.of(host.strip("[]"), port) for host, port in map(split_port, status.own)]
    contacts = [ContactEntry(contact.id, contact.address) for contact in held.contacts]
    known: dict[str, Any]
    if dev.WARNING in status.warnings:
        known = {"keys": tuple(keys.derive(epoch, dev.SECRET.encode()) for epoch in status.key_epochs)}
    else:
        known = _from_config(config) if config else {"keys": tuple(secrets)}
    if not known["keys"]:
        raise ConfigError("a node never reveals its keys: give --config, or --secret with the secret's file")
    by_family = {address.is_ipv4: address.ip for address in reversed(own)}
    table = ReplayTable(
        **{
            "self_id": _id(held.node_id, "the node's ID"),
            "port": own[0].port,
            "own": tuple(address.ip for address in own),
            "source4": by_family.get(True),
            "source6": by_family.get(False),
            "cookies": status.cookies,
            "window": REPLAY_WINDOW,
            "hop_limit": HOP_LIMIT,
            "now": None,
            "contacts": tuple(_contact(entry, number) for number, entry in enumerate(contacts)),
            **known,
        }
    )
    table.core()
    return table


def _from_config(path: Path) -> dict[str, Any]:
    """Fields of the daemon's configuration only."""
    from kdht.config import reading as config
    from kdht.config import settings

    resolved = settings.resolve(config.load(path))
    node = resolved.config.node
    source4, source6 = resolved.usual(ipv4=True), resolved.usual(ipv4=False)
    return {
        "keys": resolved.keys,
        "source4": source4.ip if source4 else None,
        "source6": source6.ip if source6 else None,
        "window": node.replay_window,
        "hop_limit": node.hop_limit,
    }
