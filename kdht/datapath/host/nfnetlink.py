"""Questions to nftables over a raw netlink socket: cheap enough to be asked after every change of the host's rules.

`nft` takes a process of its own for each question, and lists the sources that a rate limit has seen too.

Contract: one socket for each question, in the network namespace of the calling thread. Raises DatapathError.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from kdht.errors import DatapathError

NETLINK_NETFILTER = 12
INET = 1
NFTABLES = 10
"""The number of nftables among the parts of netfilter."""
NEW_RULE, GET_RULE, NEW_ELEMENTS, GET_ELEMENTS, GET_OBJECTS = 6, 7, 12, 13, 19
NLM_F_REQUEST, NLM_F_DUMP = 0x01, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
ENOENT = 2
TABLE = 1
"""The attribute with the table's name, in messages of every kind."""
CHAIN, HANDLE = 2, 3
SET, ELEMENTS = 2, 3
OBJECT, OBJECT_DATA, COUNTED_PACKETS = 2, 4, 2
NESTED = 0x8000
# The kernel puts at most 32 KiB of a dump into one datagram.
ANSWER_BYTES = 1 << 16
# The kernel answers at once. A hang must not take the daemon with it.
TIMEOUT_S = 2.0

HEADER = struct.Struct("=IHHII")
FAMILY = struct.Struct("=BBH")
ATTRIBUTE = struct.Struct("=HH")


class NetlinkMessage(NamedTuple):
    """`kind`: the type, the part of netfilter included."""

    kind: int
    body: bytes


def rules(table: str) -> tuple[tuple[str, int], ...]:
    """Chain and handle of each rule of an inet table, in order. A rule keeps its handle until it is replaced."""
    found = []
    for message in _dump(GET_RULE, _text(TABLE, table)):
        held = attributes(message.body[FAMILY.size :])
        if _string(held, TABLE) == table:
            found.append((_string(held, CHAIN), int.from_bytes(held.get(HANDLE, b""), "big")))
    return tuple(found)


def elements(table: str, name: str) -> bytes | None:
    """The elements of a set as the kernel tells them, to be compared. None: there is no such set."""
    found = b""
    try:
        for message in _dump(GET_ELEMENTS, _text(TABLE, table) + _text(SET, name)):
            found += attributes(message.body[FAMILY.size :]).get(ELEMENTS, b"")
    except FileNotFoundError:
        return None
    return found


def counters(table: str) -> dict[str, int]:
    """Packets by name of each counter of an inet table. Empty if there is no table."""
    found = {}
    for message in _dump(GET_OBJECTS, _text(TABLE, table)):
        held = attributes(message.body[FAMILY.size :])
        if _string(held, TABLE) == table:
            packets = attributes(held.get(OBJECT_DATA, b"")).get(COUNTED_PACKETS, b"")
            found[_string(held, OBJECT)] = int.from_bytes(packets, "big")
    return found


def messages(data: bytes) -> Iterator[NetlinkMessage]:
    """The netlink messages in received bytes."""
    while len(data) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data)
        if not HEADER.size <= length <= len(data):
            return
        yield NetlinkMessage(kind, data[HEADER.size : length])
        data = data[(length + 3) & ~3 :]


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in received bytes, by number."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if not ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & ~NESTED] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _string(held: dict[int, bytes], kind: int) -> str:
    return held.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _text(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _dump(question: int, wanted: bytes) -> list[NetlinkMessage]:
    """All answers. Raises FileNotFoundError for a missing table or set."""
    kind = NFTABLES << 8 | question
    size = HEADER.size + FAMILY.size + len(wanted)
    asked = HEADER.pack(size, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + FAMILY.pack(INET, 0, 0) + wanted
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as here:
            here.settimeout(TIMEOUT_S)
            here.sendto(asked, (0, 0))
            return list(_answers(here))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DatapathError(f"the kernel does not tell its nftables rules: {error}") from error


def _answers(here: socket.socket) -> Iterator[NetlinkMessage]:
    while True:
        for message in messages(here.recv(ANSWER_BYTES)):
            if message.kind == NLMSG_DONE:
                return
            if message.kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", message.body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield message
