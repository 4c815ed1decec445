"""What clients that watch a set are told: a page at each renewal of the lease, and every change."""

import math

from kdht.datapath.base import Datagram
from kdht.storage import StoredRecord
from kdht.times import UnixTime
from kdht.wire import FIELD
from kdht.wire.sets import (
    END,
    PLACE_LEN,
    SHARED_LEN,
    Member,
    MembersPage,
    ToldMembers,
    id_of,
    pack_told,
)

_KEY = FIELD["key"]


def watched_at(key: bytes) -> bytes:
    """Where the leases of a set are kept, from its key or a member's: no key of a record is so short."""
    return key[:SHARED_LEN]


def news_of(request: Datagram, key: bytes, record: StoredRecord, now: UnixTime) -> bytes:
    """The reply for one watching client; empty if the record is no member of its set."""
    rest = request.data[_KEY][SHARED_LEN:]
    place = key[SHARED_LEN:]
    if record.deleted:
        # Whose it was is not in a tombstone. A client that does not know this member passes it by.
        member = Member(id_of(place), 0, b"")
    elif record.value.startswith(rest) and record.expiry:
        member = Member(id_of(place), max(record.expiry - math.ceil(now), 1), record.value[PLACE_LEN:])
    else:
        return b""
    return pack_told(ToldMembers(0, record.version, MembersPage(0, END, [member])))
