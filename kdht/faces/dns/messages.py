"""Untrusted bytes to queries, and answers to bytes. No I/O and no clock.

Parsing gives a Query, a Refusal to send as it is, or BadPacket for what deserves no answer; nothing else. dnspython does the
work on both ways.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.renderer
import dns.rrset

from kdht.errors import BadPacket
from kdht.faces.dns.cookies import is_well_formed
from kdht.wire._shared import MAX_DATAGRAM

HEADER = struct.Struct(">HHHHHH")
MAX_QUERY = 4096
"""Bytes. A question with all that EDNS may add is far smaller."""
PLAIN_SIZE = 512
"""Bytes of an answer without EDNS (RFC 1035)."""
EDNS_SIZE = MAX_DATAGRAM
"""Bytes that arrive unfragmented everywhere: what DNS Flag Day 2020 advises, and what kdht's own datagrams have at most."""
# RFC 1035, section 4.2.2: the length before a message has two bytes.
STREAM_SIZE = 65535
COOKIE = dns.edns.OptionType.COOKIE
"""RFC 7873."""
_OPT_LEN, _OPTION_LEN = 11, 4
_OPCODE_AND_RD = 0x7900
"""Bits of a query's header that come back."""
_LOW_RCODE = 0xF
"""Bits of an answer's code in the header; EDNS has the others."""
_FAILURES = (dns.exception.DNSException, ValueError, struct.error, IndexError)
"""What dnspython raises for malformed bytes: mostly its own exceptions, for some options ValueError."""


class Refusal(NamedTuple):
    """An answer that needs no look at the zone."""

    why: str
    """A counter's name."""
    data: bytes


class Query(NamedTuple):
    """A well-formed query with one question."""

    id: int
    flags: int
    """The bits that come back."""
    name: dns.name.Name
    """In the asker's own upper and lower case, which comes back."""
    type: int
    class_: int
    length: int
    """Bytes."""
    edns: int | None
    """Bytes that the asker takes by UDP, None without EDNS."""
    version: int
    """Of EDNS."""
    wants_dnssec: bool
    """Comes back (RFC 3225)."""
    cookie: bytes
    """The whole option, empty without."""


class Reply(NamedTuple):
    """An answer, not yet in bytes."""

    rcode: int = dns.rcode.NOERROR
    answer: Sequence[dns.rrset.RRset] = ()
    authority: Sequence[dns.rrset.RRset] = ()
    additional: Sequence[dns.rrset.RRset] = ()
    """May be left out where there is no room."""
    authoritative: bool = True


def parse_query(data: bytes) -> Query | Refusal:
    """From untrusted bytes. Raises BadPacket if no answer may be sent."""
    if len(data) < HEADER.size:
        raise BadPacket("TRUNCATED", f"a query in {len(data)} bytes")
    id, flags, questions, *_ = HEADER.unpack_from(data)
    if flags & dns.flags.QR:
        # Else two servers with a forged first question would answer each other for ever.
        raise BadPacket("BAD_FLAGS", "an answer, not a query")
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return _refusal("not_implemented", id, flags, dns.rcode.NOTIMP)
    if questions != 1 or len(data) > MAX_QUERY:
        return _refusal("malformed", id, flags, dns.rcode.FORMERR)
    try:
        return _query(dns.message.from_wire(data), len(data))
    except _FAILURES:
        return _refusal("malformed", id, flags, dns.rcode.FORMERR)


def _query(message: dns.message.Message, length: int) -> Query:
    question = message.question[0]
    options = message.options if message.edns >= 0 else ()
    cookie = next((option.to_wire() or b"" for option in options if option.otype == COOKIE), None)
    if cookie is not None and not is_well_formed(cookie):
        raise ValueError(f"a cookie of {len(cookie)} bytes")
    return Query(
        message.id,
        message.flags & _OPCODE_AND_RD,
        question.name,
        question.rdtype,
        question.rdclass,
        length,
        message.payload if message.edns >= 0 else None,
        message.edns,
        bool(message.ednsflags & dns.flags.DO),
        cookie or b"",
    )


def _refusal(why: str, id: int, flags: int, rcode: int) -> Refusal:
    # The header alone: what cannot be read cannot be repeated.
    return Refusal(why, HEADER.pack(id, dns.flags.QR | (flags & _OPCODE_AND_RD) | rcode, 0, 0, 0, 0))


def pack_reply(query: Query, reply: Reply, cookie: bytes, room: int) -> bytes | None:
    """The bytes, None if they are more than `room`. `cookie`: the whole option, empty for none.

    Half an answer would be taken for the whole (RFC 2181, section 9), so there is none.
    """
    out = _begun(
        query, reply.rcode, dns.flags.AA if reply.authoritative else 0, room - _opt_len(query, cookie)
    )
    try:
        for section, rrsets in (
            (dns.renderer.ANSWER, reply.answer),
            (dns.renderer.AUTHORITY, reply.authority),
        ):
            for rrset in rrsets:
                out.add_rrset(section, rrset)
    except dns.exception.TooBig:
        # Does not fit: the caller sends a truncated reply, so that the client asks by TCP.
        return None
    # Additional records are a courtesy (RFC 2181, section 9): those that fit go along.
    with suppress(dns.exception.TooBig):
        for rrset in reply.additional:
            out.add_rrset(dns.renderer.ADDITIONAL, rrset)
    return _ended(out, query, reply.rcode, cookie)


def pack_cut(query: Query, rcode: int, cookie: bytes) -> bytes:
    """An answer without records, with TC: ask by TCP."""
    return _ended(_begun(query, rcode, dns.flags.AA | dns.flags.TC, PLAIN_SIZE), query, rcode, cookie)


def is_cut(answer: bytes) -> bool:
    """Whether an answer of our own has TC."""
    return bool(HEADER.unpack_from(answer)[1] & dns.flags.TC)


def _begun(query: Query, rcode: int, flags: int, room: int) -> dns.renderer.Renderer:
    flags |= dns.flags.QR | query.flags | rcode & _LOW_RCODE
    out = dns.renderer.Renderer(query.id, flags, room)
    out.add_question(query.name, query.type, query.class_)
    return out


def _ended(out: dns.renderer.Renderer, query: Query, rcode: int, cookie: bytes) -> bytes:
    if query.edns is not None:
        out.max_size = STREAM_SIZE  # its room was kept
        options = [dns.edns.GenericOption(COOKIE, cookie)] if cookie else []
        dnssec = dns.flags.DO if query.wants_dnssec else 0
        out.add_edns(0, (rcode & ~_LOW_RCODE) << 20 | dnssec, EDNS_SIZE, options)
    out.write_header()
    return bytes(out.get_wire())


def _opt_len(query: Query, cookie: bytes) -> int:
    if query.edns is None:
        return 0
    return _OPT_LEN + (_OPTION_LEN + len(cookie) if cookie else 0)
