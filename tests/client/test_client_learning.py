"""Nodes that a client learns of from the cluster, and asks where the given ones fail."""

import asyncio
import random

import pytest
from both_clients import BOTH
from exchanges import GET, PUT, opened, passes, received, sent, unix_us
from scripted_node import ScriptedNode, answer, refusal, reply_to, value_reply

from kdht import AsyncClient, Client, wire
from kdht.client import _learning as learning
from kdht.client import _sockets as sockets
from kdht.client._calls import Answer
from kdht.client._learning import AGAIN_AFTER, FIRST_AFTER, MAX_LEARNT
from kdht.client._session import Session
from kdht.errors import PortClosed
from kdht.wire import Address, Contact, pack_contacts
from kdht.wire._shared import CONTACT_LEN, HEADER_LEN, Op, Status

OTHERS = [Address.of(f"10.0.0.{number}", 5348) for number in range(2, 60)]


class Learning:
    """A session that was given `nodes`, and what it told of."""

    def __init__(self, nodes: int = 1, takes=lambda node, address: True) -> None:
        self.places: dict[int, Address] = {}
        self._takes = takes
        self.session = Session(
            nodes,
            timeout=60.0,
            attempts=8,
            rng=random.Random(5348),
            unix_us=unix_us,
            on_learnt=self._learnt,
        )
        _, first = opened(self.session)
        self.session.receive(0, value_reply(wire.parse(first.data)), 0.0)

    def _learnt(self, node: int, address: Address) -> bool:
        if not self._takes(node, address):
            return False
        self.places[node] = address
        return True

    def asks(self, now: float) -> wire.Message:
        """A request is begun; the question that goes beside it."""
        self.session.forget(self.session.start(PUT, now))
        question, request = (wire.parse(send.data) for send in self.session.outbox)
        self.session.outbox.clear()
        assert request.op == Op.PUT
        return question

    def hears_of(self, addresses: list[Address], now: float) -> None:
        question = self.asks(now)
        contacts = [Contact(bytes([number]) * 20, *address) for number, address in enumerate(addresses, 1)]
        body = pack_contacts(contacts[: len(question.body) // CONTACT_LEN])
        self.session.receive(0, reply_to(question, status=Status.HOPS_ENDED, body=body), now + 0.01)


def test_a_client_learns_contacts_once_a_minute():
    client = Learning()
    opened(client.session, GET, FIRST_AFTER - 0.01)
    question = client.asks(FIRST_AFTER)
    assert (question.op, question.hops, question.attempt) == (Op.TRACE, 1, 0)
    opened(client.session, GET, FIRST_AFTER + AGAIN_AFTER - 0.01)
    assert client.asks(FIRST_AFTER + AGAIN_AFTER).key != question.key, "other nodes are near another key"


def test_the_answer_with_contacts_is_no_longer_than_the_request():
    question = Learning().asks(FIRST_AFTER)
    assert len(question.body) == CONTACT_LEN * (MAX_LEARNT + 1)
    assert len(question.pack()) == HEADER_LEN + len(question.body)


def test_without_learn_no_contacts_are_asked_for():
    session = Session(1, timeout=60.0, attempts=8, rng=random.Random(1), unix_us=unix_us)
    _, first = opened(session)
    session.receive(0, value_reply(wire.parse(first.data)), 0.0)
    for now in (1.0, 100.0, 1000.0):
        assert opened(session, GET, now)[1] is not None


def test_learnt_nodes_are_asked_if_no_given_node_listens():
    client = Learning(nodes=2)
    client.hears_of(OTHERS[:3], 2.0)
    assert client.places == dict(enumerate(OTHERS[:3], 2))
    exchange, first = opened(client.session, GET, 3.0)
    session, asked = client.session, [first.node]
    for _ in range(3):
        session.refused(asked[-1], 3.0)
        asked.append(sent(session).node)
    assert asked == [0, 1, 2, 3]
    received(session, 3, value_reply(wire.parse(first.data), request_id=0), 3.01)
    assert not exchange.done
    for node in (3, 4):
        session.refused(node, 3.02)
    assert isinstance(exchange.error, PortClosed)


def test_a_given_node_that_answers_again_is_asked_first():
    client = Learning()
    client.hears_of(OTHERS[:1], 2.0)
    session = client.session
    session.refused(0, 3.0)
    exchange, first = opened(session, PUT, 3.5)
    assert first.node == 1
    session.forget(exchange)
    session.start(GET, 10.0)
    probe = session.outbox[0]
    session.outbox.clear()
    assert probe.node == 0
    received(session, 0, value_reply(wire.parse(probe.data)), 10.01)
    assert opened(session, PUT, 10.5)[1].node == 0


def test_given_nodes_that_are_silent_are_left_for_learnt_ones():
    client = Learning()
    client.hears_of(OTHERS[:1], 2.0)
    nodes = set()
    for number in range(4):
        exchange, first = opened(client.session, PUT, 3.0 + 10 * number)
        nodes |= {first.node, passes(client.session, exchange).node}
        client.session.forget(exchange)
    assert nodes == {0, 1}
    assert opened(client.session, PUT, 60.0)[1].node == 1


def test_at_most_max_learnt_nodes_are_kept():
    client = Learning()
    for turn in range(3):
        client.hears_of(OTHERS[turn * 16 : turn * 16 + 17], 2.0 + turn * AGAIN_AFTER)
    assert len(client.places) == MAX_LEARNT == len(client.session.state.nodes.all) - 1
    assert set(client.places.values()) & set(OTHERS[32:49]), "those that were never asked make room"


def test_a_learnt_node_in_use_keeps_its_place():
    client = Learning()
    client.hears_of(OTHERS[:16], 2.0)
    session = client.session
    session.refused(0, 3.0)
    _, first = opened(session, PUT, 3.1)
    received(session, first.node, value_reply(wire.parse(first.data)), 3.2)
    kept = client.places[first.node]
    session._learner.learn(
        _answer(pack_contacts([Contact(bytes(20), *address) for address in OTHERS[20:37]]))
    )
    assert client.places[first.node] == kept
    assert set(client.places.values()) & set(OTHERS[20:37])


def _answer(body: bytes):
    return Answer(Status.HOPS_ENDED, body)


@pytest.mark.parametrize("body", [b"", b"short", bytes(38), bytes(39)])
def test_unreadable_contacts_are_ignored(body):
    client = Learning()
    question = client.asks(2.0)
    client.session.receive(0, reply_to(question, status=Status.HOPS_ENDED, body=body), 2.01)
    assert client.places == {}


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "fe80::1", "ff02::1", "::", "169.254.0.1"])
def test_unreachable_contacts_are_not_learnt(host):
    client = Learning()
    client.hears_of([Address.of(host, 5348), Address.of("10.0.0.9", 0), OTHERS[0]], 2.0)
    assert list(client.places.values()) == OTHERS[:1]


def test_no_nodes_are_learnt_from_a_refusal():
    client = Learning()
    question = client.asks(2.0)
    client.session.receive(0, refusal(question, Status.BAD_REQUEST), 2.01)
    assert client.places == {}


# --- Over sockets


@pytest.fixture
def opened_sockets():
    made: list[sockets.Sockets] = []

    def make(*names: str) -> sockets.Sockets:
        infos = sockets.resolve(sockets.node_list(list(names)))
        made.append(
            sockets.Sockets(infos, direct=False, on_open=lambda node, sock: None, on_close=lambda sock: None)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("address", "takes"),
    [("127.0.0.1", True), ("10.1.2.3", True), ("::1", False), ("2001:db8::1", False)],
)
def test_only_nodes_reachable_like_the_given_ones_are_learnt(opened_sockets, address, takes):
    opened = opened_sockets("127.0.0.1:5348")
    assert opened.place(1, Address.of(address, 5349)) is takes


def test_a_given_node_is_not_learnt(opened_sockets):
    opened = opened_sockets("127.0.0.1:5348", "127.0.0.1:5349")
    assert not opened.place(2, Address.of("127.0.0.1", 5349))


def test_another_hosts_loopback_address_is_not_learnt(opened_sockets):
    opened = opened_sockets("127.0.0.1:5348")
    opened._targets = {0: ("192.0.2.1", 5348)}
    assert not opened.place(1, Address.of("127.0.0.1", 5348))


async def _in_a_loop(first: ScriptedNode, learn: bool) -> bytes:
    async with AsyncClient(first.name, learn=learn) as client:
        with first:
            for name in "abc":
                await client.get(name)
        return await client.get("d")


def _blocking(first: ScriptedNode, learn: bool) -> bytes:
    with Client(first.name, learn=learn) as client:
        with first:
            for name in "abc":
                client.get(name)
        return client.get("d")


@pytest.mark.parametrize("ask", [_blocking, lambda *args: asyncio.run(_in_a_loop(*args))], ids=BOTH)
def test_a_learnt_node_answers_after_the_only_given_one_died(monkeypatch, ask):
    """The client goes on through a node that it was not given, unless it was told not to."""
    monkeypatch.setattr(learning, "FIRST_AFTER", 0.0)
    with ScriptedNode(answer) as other:
        host, _, port = other.name.rpartition(":")
        contacts = pack_contacts([Contact(bytes(20), *Address.of(host, int(port)))])

        def given(_node, request):
            if request.op == Op.TRACE:
                return [reply_to(request, status=Status.HOPS_ENDED, body=contacts)]
            return [value_reply(request)]

        with pytest.raises(PortClosed):
            ask(ScriptedNode(given), False)
        assert other.seen == []
        assert ask(ScriptedNode(given), True) == b"world"
        assert {request.op for request in other.seen} == {Op.GET}
