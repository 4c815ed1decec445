"""Nodes A, B and C with a hand-set table, over which one key has the longest way there is.

    client -> A (0000...) -> B (1000...) -> C (1100...), which owns KEY (1111...)

Each node knows only the next; C answers with `answer`, as a node's service does.
"""

import itertools

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.wire import Address, Contact, Message, parse, seal
from kdht.wire._shared import Flag, Op, Status
from kdht.wire.keys import derive

CLUSTER = derive(1, b"only a test's own secret")
IDS = (b"\x00" + bytes(19), b"\x80" + bytes(19), b"\xc0" + bytes(19))
KEY = b"\xff" * 20
_request_ids = itertools.count(1)


def configure(core: Core, node_id: bytes, *addresses: Address, **options: object) -> None:
    """Make `core` the node `node_id` that listens at `addresses`, cookies off."""
    by_family = {address.is_ipv4: address.ip for address in reversed(addresses)}
    core.configure(
        self_id=node_id,
        port=addresses[0].port,
        own=[address.ip for address in addresses],
        source4=by_family.get(True),
        source6=by_family.get(False),
        keys=[(CLUSTER.epoch, CLUSTER.tag)],
        cookie_key=CLUSTER.cookie,
        **{"cookies": False, **options},
    )


def link(cores: list[Core], addresses: list[Address]) -> None:
    """Configure each core and tell it of the next in the chain."""
    for core, node_id, address in zip(cores, IDS, addresses, strict=True):
        configure(core, node_id, address)
    for bucket, core in enumerate(cores[:-1]):
        core.set_bucket(bucket, [Contact(IDS[bucket + 1], *addresses[bucket + 1])])


def request(op: Op = Op.GET, key: bytes = KEY, **fields: object) -> bytes:
    """A client's datagram with a request id of its own."""
    return bytes(Message(op=op, key=key, request_id=next(_request_ids), **fields).pack())


def answer(datagram: Datagram, body: bytes, now: int) -> Outgoing:
    """The sealed reply of the owner to the entry node of a request that came over others."""
    asked = parse(datagram.data)
    reply = Message(
        op=asked.op,
        key=asked.key,
        request_id=asked.request_id,
        flags=Flag.REPLY,
        hops=asked.hops,
        status=Status.OK,
        body=body,
        client=asked.client,
        entry=asked.entry,
    ).pack()
    seal(reply, CLUSTER, now)
    return Outgoing(bytes(reply), asked.entry, datagram.target)
