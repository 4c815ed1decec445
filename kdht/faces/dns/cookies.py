"""Server cookies (RFC 7873) in the form that servers of all makers share (RFC 9018). No I/O and no clock.

A node accepts what another one made, for the key comes from the cluster's secret.
"""

import struct
from collections.abc import Sequence
from hmac import compare_digest

from kdht.wire._shared import siphash
from kdht.wire.addresses import Address

#  0          1      4           8        16
#  | version 1 | 0    | time      | hash    |

CLIENT_LEN = 8
LEAST_SERVER_LEN, MOST_SERVER_LEN = 8, 32
VERSION = 1
PURPOSE = b"kdht-dns-cookie"
"""For FaceParts.purpose_keys."""
# RFC 9018, section 4.3: an hour.
OLDEST_S = 3600
# RFC 9018, section 4.3: five minutes, for clocks that differ.
AHEAD_S = 300
RENEW_S = 1800
"""RFC 9018, section 4.3: how old a good cookie may be, how far ahead, and from when on it is replaced."""

_FORM = struct.Struct(">B3xI8s")
_HEAD_LEN = 8
_TAG = struct.Struct("<Q")
"""SipHash's bytes in its own order."""


def make_cookie(key: bytes, client: bytes, asker: Address, now: float) -> bytes:
    """A server cookie, 16 bytes, for a client cookie (8 bytes) from an address."""
    head = _FORM.pack(VERSION, int(now) & 0xFFFFFFFF, b"")[:_HEAD_LEN]
    return head + _TAG.pack(siphash(key, client + head + _ip_of(asker)))


def is_good(server: bytes, keys: Sequence[bytes], client: bytes, asker: Address, now: float) -> bool:
    """Whether this untrusted cookie was made by a member for this client, and lately."""
    if len(server) != _FORM.size or server[0] != VERSION or not -AHEAD_S <= _age(server, now) <= OLDEST_S:
        return False
    covered = client + server[:_HEAD_LEN] + _ip_of(asker)
    return any(compare_digest(server[_HEAD_LEN:], _TAG.pack(siphash(key, covered))) for key in keys)


def answer_to(cookie: bytes, keys: Sequence[bytes], asker: Address, now: float) -> tuple[bytes, bool]:
    """What to send back for a well-formed COOKIE option, and whether the asker has proved its address."""
    client, server = cookie[:CLIENT_LEN], cookie[CLIENT_LEN:]
    if is_good(server, keys[:1], client, asker, now) and _age(server, now) < RENEW_S:
        return cookie, True
    return client + make_cookie(keys[0], client, asker, now), is_good(server, keys, client, asker, now)


def is_well_formed(cookie: bytes) -> bool:
    """Whether a COOKIE option has one of the allowed lengths; else the query is malformed (RFC 7873, section 5.2.2)."""
    server = len(cookie) - CLIENT_LEN
    return server == 0 or LEAST_SERVER_LEN <= server <= MOST_SERVER_LEN


def _age(server: bytes, now: float) -> int:
    """Seconds; below 0 if the maker's clock is ahead."""
    # Serial numbers (RFC 1982): the seconds wrap in 2106.
    return (int(now) - int(_FORM.unpack(server)[1]) + 0x80000000) % 0x100000000 - 0x80000000


def _ip_of(asker: Address) -> bytes:
    return asker.ip[12:] if asker.is_ipv4 else asker.ip
