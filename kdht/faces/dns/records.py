"""Members and values to resource records. No I/O and no clock: `now` is passed in."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dns.name
import dns.rdata
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.rrset
from dns.rdataclass import IN
from dns.rdatatype import AAAA, SRV, TXT, A

from kdht.faces.dns.names import member_name
from kdht.wire import Record
from kdht.wire.endpoints import Endpoint, read_endpoint
from kdht.wire.sets import Member

OF_THE_RECORD = 0
"""In place of a member's ID: the value under the name itself."""
_STRING = 255
"""Bytes of one string of a TXT record."""


class Entry(NamedTuple):
    """A member of the set with the name, or the value under it."""

    id: int
    expiry: float
    """Unix seconds; infinite for a value without end."""
    endpoint: Endpoint | None
    text: bytes
    """For a TXT record; empty for none."""


def entry_of_member(member: Member, now: float) -> Entry:
    return _entry(member.id, now + member.ttl, member.payload)


def entry_of_record(record: Record, now: float) -> Entry:
    return _entry(OF_THE_RECORD, now + record.ttl if record.ttl else math.inf, record.value)


def _entry(id: int, expiry: float, data: bytes) -> Entry:
    endpoint = read_endpoint(data)
    return Entry(id, expiry, endpoint, data if endpoint is None else endpoint.text)


class Records:
    """What a name has at one moment."""

    def __init__(self, entries: Iterable[Entry], now: float, greatest_ttl: int) -> None:
        self._entries = [entry for entry in entries if entry.expiry > now]
        self._now = now
        self._greatest_ttl = greatest_ttl

    def __bool__(self) -> bool:
        return bool(self._entries)

    def only(self, id: int) -> "Records":
        """Of one member."""
        return Records((entry for entry in self._entries if entry.id == id), self._now, self._greatest_ttl)

    def of_type(
        self, kind: int, owner: dns.name.Name, key: bytes, zone: dns.name.Name
    ) -> dns.rrset.RRset | None:
        """The records of a type, None if there are none. `key`: the set's name, for the targets of SRV records."""
        found = [(entry, rdata) for entry in self._entries for rdata in self._rdata(kind, entry, key, zone)]
        if not found:
            return None
        # All records of a set have one TTL (RFC 2181, section 5.2): the first one that ends takes the answer with it.
        ttl = min(self._ttl(entry) for entry, _ in found)
        return dns.rrset.from_rdata_list(owner, ttl, [rdata for _, rdata in found])

    def targets(self, key: bytes, zone: dns.name.Name) -> Iterator[dns.rrset.RRset]:
        """The addresses of all SRV records' targets."""
        for entry in self._entries:
            if entry.endpoint is not None and entry.endpoint.address.port:
                yield dns.rrset.from_rdata(
                    member_name(entry.id, key, zone),
                    self._ttl(entry),
                    address_rdata(entry.endpoint.address.host),
                )

    def _ttl(self, entry: Entry) -> int:
        return int(min(entry.expiry - self._now, self._greatest_ttl))

    @staticmethod
    def _rdata(kind: int, entry: Entry, key: bytes, zone: dns.name.Name) -> Iterator[dns.rdata.Rdata]:
        endpoint = entry.endpoint
        if kind == TXT and entry.text:
            strings = [entry.text[at : at + _STRING] for at in range(0, len(entry.text), _STRING)]
            yield dns.rdtypes.ANY.TXT.TXT(IN, TXT, strings)
        elif endpoint is not None and kind == (A if endpoint.address.is_ipv4 else AAAA):
            yield address_rdata(endpoint.address.host)
        elif endpoint is not None and kind == SRV and endpoint.address.port:
            target = member_name(entry.id, key, zone)
            yield dns.rdtypes.IN.SRV.SRV(
                IN, SRV, endpoint.priority, endpoint.weight, endpoint.address.port, target
            )


def address_rdata(host: str) -> dns.rdata.Rdata:
    """An A or AAAA record's data, from a numeric address."""
    return dns.rdtypes.IN.AAAA.AAAA(IN, AAAA, host) if ":" in host else dns.rdtypes.IN.A.A(IN, A, host)
