"""The socket datapath and closed ports, on real loopback sockets: what ICMP says, and who is told of it."""

import threading

import pytest
from chain import CLUSTER, IDS, KEY, configure, link, request
from sockets import LOOPBACK, PATIENCE, Client, closed_port, lonely, wait_for

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.wire import OFFSET, Address, Contact, Message, parse, seal, verify
from kdht.wire._shared import MAX_BODY, Flag, Op, Status


@pytest.mark.parametrize("family", [4, 6])
def test_an_unreachable_target_is_reported_and_later_sends_work(start, family):
    gone: list[tuple[Address, int | None]] = []
    _, transport, _ = lonely(start, LOOPBACK[family], unreachable=lambda *told: gone.append(told))
    nobody = closed_port(LOOPBACK[family])
    client = Client(LOOPBACK[family])
    with client.sock:
        assert transport.send([Outgoing(b"x", nobody)]) == 1
        wait_for(lambda: gone)
        assert transport.send([Outgoing(b"y", client.address)]) == 1
        assert client.receive()[0] == b"y"
    assert gone == [(nobody, None)]
    assert transport.status()["unreachable"] == 1


def test_an_unread_socket_error_fails_no_other_send(start, client):
    entered, leave = threading.Event(), threading.Event()

    def block(batch: list[Datagram]) -> None:
        entered.set()
        leave.wait(PATIENCE)

    _, transport, _ = lonely(start, receiver=block)
    client.send(request(), transport.addresses[0])
    assert entered.wait(PATIENCE)
    closed, good = closed_port("127.0.0.62"), Outgoing(b"y", client.address)
    # Each is longer than the one before, so that none is bundled with another: this host has one error for a bundle.
    lost = [Outgoing(b"x" * (number + 1), closed) for number in range(22)]
    among = [each for one in lost[1:21] for each in (one, good)]
    for batch in ([lost[0]], [good], among, [lost[21]], [good]):
        assert transport.send(batch) == len(batch)
    assert [client.receive()[0] for _ in range(22)] == [b"y"] * 22
    leave.set()
    wait_for(lambda: transport.status()["unreachable"] == 22)
    assert transport.status()["send_errors"] == {}


def test_a_dead_next_hop_is_reported_and_costs_others_nothing(start, client):
    gone: list[tuple[Address, int | None]] = []
    core, transport, got = lonely(start, unreachable=lambda *told: gone.append(told))
    nobody = closed_port("127.0.0.61")
    configure(core, IDS[0], *transport.addresses)
    core.set_bucket(0, [Contact(IDS[1], *nobody)])
    for _ in range(50):
        client.send(request(), transport.addresses[0])
        client.send(request(key=IDS[0]), transport.addresses[0])
    wait_for(lambda: len(got) == 50 and gone)
    assert {address for address, _ in gone} == {nobody}
    assert transport.status()["send_errors"] == {}


@pytest.mark.parametrize("op", [Op.GET, Op.PUT])
@pytest.mark.parametrize("family", [4, 6])
def test_a_client_hears_at_once_that_the_next_hop_is_dead(start, family, op):
    """Through the entry node, whichever node on the way met the closed port."""
    host = LOOPBACK[family]
    cores = [Core() for _ in range(3)]
    transports = [start(core, [host], print) for core in cores[:2]]
    link(cores, [*(transport.addresses[0] for transport in transports), closed_port(host)])
    client, asked = Client(host), transports[0].addresses[0]
    with client.sock:
        for body in (b"", bytes(MAX_BODY)):  # ICMP quotes less than all of it
            sent = request(op, body=body)
            client.send(sent, asked)
            data, source = client.receive()
            reply = parse(data)
            assert (reply.status, reply.op, source, reply.body) == (Status.UNREACHABLE, op, asked, b"")
            assert reply.request_id == parse(sent).request_id
    assert [transport.status()["bounced"] for transport in transports] == [0, 2]


def test_a_trace_to_a_dead_node_ends_in_silence(start, client):
    core, transport, _ = lonely(start)
    configure(core, IDS[0], *transport.addresses)
    core.set_bucket(0, [Contact(IDS[1], *closed_port("127.0.0.61"))])
    client.send(request(Op.TRACE), transport.addresses[0])
    wait_for(lambda: transport.status()["unreachable"])
    client.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.receive()
    assert transport.status()["bounced"] == 0


def quoted(now: int, **changes: object) -> bytearray:
    """A request as a node sends it on."""
    fields = {
        "op": Op.GET,
        "key": KEY,
        "request_id": 7,
        "client": Address.of("192.0.2.9", 4000),
        "entry": Address.of("192.0.2.1", 5348),
        "hops": 3,
    }
    message = Message(**{**fields, **changes}).pack()
    seal(message, CLUSTER, now)
    return message


def test_only_a_request_of_the_cluster_is_told_to_its_client():
    """ICMP can be forged, and must not have a node send anything to anybody."""
    now, core = 1_800_000_000, Core()
    configure(core, IDS[2], Address.of("192.0.2.1", 5348))
    data, target, source = core.bounce(bytes(quoted(now)), now)
    assert (target, source) == (Address.of("192.0.2.9", 4000), Address.of("192.0.2.1", 5348))
    assert parse(data).status is Status.UNREACHABLE
    data, target, source = core.bounce(bytes(quoted(now, entry=Address.of("192.0.2.3", 5348))), now)
    assert (target, source) == (Address.of("192.0.2.3", 5348), None)
    verify(data, [CLUSTER], now, 60)
    whole = quoted(now)
    tagged = set(range(len(whole))) - {OFFSET["hops"]}
    forged = [
        request(),
        bytes(quoted(now, flags=Flag.REPLY)),
        bytes(quoted(now, op=Op.STORE)),
        bytes(quoted(now - 1000)),
        b"",
        *(bytes(whole[:length]) for length in (3, 40, len(whole) - 1)),
        *(bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) for at in tagged),
    ]
    assert [core.bounce(data, now) for data in forged] == [None] * len(forged)
