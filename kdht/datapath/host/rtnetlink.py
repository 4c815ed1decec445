"""The kernel's own list of interfaces and addresses, over a raw netlink socket.

pyroute2 has all of this too. But its import takes a fifth of a second of a processor, as long as the rest of a node's start.

Contract: one socket for each question, in the network namespace of the calling thread. Raises OSError.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from kdht.datapath.host.nfnetlink import (
    ANSWER_BYTES,
    HEADER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    TIMEOUT_S,
    attributes,
    messages,
)

NETLINK_ROUTE = 0
GET_LINK, GET_ADDRESS = 18, 22
NLM_F_DUMP_INTR = 0x10
"""The list changed while it was read, so entries may be missing."""
READS = 8
"""Of a list that changes all the time. The last one counts as it is."""

LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, kind of device, index, flags, changed flags."""
ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, length of the prefix, flags, scope, index of the interface."""
IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO, IFLA_XDP = 3, 4, 5, 18, 43
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_VLAN_ID = 1, 2, 1
IFLA_XDP_ATTACHED, IFLA_XDP_PROG_ID = 2, 4
IFA_ADDRESS, IFA_LOCAL = 1, 2


class Link(NamedTuple):
    """An interface. `xdp_attached`: XDP_ATTACHED_*, 0 without a program. `vlan`: its number, None for what is no VLAN."""

    ifindex: int
    name: str
    mtu: int
    lower: int
    """The index of the interface that it stands on; 0: none."""
    xdp_attached: int
    xdp_program: int
    vlan: int | None


def links() -> list[Link]:
    """All interfaces of this network namespace."""
    return [_link(body) for body in _dump(GET_LINK, LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))]


def addresses() -> list[tuple[int, str]]:
    """The index of the interface, and the address as text, of each address."""
    found = []
    for body in _dump(GET_ADDRESS, ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, *_, index = ADDRESS.unpack_from(body)
        held = attributes(body[ADDRESS.size :])
        # On a point-to-point link IFA_ADDRESS is the other end's.
        host = held.get(IFA_LOCAL) or held.get(IFA_ADDRESS)
        if host and family in (socket.AF_INET, socket.AF_INET6):
            found.append((index, socket.inet_ntop(family, host)))
    return found


def _link(body: bytes) -> Link:
    _, _, ifindex, *_ = LINK.unpack_from(body)
    held = attributes(body[LINK.size :])
    xdp = attributes(held.get(IFLA_XDP, b""))
    info = attributes(held.get(IFLA_LINKINFO, b""))
    is_vlan = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") == b"vlan"
    return Link(
        ifindex=ifindex,
        name=held.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        mtu=_number(held.get(IFLA_MTU)),
        lower=_number(held.get(IFLA_LINK)),
        xdp_attached=_number(xdp.get(IFLA_XDP_ATTACHED)),
        xdp_program=_number(xdp.get(IFLA_XDP_PROG_ID)),
        vlan=_number(attributes(info.get(IFLA_INFO_DATA, b"")).get(IFLA_VLAN_ID)) if is_vlan else None,
    )


def _number(value: bytes | None) -> int:
    """Unsigned, in the byte order of this machine. 0: there is none."""
    return int.from_bytes(value or b"", "little" if struct.pack("=H", 1) == b"\1\0" else "big")


def _dump(kind: int, question: bytes) -> list[bytes]:
    """What follows the netlink header in each answer, once the list did not change while it was read."""
    for _ in range(READS):
        found, is_whole = _read(kind, question)
        if is_whole:
            break
    return found


def _read(kind: int, question: bytes) -> tuple[list[bytes], bool]:
    asked = HEADER.pack(HEADER.size + len(question), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + question
    found, is_whole = [], True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as here:
        here.settimeout(TIMEOUT_S)
        here.sendto(asked, (0, 0))
        for data in _datagrams(here):
            _, _, flags, *_ = HEADER.unpack_from(data)
            is_whole = is_whole and not flags & NLM_F_DUMP_INTR
            found += [message.body for message in messages(data) if message.kind != NLMSG_DONE]
    return found, is_whole


def _datagrams(here: socket.socket) -> Iterator[bytes]:
    """Up to the one that ends the list. Raises OSError: the kernel refused."""
    while True:
        data = here.recv(ANSWER_BYTES)
        ended = False
        for message in messages(data):
            if message.kind in (NLMSG_ERROR, NLMSG_DONE):
                ended = True
                (code,) = struct.unpack_from("=i", message.body) if len(message.body) >= 4 else (0,)
                if code < 0:
                    raise OSError(-code, os.strerror(-code))
        yield data
        if ended:
            return
