"""Which name of the zone means what. No I/O and no clock.

    ZONE                       the zone itself: SOA, NS
    ns.ZONE                    the face, unless the operator names other name servers
    NAME.ZONE                  the set and the record with the key NAME
    _SERVICE._PROTO.NAME.ZONE  the same, for SRV (RFC 2782)
    ID.NAME.ZONE               one member of the set, by its ID in 16 digits: what an SRV record points at

A name is one label, so it is known at once whether anything can be beneath it (RFC 8020). Labels are bytes, folded to
lower case, as DNS compares them.
"""

import re
from enum import Enum, auto
from typing import NamedTuple

import dns.name

NAMESERVER = b"ns"
_ID = re.compile(rb"[0-9a-f]{16}")


class Kind(Enum):
    ELSEWHERE = auto()
    """Outside of the zone."""
    ABSENT = auto()
    """Nothing can be there."""
    APEX = auto()
    NAMESERVER = auto()
    NAME = auto()
    BETWEEN = auto()
    """_PROTO.NAME: has no records, but names beneath it."""
    SERVICE = auto()
    MEMBER = auto()


class Place(NamedTuple):
    """What a name means."""

    kind: Kind
    key: bytes = b""
    """The name of the set and of the record, for those kinds that have one."""
    member: int = 0


def place_of(name: dns.name.Name, zone: dns.name.Name, *, own_nameserver: bool) -> Place:
    """What an absolute name means in the zone."""
    if not name.is_subdomain(zone):
        return Place(Kind.ELSEWHERE)
    labels = [label.lower() for label in name.labels[: len(name.labels) - len(zone.labels)]]
    if not labels:
        return Place(Kind.APEX)
    *front, key = labels
    if key == NAMESERVER and own_nameserver:
        return Place(Kind.ABSENT if front else Kind.NAMESERVER)
    match front:
        case []:
            return Place(Kind.NAME, key)
        case [id] if _ID.fullmatch(id):
            return Place(Kind.MEMBER, key, int(id, 16))
        case [proto] if proto.startswith(b"_"):
            return Place(Kind.BETWEEN, key)
        case [service, proto] if service.startswith(b"_") and proto.startswith(b"_"):
            return Place(Kind.SERVICE, key)
    return Place(Kind.ABSENT)


def member_name(member: int, key: bytes, zone: dns.name.Name) -> dns.name.Name:
    """The name of one member of a set."""
    return dns.name.Name([b"%016x" % member, key, *zone.labels])
