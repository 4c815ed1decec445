"""A question, and what the cluster has under the name, to an answer. No I/O and no clock: `now` is passed in.

                       judge                         answer
    bytes, asker  ------------->  Question(wanted)  ------------->  bytes
                       |                ^
                       +--> bytes       +-- what the cluster has under `wanted`
                       +--> BadPacket: no answer

An asker by UDP may have forged its address, unless it sends a good cookie. It gets at most 512 bytes, as DNS always gave. Of
answers longer than the question it gets no more than its share; the others are cut to the question's size, with TC, so an
honest asker comes again by TCP or with its cookie.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import dns.name
import dns.rcode
import dns.rdtypes.ANY.HINFO
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.SOA
import dns.rrset
from dns.rdataclass import IN
from dns.rdatatype import AAAA, ANY, AXFR, HINFO, IXFR, NS, SOA, SRV, TXT, A

from kdht.faces.dns import cookies, names
from kdht.faces.dns.messages import (
    EDNS_SIZE,
    PLAIN_SIZE,
    STREAM_SIZE,
    Query,
    Refusal,
    Reply,
    pack_cut,
    pack_reply,
    parse_query,
)
from kdht.faces.dns.names import Kind, Place
from kdht.faces.dns.records import Entry, Records, address_rdata
from kdht.times import SteadyTime, UnixTime
from kdht.wire.addresses import Address

REFRESH_S, RETRY_S, EXPIRE_S = 3600, 600, 86400
"""For secondary servers. There are none, for the zone cannot be transferred."""
_TYPES = {
    Kind.NAME: (A, AAAA, SRV, TXT),
    Kind.SERVICE: (SRV, TXT),
    Kind.MEMBER: (A, AAAA, TXT),
    Kind.BETWEEN: (),
}
"""The types that names of a kind have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """The zone and how it is answered."""

    origin: dns.name.Name
    nameservers: Sequence[dns.name.Name]
    """Empty: ns.ZONE, which has `addresses`."""
    addresses: Sequence[str]
    ttl: int
    """The most seconds for which an answer may be kept."""
    negative_ttl: int
    """The same for the answer that there is nothing."""


class Question(NamedTuple):
    """What was asked, by whom."""

    query: Query
    place: Place
    cookie: bytes
    """To send back."""
    proven: bool
    """The asker receives what is sent to its address."""
    room: int
    """Bytes that an answer may have."""
    asker: Address

    @property
    def wanted(self) -> bytes | None:
        """The name whose set and record are needed for the answer."""
        return self.place.key or None


class Answerer:
    """Judges queries and makes answers. Counts them by `count`."""

    def __init__(
        self,
        zone: Zone,
        cookie_keys: Sequence[bytes],
        may_amplify: Callable[[Address, SteadyTime], bool],
        count: Callable[[str], None],
    ) -> None:
        """`may_amplify`: whether an address that may be forged gets an answer longer than its question now. It counts it."""
        self._zone = zone
        self._keys = cookie_keys
        self._may_amplify = may_amplify
        self._count = count
        self._nameservers = list(zone.nameservers) or [dns.name.Name([names.NAMESERVER, *zone.origin.labels])]

    def judge(self, data: bytes, asker: Address, now: UnixTime, *, stream: bool) -> Question | bytes:
        """A question, or an answer that needs no more. `stream`: it came by TCP. Raises BadPacket, for no answer."""
        query = parse_query(data)
        if isinstance(query, Refusal):
            self._count(query.why)
            return query.data
        # Nobody outside of this host can send from a loopback address.
        cookie, proven = b"", stream or asker.is_loopback
        if query.cookie:
            cookie, good = cookies.answer_to(query.cookie, self._keys, asker, now)
            self._count("cookie_good" if good else "cookie_new")
            proven = proven or good
        place = names.place_of(query.name, self._zone.origin, own_nameserver=not self._zone.nameservers)
        question = Question(query, place, cookie, proven, _room(query, proven=proven, stream=stream), asker)
        if refused := self._refused(question):
            self._count(refused)
            reply = Reply(_RCODE[refused], authoritative=False)
            return pack_reply(query, reply, cookie, STREAM_SIZE) or b""
        return question

    def answer(
        self,
        question: Question,
        entries: Iterable[Entry] | None,
        now: UnixTime,
        steady: SteadyTime,
        most_ttl: int | None = None,
    ) -> bytes:
        """The answer. `entries`: what the cluster has under `question.wanted`, None if it did not answer.

        `most_ttl`: seconds for which others may keep the entries; None: as the zone says.
        """
        if entries is None:
            self._count("failed")
            reply = Reply(dns.rcode.SERVFAIL, authoritative=False)
        else:
            ttl = self._zone.ttl if most_ttl is None else most_ttl
            reply = self._reply(question, Records(entries, now, ttl), now)
            self._count("nxdomain" if reply.rcode else "answered")
        data = pack_reply(question.query, reply, question.cookie, question.room)
        if data is not None and self._may_send(question, len(data), steady):
            return data
        # The asker shall come again: at once with the cookie that it gets, or by TCP.
        rcode = dns.rcode.BADCOOKIE if question.cookie and not question.proven else dns.rcode.NOERROR
        self._count("cut_badcookie" if rcode else "cut")
        return pack_cut(question.query, rcode, question.cookie)

    def _may_send(self, question: Question, length: int, steady: SteadyTime) -> bool:
        """Whether an answer of so many bytes may go to this asker. Counts it."""
        if question.proven or length <= question.query.length:
            return True
        return self._may_amplify(question.asker, steady)

    def _refused(self, question: Question) -> str | None:
        query = question.query
        if query.version > 0:
            return "bad_version"
        if question.place.kind is Kind.ELSEWHERE or query.class_ != IN:
            return "elsewhere"
        return "transfer" if query.type in (AXFR, IXFR) else None

    # --- Replies

    def _reply(self, question: Question, records: Records, now: UnixTime) -> Reply:
        query, place = question.query, question.place
        if place.kind is Kind.APEX:
            return self._own({NS: self._ns(), SOA: self._soa(now, self._zone.ttl)}, query, now)
        if place.kind is Kind.NAMESERVER:
            return self._own(self._glue(query.name), query, now)
        if place.kind is Kind.MEMBER:
            records = records.only(place.member)
        if place.kind is Kind.ABSENT or not records:
            return self._nothing(now, dns.rcode.NXDOMAIN)
        if query.type == ANY and place.kind is not Kind.BETWEEN:
            return self._any(query)
        if query.type not in _TYPES[place.kind]:
            return self._nothing(now)
        found = records.of_type(query.type, query.name, place.key, self._zone.origin)
        if found is None:
            return self._nothing(now)
        targets = list(records.targets(place.key, self._zone.origin)) if query.type == SRV else ()
        return Reply(answer=[found], additional=targets)

    def _own(self, rrsets: dict[int, dns.rrset.RRset], query: Query, now: UnixTime) -> Reply:
        if query.type == ANY:
            return self._any(query)
        if (found := rrsets.get(query.type)) is None:
            return self._nothing(now)
        glue = (
            ()
            if query.type != NS or self._zone.nameservers
            else list(self._glue(self._nameservers[0]).values())
        )
        return Reply(answer=[found], additional=glue)

    def _nothing(self, now: UnixTime, rcode: int = dns.rcode.NOERROR) -> Reply:
        """No such name, or none of that type; the SOA record says for how long this may be kept (RFC 2308)."""
        return Reply(rcode, authority=[self._soa(now, self._zone.negative_ttl)])

    def _any(self, query: Query) -> Reply:
        # RFC 8482: all records at once are wanted by nobody but a forger of addresses.
        rdata = dns.rdtypes.ANY.HINFO.HINFO(IN, HINFO, b"RFC8482", b"")
        return Reply(answer=[dns.rrset.from_rdata(query.name, self._zone.ttl, rdata)])

    def _ns(self) -> dns.rrset.RRset:
        rdatas = [dns.rdtypes.ANY.NS.NS(IN, NS, name) for name in self._nameservers]
        return dns.rrset.from_rdata_list(self._zone.origin, self._zone.ttl, rdatas)

    def _soa(self, now: UnixTime, ttl: int) -> dns.rrset.RRset:
        contact = dns.name.Name([b"hostmaster", *self._zone.origin.labels])
        # The cluster has no version of all its names. Seconds are never less than before, and the same at all nodes.
        serial = int(now) & 0xFFFFFFFF
        rdata = dns.rdtypes.ANY.SOA.SOA(
            IN,
            SOA,
            self._nameservers[0],
            contact,
            serial,
            REFRESH_S,
            RETRY_S,
            EXPIRE_S,
            self._zone.negative_ttl,
        )
        return dns.rrset.from_rdata(self._zone.origin, ttl, rdata)

    def _glue(self, name: dns.name.Name) -> dict[int, dns.rrset.RRset]:
        found: dict[int, dns.rrset.RRset] = {}
        for host in self._zone.addresses:
            rdata = address_rdata(host)
            if rdata.rdtype in found:
                found[rdata.rdtype].add(rdata)
            else:
                found[rdata.rdtype] = dns.rrset.from_rdata(name, self._zone.ttl, rdata)
        return found


_RCODE = {
    "bad_version": dns.rcode.BADVERS,
    "elsewhere": dns.rcode.REFUSED,
    "transfer": dns.rcode.REFUSED,
}


def _room(query: Query, *, proven: bool, stream: bool) -> int:
    if stream:
        return STREAM_SIZE
    if query.edns is None or not proven:
        return PLAIN_SIZE
    return max(PLAIN_SIZE, min(query.edns, EDNS_SIZE))
