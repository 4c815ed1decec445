"""How a node is, in a few bytes, for other members that ask: PING with the byte SUMMARY behind the sender's ID.

     0      1       2          4         8         12        20            28
  0  | form | waits | contacts | behind  | began   | records | value bytes | version, ASCII, to the end

form: 1. waits: a bit for each requirement of readiness not reached, in the order of REQUIREMENTS; 0: it is ready.
began: when this run began, Unix seconds. An earlier version ignores the byte and answers with its ID alone.

Contract: no clock and no I/O but the store's counts. What another node says counts for display only.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

from kdht import __version__
from kdht.node.context import NodeContext
from kdht.node.messages import Reply
from kdht.node.readiness import DISK, JOINED, LEAVING, OWN_ID, REACH, RECORDS, TABLE
from kdht.node.repair import Repair
from kdht.node.rpc import Rpc
from kdht.node.twins import Twins
from kdht.storage import Store
from kdht.times import SteadyTime
from kdht.wire import Contact

SUMMARY = b"\x01"
"""Behind the sender's ID in a PING."""
FORM = 1
REQUIREMENTS = (JOINED, TABLE, RECORDS, REACH, DISK, OWN_ID, LEAVING)
MAX_VERSION = 32
_HEAD = struct.Struct(">BBHIIQQ")


class Summary(NamedTuple):
    """What a node says of itself."""

    waits_for: tuple[str, ...]
    """Empty: it is ready."""
    contacts: int
    behind: int
    """Ranges of keys that it has not caught up on."""
    began_s: int
    """Unix time."""
    records: int
    value_bytes: int
    version: str

    def pack(self) -> bytes:
        waits = sum(1 << bit for bit, name in enumerate(REQUIREMENTS) if name in self.waits_for)
        head = (FORM, waits, min(self.contacts, 0xFFFF), self.behind, self.began_s % 2**32)
        return _HEAD.pack(*head, self.records, self.value_bytes) + self.version.encode()[:MAX_VERSION]

    @classmethod
    def untrusted(cls, body: bytes) -> Self | None:
        """None for an answer without a summary, or with one of a later form."""
        if len(body) < _HEAD.size or body[0] != FORM:
            return None
        _, waits, contacts, behind, began_s, records, value_bytes = _HEAD.unpack_from(body)
        version = body[_HEAD.size :][:MAX_VERSION].decode("ascii", "replace")
        return cls(
            tuple(name for bit, name in enumerate(REQUIREMENTS) if waits >> bit & 1),
            contacts,
            behind,
            began_s,
            records,
            value_bytes,
            "".join(each if each.isprintable() else "?" for each in version),
        )


class Heard(NamedTuple):
    """One contact's answer."""

    contact: Contact
    rtt: float | None
    """Seconds; None: it did not answer."""
    summary: Summary | None


Done = Callable[[list[Heard]], None]


class Summaries:
    """Of this node, and of its contacts. `store`: None for a node that keeps no records."""

    def __init__(
        self, context: NodeContext, twins: Twins, repair: Repair | None, store: Store | None
    ) -> None:
        self._context = context
        self._twins = twins
        self._repair = repair
        self._store = store

    def here(self) -> Summary:
        stats = self._store.stats() if self._store is not None else None
        return Summary(
            waits_for=tuple(self._context.readiness.missing),
            contacts=len(self._context.table),
            behind=self._repair.behind if self._repair is not None else 0,
            began_s=self._twins.run(self._context.timers.now).began_ms // 1000,
            records=stats.records if stats else 0,
            value_bytes=stats.value_bytes if stats else 0,
            version=__version__,
        )

    def ask(self, contacts: Sequence[Contact], done: Done, now: SteadyTime) -> None:
        """`done` gets an answer for each contact, once all are in or given up."""
        heard: list[Heard] = []

        def take(found: Heard) -> None:
            heard.append(found)
            if len(heard) == len(contacts):
                done(heard)

        def answered(contact: Contact, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
            said = None if reply is None else Summary.untrusted(reply.body)
            take(Heard(contact, None if reply is None else reply.rtt, said))

        for contact in contacts:
            waits = partial(answered, contact)
            if not self._context.ping(contact.address, contact.id, waits, now, body=SUMMARY):
                take(Heard(contact, None, None))
        if not contacts:
            done(heard)
