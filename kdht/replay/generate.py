"""Seeded captures: the traffic of clients and members, mutations of it, floods, retransmissions.

The same seed and table give the same file. A Generator makes one packet after the other.
`KINDS` names the kinds of traffic.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from kdht.errors import ConfigError
from kdht.replay import packets
from kdht.replay.mutations import MUTATIONS, set_checksum
from kdht.replay.packets import Checksum
from kdht.replay.tables import ReplayTable
from kdht.wire import Address, Contact, Message, Record, make_cookie, pack_contacts, seal
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Status
from kdht.wire.sets import ANYWHERE, FIRST, NAME_LEN, QUORUM, pack_announcement, pack_question

START = 1_800_000_000
"""The Unix second of the first packet, if the table has none."""
ROUTED = (Op.GET, Op.GET, Op.GET, Op.PUT, Op.DELETE, Op.TRACE, Op.ANNOUNCE, Op.MEMBERS)
CLIENTS = {4: "198.51.100.%d", 6: "2001:db8::%d"}


class Generator:
    """Packets to one node, at a second given by the caller."""

    def __init__(self, table: ReplayTable, seed: int) -> None:
        self.table = table
        self.rng = random.Random(seed)
        self.now = table.now if table.now is not None else START
        self._again: list[dict[str, Any]] = []
        self._hot_key = self.rng.randbytes(shared.ID_LEN)

    # --- Right messages ---------------------------------------------------------------

    def client_request(self, **fields: Any) -> bytearray:
        """A client's, with a cookie now and then."""
        rng, target = self.rng, self._own()
        source = self._client(target)
        op = rng.choice(ROUTED)
        message = Message(
            **{
                "op": op,
                "key": rng.randbytes(shared.ID_LEN),
                "request_id": rng.getrandbits(64),
                "hops": rng.choice((0, 0, 0, 1, 2, 16, 255)),
                "attempt": rng.choice((0, 0, 0, 0, 1, 2, 7)),
                "max_reply": rng.choice((0, 0, 100, shared.MAX_BODY)),
                "cookie": self._cookie(source),
                "flags": self._direct(),
                "body": self._request_body(op),
                **fields,
            }
        ).pack()
        return self._packet(message, source, target)

    def member_request(self, **fields: Any) -> bytearray:
        """One from another node, its entry or a hop."""
        op = self.rng.choice(ROUTED)
        fields = {"op": op, "body": self._request_body(op), "hops": self.rng.choice((1, 2, 9, 15)), **fields}
        return self._from_member(Flag.FORWARDED | self._direct(), fields)

    def reply(self, **fields: Any) -> bytearray:
        """A reply to one of this node's clients."""
        body = Record(1, 60, 0, self.rng.randbytes(self.rng.choice((0, 8, 100, shared.MAX_VALUE)))).pack()
        status = self.rng.choice((Status.OK, Status.OK, Status.NOT_FOUND))
        fields = {"op": Op.GET, "body": body if status is Status.OK else b"", "status": status, **fields}
        return self._from_member(Flag.FORWARDED | Flag.REPLY, fields)

    def control(self, **fields: Any) -> bytearray:
        """A PING or FIND_NODE, or its reply."""
        op, flag = self.rng.choice((Op.PING, Op.FIND_NODE)), self.rng.choice((Flag(0), Flag.REPLY))
        contacts = self.table.contacts if op is Op.FIND_NODE and flag else ()
        body = self.rng.randbytes(shared.ID_LEN) + pack_contacts(contacts[: shared.K])
        return self._from_member(Flag.FORWARDED | flag, {"op": op, "body": body, "hops": 1, **fields})

    def _from_member(self, flags: Flag, fields: dict[str, Any]) -> bytearray:
        rng, target = self.rng, self._own()
        client = self._client(target)
        sender = next((each.address for each in self._contacts(target)), client)
        usual: dict[str, Any] = {
            "key": rng.randbytes(shared.ID_LEN),
            "request_id": rng.getrandbits(64),
            "hops": 9,
            "client": client,
            "entry": target,
            "max_reply": shared.MAX_BODY,
        }
        message = Message(**{**usual, **fields, "flags": flags}).pack()
        seal(message, rng.choice(self.table.keys), self.now + rng.choice((0, 0, 0, 1, -1)))
        return self._packet(message, sender, target)

    def _direct(self) -> Flag:
        """One in five requests takes its answer from any node."""
        return self.rng.choice((Flag(0), Flag(0), Flag(0), Flag.PROVEN, Flag.DIRECT))

    def _contacts(self, target: Address) -> list[Contact]:
        same = [each for each in self.table.contacts if each.address.is_ipv4 == target.is_ipv4]
        return self.rng.sample(same, min(1, len(same)))

    def _own(self) -> Address:
        return Address(self.rng.choice(self.table.own), self.table.port)

    def _client(self, target: Address) -> Address:
        pattern = CLIENTS[4 if target.is_ipv4 else 6]
        return Address.of(pattern % self.rng.randrange(1, 255), self.rng.randrange(1024, 65536))

    def _cookie(self, source: Address) -> int:
        if self.rng.random() < 0.6:
            return 0
        slot = self.rng.choice((0, 0, 1, 2)) << shared.COOKIE_SLOT_BITS
        return make_cookie(self.table.keys[0].cookie, source.ip, max(self.now - slot, 0))

    def _request_body(self, op: Op) -> bytes:
        if op is Op.PUT:
            return Record(
                0, 60, 0, self.rng.randbytes(self.rng.choice((1, 16, 200, shared.MAX_VALUE)))
            ).pack()
        if op is Op.ANNOUNCE:
            return pack_announcement(
                self.rng.randbytes(NAME_LEN),
                30,
                self.rng.randbytes(self.rng.choice((0, 6, 18))),
                soft=self.rng.random() < 0.5,
                renewal=self.rng.random() < 0.5,
            )
        if op is Op.MEMBERS:
            return pack_question(self.rng.choice((ANYWHERE, FIRST)), self.rng.choice((0, QUORUM)))
        return bytes(self.rng.choice((0, 0, 100, shared.MAX_BODY))) if op is Op.GET else b""

    def _packet(self, message: bytearray, source: Address, target: Address) -> bytearray:
        kinds: list[Checksum] = ["right", "right", "right", "zero" if target.is_ipv4 else "right", "partial"]
        return packets.packet(bytes(message), source, target, self.rng.choice(kinds))

    # --- The kinds -----------------------------------------------------------------------

    def mix(self) -> bytearray:
        """Ordinary traffic of a node."""
        makers = (self.client_request, self.member_request, self.reply, self.control)
        return self.rng.choices(makers, (40, 30, 25, 5))[0]()

    def mutation(self) -> bytearray:
        """A right packet with one thing wrong; see mutations.py."""
        made = self.mix()
        self.rng.choice(list(MUTATIONS.values()))(self, made)
        if self.rng.random() < 0.8:
            set_checksum(made)
        return made

    def flood(self) -> bytearray:
        """Requests for one key, as fast as they can come."""
        return self.client_request(op=Op.GET, key=self._hot_key, attempt=0, hops=0, body=b"")

    def retransmission(self) -> bytearray:
        """Requests that clients repeat, as the client library does: attempts 0, 0, 1, 0, 2."""
        if not self._again:
            asked = {"request_id": self.rng.getrandbits(64), "key": self.rng.randbytes(shared.ID_LEN)}
            self._again = [{**asked, "attempt": attempt} for attempt in (2, 0, 1, 0, 0)]
        return self.client_request(**self._again.pop())


KINDS: dict[str, Callable[[Generator], bytearray]] = {
    "mix": Generator.mix,
    "mutations": Generator.mutation,
    "flood": Generator.flood,
    "retransmissions": Generator.retransmission,
}


def generated(table: ReplayTable, kind: str, seed: int) -> Iterator[bytes]:
    """Endless packets of a kind, from their IP headers on. Raises ConfigError for an unknown kind."""
    if kind not in KINDS:
        raise ConfigError(f"no kind of traffic is called {kind}: there are {', '.join(KINDS)}")
    generator = Generator(table, seed)
    make = KINDS[kind]
    while True:
        yield bytes(make(generator))
