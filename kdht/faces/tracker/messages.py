"""The messages of BEP 15, the UDP tracker protocol. No I/O and no clock.

Parsing gives a request or raises BadPacket, nothing else. All numbers are big-endian.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.wire._shared import ID_LEN

# connect    > 0: magic 8 | action 0, 4 | transaction 4                                                        16 bytes
#            < 0: action 0, 4 | transaction 4 | connection ID 8                                                16 bytes
# announce   > 0: connection ID 8 | action 1, 4 | transaction 4 | info-hash 20 | peer ID 20 | downloaded 8 | left 8
#              | uploaded 8 | event 4 | IP 4 | key 4 | wanted 4 | port 2; options (BEP 41) may follow          98 bytes or more
#            < 0: action 1, 4 | transaction 4 | interval 4 | leechers 4 | seeders 4 | n x (address, port)      20 + 6 n or 18 n
# scrape     > 0: connection ID 8 | action 2, 4 | transaction 4 | n x info-hash 20                             16 + 20 n
#            < 0: action 2, 4 | transaction 4 | n x (seeders 4 | completed 4 | leechers 4)                     8 + 12 n
# error      < 0: action 3, 4 | transaction 4 | text

MAGIC = 0x41727101980
CONNECT, ANNOUNCE, SCRAPE, ERROR = range(4)
NONE, COMPLETED, STARTED, STOPPED = range(4)
MAX_SCRAPED = 74
"""Info-hashes in a scrape: so many fit a datagram."""
MAX_REQUEST = 1496
"""Bytes: the longest scrape. An announce is shorter, unless its options are absurd."""

_HEAD = struct.Struct(">QII")
_ANNOUNCE = struct.Struct(">20s20sQQQIIIIH")
_CONNECTED = struct.Struct(">IIQ")
_ANNOUNCED = struct.Struct(">IIIII")
_ANSWER = struct.Struct(">II")
_SCRAPED = struct.Struct(">III")
HEAD_LEN = _HEAD.size
ANNOUNCE_LEN = HEAD_LEN + _ANNOUNCE.size


class Connect(NamedTuple):
    transaction: int


class Announce(NamedTuple):
    connection: int
    transaction: int
    info_hash: bytes
    left: int
    """Bytes to download. 0: a seed."""
    event: int
    wanted: int
    """Peers; 2^32 - 1: as many as the tracker gives."""
    port: int


class Scrape(NamedTuple):
    connection: int
    transaction: int
    info_hashes: list[bytes]


class Swarm(NamedTuple):
    """How many have all of it, how many do not."""

    seeders: int
    leechers: int


NOBODY = Swarm(0, 0)


def parse(data: bytes) -> Connect | Announce | Scrape:
    """From an untrusted datagram. Raises BadPacket."""
    if len(data) < HEAD_LEN:
        raise BadPacket("TRUNCATED", f"a tracker request in {len(data)} bytes")
    if len(data) > MAX_REQUEST:
        raise BadPacket("TOO_LONG", f"a tracker request in {len(data)} bytes")
    connection, action, transaction = _HEAD.unpack_from(data)
    if action == CONNECT:
        if connection != MAGIC:
            raise BadPacket("BAD_MAGIC", f"a connect with {connection:#x}")
        return Connect(transaction)
    if action == ANNOUNCE:
        return _announce(data, connection, transaction)
    if action == SCRAPE:
        return Scrape(connection, transaction, _hashes(data))
    raise BadPacket("BAD_OP", f"action {action}")


def _announce(data: bytes, connection: int, transaction: int) -> Announce:
    if len(data) < ANNOUNCE_LEN:
        raise BadPacket("TRUNCATED", f"an announce in {len(data)} bytes")
    info_hash, _, _, left, _, event, _, _, wanted, port = _ANNOUNCE.unpack_from(data, HEAD_LEN)
    if event > STOPPED:
        raise BadPacket("BAD_FLAGS", f"event {event}")
    if not port:
        raise BadPacket("BAD_PORT", "an announce of port 0")
    return Announce(connection, transaction, info_hash, left, event, wanted, port)


def _hashes(data: bytes) -> list[bytes]:
    body = data[HEAD_LEN:]
    if not body or len(body) % ID_LEN:
        raise BadPacket("BAD_LENGTH", f"a scrape of {len(body)} bytes of info-hashes")
    return [body[at : at + ID_LEN] for at in range(0, min(len(body), MAX_SCRAPED * ID_LEN), ID_LEN)]


def pack_connected(transaction: int, connection: int) -> bytes:
    return _CONNECTED.pack(CONNECT, transaction, connection)


def pack_announced(transaction: int, interval: int, swarm: Swarm, peers: Sequence[bytes]) -> bytes:
    """`interval`: seconds. `peers`: compact endpoints, all of 6 or all of 18 bytes."""
    head = _ANNOUNCED.pack(ANNOUNCE, transaction, interval, swarm.leechers, swarm.seeders)
    return head + b"".join(peers)


def pack_scraped(transaction: int, swarms: Sequence[Swarm]) -> bytes:
    # Who completed is not counted: that would be a write for each, to say how many have left.
    return _ANSWER.pack(SCRAPE, transaction) + b"".join(
        _SCRAPED.pack(seeders, 0, leechers) for seeders, leechers in swarms
    )


def pack_error(transaction: int, text: str) -> bytes:
    return _ANSWER.pack(ERROR, transaction) + text.encode()
