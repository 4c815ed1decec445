"""An outsider who listens has the entry node tag bodies of his choice, and makes messages of members of the tags.

bridge --+-- client     the outsider
         +-- n1         the entry node: it tags his bodies, and sends them on
         +-- n2         the next hop; what comes to it he reads. His forged messages go there

He wants header tags: for the 104 bytes that a header tag covers he sends these bytes as a body.
"""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from builders import message_with, request, set_field
from nfq import arrived, udp

from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import FIELD, Address, Record
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op

pytestmark = pytest.mark.root

CLIENT = {4: "10.53.48.250", 6: "fd53:48::fa"}
MAGIC = shared.MAGIC.to_bytes(4, "big")
EPOCH = 1
CARRIERS = [(Op.GET, Flag(0)), (Op.GET, Flag.PROVEN), (Op.QUORUM_GET, Flag(0)), (Op.TRACE, Flag(0)),
            (Op.PUT, Flag(0)), (Op.DELETE, Flag(0))]  # fmt: skip
"""Requests that bring his bytes to the entry node. A WATCH brings none without a cookie."""
FORGED = {
    Op.STORE: Record(version=int(time.time() * 1e6), value=b"forged").pack(),
    Op.FETCH: b"",
    Op.PING: bytes(range(shared.ID_LEN)),
}


class Outsider(NamedTuple):
    own: socket.socket
    heard: socket.socket
    """Every frame at the next hop."""
    entry: tuple[str, int]
    target: tuple[str, int]
    node: LabNode
    key: bytes
    """The next hop's ID: the entry node sends requests for it there."""

    def body_tag(self, body: bytes, request_id: int, op: Op = Op.PUT, flags: Flag = Flag(0)) -> bytes:  # noqa: B008
        """The tag that the entry node gives to this body."""
        self.own.sendto(
            request(op=op, flags=flags, key=self.key, request_id=request_id, body=body), self.entry
        )
        while True:
            frame = self.heard.recv(4096)
            message = frame[frame.find(MAGIC) :] if MAGIC in frame else bytes(shared.HEADER_LEN)
            if message[FIELD["request_id"]] == request_id.to_bytes(8, "big") and message[6] & Flag.FORWARDED:
                return message[FIELD["body_tag"]]

    def forged(self, op: Op, number: int, carrier: Op, flags: Flag) -> bytes:
        """A member's message, with the tags that he could get."""
        body = FORGED[op]
        message = message_with({
            "op": op, "flags": Flag.FORWARDED, "hops": 1, "key": self.key, "request_id": number, "epoch": EPOCH,
            "time": int(time.time()), "body": body,
        })  # fmt: skip
        set_field(message, "body_tag", self.body_tag(body, number))
        covered = bytearray(message[: shared.TAGGED_LEN])
        covered[FIELD["hops"]] = b"\0"
        set_field(message, "header_tag", self.body_tag(bytes(covered), number + 1, carrier, flags))
        return bytes(message)

    def refused(self) -> Counter[str]:
        reasons = Counter(self.node.call("stats")["packets"]["all"])
        return Counter({name: reasons[name] for name in ("BAD_TAG", "BAD_BODY_TAG")})


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["socket", "nfqueue", "ebpf"])
def outsider(request: pytest.FixtureRequest, lab: Lab, version: int, tmp_path: Path) -> Iterator[Outsider]:
    client = lab.host("client", ipv4=f"{CLIENT[4]}/24", ipv6=f"{CLIENT[6]}/64")
    places = places_in(lab, 2, ipv4=version == 4, ipv6=version == 6)
    lab.let_xdp_send()
    with (
        Cluster(places, tmp_path, datapath=request.param) as cluster,
        udp(client, CLIENT[version]) as own,
        places[1].host.enter(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard,
    ):
        heard.bind(("eth0", 0))
        heard.settimeout(10)
        entry, target = ((node.address.host, node.address.port) for node in cluster.nodes)
        key = bytes.fromhex(cluster.nodes[1].status()["node_id"])
        yield Outsider(own, heard, entry, target, cluster.nodes[1], key)


def test_no_chosen_body_makes_a_header_tag(outsider: Outsider) -> None:
    sent = 0
    before = outsider.refused()
    for carrier, flags in CARRIERS:
        for op in FORGED:
            message = outsider.forged(op, 1 << 40 | sent << 8, carrier, flags)
            arrived(outsider.own)
            outsider.own.sendto(message, outsider.target)
            sent += 1
            wait_until(lambda: outsider.refused().total() >= before.total() + sent, f"{op.name}'s refusal", 5)  # noqa: B023
    assert outsider.refused() - before == Counter({"BAD_TAG": sent})
    assert [
        answer for answer in arrived(outsider.own) if Address.of(*answer[1:]).host == outsider.target[0]
    ] == []
