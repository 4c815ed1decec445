"""Methods of the control socket for the overlay: look a key up, find its holders, join through others."""

import asyncio
import time
from concurrent.futures import Future

import msgspec

from kdht.config.settings import other_version
from kdht.daemon.control.running import RunningNode
from kdht.daemon.control.server import Method, Params, taken
from kdht.daemon.wiring import Parts
from kdht.errors import ConfigError, Disagreement
from kdht.node.forget import Fate, Told
from kdht.node.replicas.holders import Holder
from kdht.node.summary import Heard
from kdht.program.answers import Closest, Forgotten, Joining, Replica, Replicas
from kdht.program.neighbours import Neighbour, Neighbours, NeighbourSummary
from kdht.program.node_status import NodeAt
from kdht.times import UnixTime
from kdht.wire import Address, Contact, split_port
from kdht.wire._shared import ID_LEN

# Each is asked, and one that answers names others. More addresses add nothing.
MAX_ADDRESSES = 64
MAX_NEIGHBOURS = 128
"""Contacts that are asked at once how they are. Each is one of the node's requests."""


class KeyParams(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    """40 hexadecimal digits."""


class JoinParams(msgspec.Struct, forbid_unknown_fields=True):
    addresses: list[str]
    """Numeric addresses with their ports."""


class NodeParams(msgspec.Struct, forbid_unknown_fields=True):
    node: str
    """A node's ID, 40 hexadecimal digits, or its address with the port."""


class NetworkMethods:
    """The methods of one daemon's overlay."""

    def __init__(self, running: RunningNode) -> None:
        self._running = running

    def table(self) -> dict[str, Method]:
        return {
            "lookup": Method(self._lookup),
            "replicas": Method(self._replicas),
            "neighbours": Method(self._neighbours),
            "join": Method(self._join, owner_only=True),
            "forget": Method(self._forget, owner_only=True),
        }

    async def _lookup(self, params: Params) -> Closest:
        """Ask the network for the nodes closest to a key, this one among them."""
        parts = self._running().parts
        key = id_of(taken(params, KeyParams).key)
        nodes = _ranked(key, [*await parts.driver.lookup(key), parts.contact])
        return Closest(
            parts.contact.id.hex(), [NodeAt(contact.id.hex(), str(contact.address)) for contact in nodes]
        )

    async def _replicas(self, params: Params) -> Replicas:
        """The records of a key at its closest nodes: as many nodes as the key has replicas."""
        parts = self._running().parts
        key = id_of(taken(params, KeyParams).key)
        nodes = _ranked(key, [*await parts.driver.lookup(key), parts.contact])
        chosen = nodes[: parts.coordinator.cluster.policy.replicas]
        others = [contact.address for contact in chosen if contact != parts.contact]
        held = {holder.address: holder for holder in await _survey(parts, key, others)}
        if parts.contact in chosen:
            # A slow disk must not delay probes.
            own = await asyncio.to_thread(parts.store.get, key, UnixTime(time.time()))
            held[parts.contact.address] = Holder(parts.contact.address, True, own)
        return Replicas(
            parts.coordinator.cluster.policy.replicas,
            [_replica(contact, held[contact.address]) for contact in chosen],
        )

    async def _neighbours(self, params: Params) -> Neighbours:
        """How each of the nearest contacts is, as it says itself."""
        parts = self._running().parts
        contacts = parts.driver.contacts()
        heard = await parts.driver.summaries(contacts[:MAX_NEIGHBOURS])
        now = time.time()
        return Neighbours([_neighbour(each, now) for each in heard], max(len(contacts) - MAX_NEIGHBOURS, 0))

    async def _join(self, params: Params) -> Joining:
        """Ask these addresses for the cluster. Nodes that answer enter the table soon after."""
        parts = self._running().parts
        wanted = taken(params, JoinParams).addresses
        if not 1 <= len(wanted) <= MAX_ADDRESSES:
            raise ConfigError(f"join takes 1 to {MAX_ADDRESSES} addresses, not {len(wanted)}")
        addresses = [_address(text) for text in wanted]
        # The node leaves out addresses of the other IP version, and a join through none would wait in silence.
        if not any(map(parts.driver.speaks_to, addresses)):
            raise ConfigError(f"{', '.join(wanted)}: {other_version(parts.contact.address)}")
        parts.driver.join(addresses)
        return Joining([str(address) for address in addresses])

    async def _forget(self, params: Params) -> Forgotten:
        """Tell this node and all its contacts to forget a dead node."""
        parts = self._running().parts
        wanted = taken(params, NodeParams).node
        id = _id_among(wanted, parts.driver.gone, [*parts.driver.contacts(), parts.contact])
        known = {contact.id for contact in parts.driver.gone}
        told = await parts.driver.forget(id)
        # One contact that hears it is enough: a write must not be confirmed without a replica that may come back.
        living = "" if told is None else ", ".join(_places(told, Fate.LIVES))
        if told is None or living:
            raise Disagreement(
                f"{wanted} lives{living and f', says {living}'}: only a dead node is forgotten; kdhtctl drain there "
                "takes it out"
            )
        own = [str(parts.contact.address)] if id in known else []
        return Forgotten(
            id.hex(),
            forgot=[*own, *_places(told, Fate.FORGOTTEN)],
            unknown=[*([] if own else [str(parts.contact.address)]), *_places(told, Fate.UNKNOWN)],
            silent=_places(told, None),
        )


def _places(told: list[Told], fate: Fate | None) -> list[str]:
    return sorted(str(each.contact.address) for each in told if each.fate is fate)


def _id_among(wanted: str, gone: list[Contact], living: list[Contact]) -> bytes:
    """The given ID, or the ID of the contact at the given address: a dead one first. Raises ConfigError."""
    if len(wanted) == 2 * ID_LEN and ":" not in wanted:
        return id_of(wanted)
    address = _address(wanted)
    dead = [contact.id for contact in gone if contact.address == address]
    found = dead or [contact.id for contact in living if contact.address == address]
    if not found:
        raise ConfigError(
            f"this node remembers nobody at {address}: kdhtctl status lists those that are gone"
        )
    if len(found) > 1:
        ids = ", ".join(id.hex() for id in found)
        raise ConfigError(f"several nodes were at {address}: name one of them by its ID: {ids}")
    return found[0]


def _ranked(key: bytes, nodes: list[Contact]) -> list[Contact]:
    """Nearest first."""
    wanted = int.from_bytes(key, "big")
    return sorted(nodes, key=lambda contact: int.from_bytes(contact.id, "big") ^ wanted)


async def _survey(parts: Parts, key: bytes, addresses: list[Address]) -> list[Holder]:
    """The records of these nodes. The answers arrive on the transport's thread."""
    found: Future[list[Holder]] = Future()
    parts.coordinator.survey(key, addresses, found.set_result, UnixTime(time.time()))
    return await asyncio.wrap_future(found)


def _neighbour(heard: Heard, now: float) -> Neighbour:
    said = heard.summary
    return Neighbour(
        id=heard.contact.id.hex(),
        address=str(heard.contact.address),
        rtt_ms=None if heard.rtt is None else heard.rtt * 1000,
        said=said
        and NeighbourSummary(
            ready=not said.waits_for,
            waiting_for=list(said.waits_for),
            version=said.version,
            uptime=max(now - said.began_s, 0.0),
            contacts=said.contacts,
            behind=said.behind,
            records=said.records,
            value_bytes=said.value_bytes,
        ),
    )


def _replica(contact: Contact, holder: Holder) -> Replica:
    record = holder.record
    return Replica(
        id=contact.id.hex(),
        address=str(contact.address),
        answered=holder.answered,
        version=record.version if record else 0,
        deleted=bool(record and record.deleted),
        expiry=record.expiry if record else 0,
        bytes=len(record.value) if record else 0,
    )


def id_of(text: str) -> bytes:
    """A key or node ID from its hexadecimal digits. Raises ConfigError."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != ID_LEN:
        raise ConfigError(f"{text[:60]!r} is no ID: an ID has {2 * ID_LEN} hexadecimal digits")
    return found


def _address(text: str) -> Address:
    try:
        return Address.of(*split_port(text))
    except ValueError as error:
        raise ConfigError(f"{text[:60]!r} is no numeric address: {error}") from None
