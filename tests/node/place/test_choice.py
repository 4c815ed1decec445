"""How a newcomer finds its ID: in virtual clusters, whose time and losses are the test's."""

from collections.abc import Callable
from random import Random

import pytest
from newcomers import Newcomer, owner_of
from nodes import KEY, SOON, Cluster, address_of, contact_of

from kdht.datapath.base import Datagram
from kdht.node.messages import CLAIM, UNKNOWN_ID
from kdht.node.node import Node
from kdht.node.place.choice import KNOCK_SECONDS, PATIENCE
from kdht.node.place.claims import CLAIM_SECONDS
from kdht.wire import Message, parse, seal
from kdht.wire._shared import Op, Reason, Status

SEED = 5


def grown(count: int, *, loss: float = 0.0, seed: int = SEED) -> Cluster:
    """So many nodes with IDs by chance, at rest."""
    cluster = Cluster(seed, loss=loss)
    cluster.grow(count)
    cluster.run(SOON)
    return cluster


def until(cluster: Cluster, done: Callable[[], bool], seconds: float = 30.0) -> None:
    end = cluster.network.now + seconds
    while not done():
        assert cluster.network.now < end, "it takes too long"
        cluster.run(0.05)


# --- One after the other, and together


@pytest.mark.parametrize("count", [1, 2, 3, 8, 23])
def test_a_newcomer_halves_the_greatest_share(count: int) -> None:
    cluster = grown(count)
    ids = {member.contact.id: member for member in cluster.members}
    newcomer = Newcomer(cluster, 100)
    until(cluster, lambda: newcomer.found is not None)
    cluster.run(SOON)
    assert newcomer.found is not None
    owner = cluster.owner(newcomer.found.id)
    assert owner.id == newcomer.found.id
    assert all(newcomer.found.id != id for id in ids)
    assert cluster.astray(20) == []


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize(("first", "others"), [(1, 11), (3, 9), (3, 21), (24, 24)])
@pytest.mark.slow
def test_simultaneous_newcomers_get_even_shares(first: int, others: int, loss: float) -> None:
    cluster = grown(1)
    for number in range(2, first + 1):
        Newcomer(cluster, number)
        cluster.run(5)
    assert len(cluster.members) == first
    cluster.network.loss = loss
    newcomers = [Newcomer(cluster, 100 + number) for number in range(others)]
    until(cluster, lambda: all(newcomer.took is not None for newcomer in newcomers))
    cluster.network.loss = 0.0
    cluster.run(SOON)
    assert len(cluster.members) == first + others
    assert owner_of(cluster) == 1.0
    if not loss:
        assert max(newcomer.took or 0 for newcomer in newcomers) < 2.0


def test_a_newcomer_is_no_member_before_it_has_joined() -> None:
    cluster = grown(4)
    heard = []
    cluster.network.observer = lambda event: heard.append(event) if event.what == "delivered" else None
    newcomer = Newcomer(cluster, 100, joining=False)
    until(cluster, lambda: newcomer.found is not None)
    cluster.run(SOON)
    to_it = [parse(event.data) for event in heard if event.target == newcomer.address]
    assert to_it
    assert all(message.is_reply for message in to_it), "nobody pings it"
    assert all(len(member.node.table) == 3 for member in cluster.members)


# --- What may go wrong


def test_the_first_of_a_cluster_asks_nobody() -> None:
    newcomer = Newcomer(Cluster(SEED), 1, [])
    assert newcomer.took == 0
    assert newcomer.found is not None
    assert "nobody to ask" in newcomer.found.why


def test_without_answers_a_newcomer_soon_draws_a_random_id() -> None:
    cluster = Cluster(SEED)
    newcomer = Newcomer(cluster, 1, [address_of(2), address_of(3)])
    until(cluster, lambda: newcomer.took is not None)
    assert newcomer.took is not None
    assert newcomer.took <= KNOCK_SECONDS[1]
    assert newcomer.found is not None
    assert "nobody answered" in newcomer.found.why


def test_nodes_that_start_together_do_not_deadlock() -> None:
    """All name the same three, and none of these is a member yet."""
    cluster = Cluster(SEED)
    seeds = [address_of(number) for number in (1, 2, 3)]
    newcomers = [Newcomer(cluster, number, seeds) for number in range(1, 10)]
    until(cluster, lambda: all(newcomer.took is not None for newcomer in newcomers))
    assert max(newcomer.took or 0 for newcomer in newcomers) < KNOCK_SECONDS[1] + 3
    assert owner_of(cluster) <= 2.0


def test_a_silent_nodes_gap_is_not_taken() -> None:
    cluster = grown(6)
    ids = [int.from_bytes(member.contact.id, "big") for member in cluster.members]
    dead = cluster.members[3]
    cluster.kill(dead)
    newcomer = Newcomer(cluster, 100, joining=False)
    until(cluster, lambda: newcomer.found is not None)
    assert newcomer.found is not None
    number = int.from_bytes(newcomer.found.id, "big")
    assert min(ids, key=lambda id: id ^ number) != int.from_bytes(dead.contact.id, "big")


class Owner:
    """One node that grants claims, and its only network: the test."""

    def __init__(self) -> None:
        self.cluster = grown(1)
        self.node: Node = self.cluster.members[0].node

    def asks(self, number: int, id: bytes, body: bytes = CLAIM) -> Message:
        """What it answers the newcomer with this number."""
        source = address_of(number)
        message = Message(
            op=Op.FIND_NODE, key=id, request_id=number, hops=1, body=UNKNOWN_ID + body, client=source
        )
        data = message.pack()
        now = self.cluster.network.now
        seal(data, KEY, int(now))
        target = self.node.contact.address
        self.node.receive(Datagram(bytes(data), source, target, Reason.CONTROL, 0), now)
        (out,) = self.node.datagrams_to_send()
        assert out.target == source
        return parse(out.data)


def test_a_gap_is_given_to_one_newcomer_at_a_time() -> None:
    owner = Owner()
    rng = Random(1)
    first, second = rng.randbytes(20), rng.randbytes(20)
    assert owner.asks(2, first).status is Status.OK
    assert owner.asks(3, second).status is Status.BUSY
    assert owner.asks(2, first).status is Status.OK, "the same again"
    assert owner.asks(3, second, body=b"").status is Status.OK, "a question is no claim"
    owner.cluster.run(CLAIM_SECONDS + 1)
    assert owner.asks(3, second).status is Status.OK, "the first did not come"


def test_a_gap_that_was_filled_meanwhile_is_refused() -> None:
    cluster = grown(2)
    one, other = cluster.members
    owner = Owner()
    owner.cluster, owner.node = cluster, one.node
    beside = bytes([*other.contact.id[:-1], other.contact.id[-1] ^ 1])
    answer = owner.asks(9, beside)
    assert answer.status is Status.NOT_RESPONSIBLE
    assert other.contact.id in answer.body
    assert owner.node.counters["newcomers"] == 1


def test_a_liar_that_blocks_all_gaps_only_delays_a_newcomer() -> None:
    cluster = grown(3)
    for member in cluster.members:
        member.node._inbox._claims.claim(
            bytes([*member.contact.id[:-1], member.contact.id[-1] ^ 1]), float("inf")
        )
    newcomer = Newcomer(cluster, 100)
    until(cluster, lambda: newcomer.took is not None)
    assert newcomer.took == pytest.approx(PATIENCE, abs=0.5)
    assert newcomer.found is not None
    assert "not asked for" in newcomer.found.why
    cluster.run(SOON)
    assert cluster.members[-1].node.joined


def test_unrequested_answers_change_nothing() -> None:
    cluster = grown(3)
    newcomer = Newcomer(cluster, 100, joining=False)
    liar = contact_of(77)
    for op in (Op.PING, Op.FIND_NODE):
        for body in (b"", bytes(19), UNKNOWN_ID, liar.id + bytes(37), liar.id + bytes(38 * 21)):
            message = Message(
                op=op, key=liar.id, request_id=1, flags=1, hops=1, body=body, client=liar.address
            )
            data = message.pack()
            seal(data, KEY, int(cluster.network.now))
            datagram = Datagram(bytes(data), liar.address, newcomer.address, Reason.CONTROL, 0)
            newcomer.chooser.receive(datagram, cluster.network.now)
    newcomer.chooser.receive(
        Datagram(b"no message", liar.address, newcomer.address, Reason.CONTROL, 0), cluster.network.now
    )
    assert newcomer.found is None
    until(cluster, lambda: newcomer.found is not None)
