"""What the socket datapath refuses before it costs much, on real loopback sockets."""

import socket
import threading
import time
from collections import Counter
from ipaddress import ip_network

import pytest
from chain import CLUSTER, IDS, configure, request
from sockets import LOOPBACK, Client, closed_port, lonely, wait_for

from kdht.datapath.base import Datagram, Outgoing
from kdht.datapath.rates import ClientRates
from kdht.datapath.senders import Senders
from kdht.wire import FIELD, Address, Message, make_cookie, parse, seal
from kdht.wire._shared import COSTLY_WEIGHT, CROWD_FACTOR, Flag, Op, Status

MANY = 60
ROUTED = (Op.GET, Op.PUT, Op.DELETE, Op.TRACE, Op.QUORUM_GET, Op.WATCH)


def cookie_of(client: Client) -> int:
    return make_cookie(CLUSTER.cookie, client.address.ip, int(time.time()))


def of_a_member(op: Op = Op.PING, request_id: int = 7, **fields: object) -> bytes:
    message = Message(op=op, key=IDS[0], request_id=request_id, hops=1, **fields).pack()
    seal(message, CLUSTER, int(time.time()))
    return bytes(message)


def through(client: Client, transport, got: list[Datagram]) -> None:
    """Wait until everything sent before has been treated."""
    marker = of_a_member(Op.SUSPECT, time.monotonic_ns())
    client.send(marker, transport.addresses[0])
    wait_for(lambda: any(datagram.data == marker for datagram in got))
    time.sleep(0.05)  # members' messages come first


def counted(got: list[Datagram]) -> Counter[int]:
    return Counter(datagram.data[5] for datagram in got)


# --- Rates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_each_kind_of_request_has_its_rate_and_members_have_none(start, version):
    _, transport, got = lonely(start, LOOPBACK[version], rates=ClientRates(24, 16))
    client = Client(LOOPBACK[version])
    proof = cookie_of(client)
    for _ in range(MANY):
        for op in ROUTED:
            client.send(request(op, cookie=proof), transport.addresses[0])
        client.send(of_a_member(request_id=time.monotonic_ns()), transport.addresses[0])
    through(client, transport, got)
    seen = counted(got)
    assert 24 <= seen[Op.GET] <= 24 + 12
    assert 16 <= seen[Op.PUT] + seen[Op.DELETE] <= 16 + 8
    costly = seen[Op.TRACE] + seen[Op.QUORUM_GET] + seen[Op.WATCH]
    assert 24 // COSTLY_WEIGHT <= costly <= 24 // COSTLY_WEIGHT + 2
    assert seen[Op.PING] == MANY


def test_new_addresses_share_the_rate_of_the_crowd(start):
    core, transport, got = lonely(start, rates=ClientRates(2, 2))
    known = Client("127.0.0.2")
    known.send(request(), transport.addresses[0])
    wait_for(lambda: got)
    for number in range(200):
        with Client(f"127.9.{number // 100}.{number % 100 + 1}").sock as sock:
            sock.sendto(request(), (transport.addresses[0].host, transport.addresses[0].port))
    through(known, transport, got)
    passed = counted(got)[Op.GET] - 1
    assert 2 * CROWD_FACTOR - 1 <= passed <= 2 * 2 * CROWD_FACTOR
    assert core.counters()["RATE_LIMITED"] == 200 - passed
    known.send(request(), transport.addresses[0])
    wait_for(lambda: counted(got)[Op.GET] == passed + 2)


def test_without_rates_nothing_is_limited(start):
    core, transport, got = lonely(start)
    client = Client()
    for _ in range(500):
        client.send(request(), transport.addresses[0])
    through(client, transport, got)
    assert counted(got)[Op.GET] == 500
    assert core.counters()["RATE_LIMITED"] == 0


# --- Addresses and cookies -------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_may_not_write_can_read(start, version):
    core, transport, got = lonely(start, LOOPBACK[version])
    writers = Senders(write_refused=(ip_network(LOOPBACK[version]),))
    configure(core, IDS[2], *transport.addresses, prefixes=writers.prefixes())
    client = Client(LOOPBACK[version])
    for op in ROUTED[:5]:
        client.send(request(op), transport.addresses[0])
    through(client, transport, got)
    assert set(counted(got)) == {Op.GET, Op.TRACE, Op.QUORUM_GET, Op.SUSPECT}
    assert core.counters()["NOT_ALLOWED"] == 2


@pytest.mark.parametrize("cookies", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_a_watch_needs_a_cookie_whether_or_not_cookies_are_on(start, version, cookies):
    core, transport, got = lonely(start, LOOPBACK[version])
    configure(core, IDS[2], *transport.addresses, cookies=cookies)
    client = Client(LOOPBACK[version])
    client.send(request(Op.WATCH, body=bytes(4)), transport.addresses[0])
    reply = parse(client.receive()[0])
    assert (reply.status, reply.body) == (Status.COOKIE_NEEDED, b"")
    assert got == []
    client.send(request(Op.WATCH, body=bytes(4), cookie=reply.cookie), transport.addresses[0])
    wait_for(lambda: counted(got)[Op.WATCH] == 1)


@pytest.mark.parametrize("op", [Op.PUT, Op.DELETE])
@pytest.mark.parametrize("version", [4, 6])
def test_with_write_cookie_a_write_needs_a_cookie(start, version, op):
    core, transport, got = lonely(start, LOOPBACK[version])
    configure(core, IDS[2], *transport.addresses, write_cookie=True)
    client = Client(LOOPBACK[version])
    for body in (b"", bytes(200)):
        sent = request(op, body=body)
        client.send(sent, transport.addresses[0])
        data, _ = client.receive()
        assert parse(data).status is Status.COOKIE_NEEDED
        assert len(data) <= len(sent)
    client.send(request(op, cookie=parse(data).cookie), transport.addresses[0])
    wait_for(lambda: counted(got)[op] == 1)
    client.send(request(Op.GET), transport.addresses[0])
    wait_for(lambda: counted(got)[Op.GET] == 1)


# --- The same again ----------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "copies"), [(Op.GET, 8), (Op.TRACE, 8), (Op.PUT, 1), (Op.DELETE, 1)])
@pytest.mark.parametrize("forwarded", [False, True], ids=["a client's", "a member's"])
def test_one_message_is_treated_a_few_times_only(start, op, copies, forwarded):
    _, transport, got = lonely(start)
    client = Client()
    asked = bytearray(request(op, key=IDS[2]))
    if forwarded:
        seal(asked, CLUSTER, int(time.time()))
        asked[7] = 5
    if time.time() % 1 > 0.5:
        time.sleep(1.05 - time.time() % 1)  # all of them within one second
    for _ in range(200):
        client.send(bytes(asked), transport.addresses[0])
    through(client, transport, got)
    assert counted(got)[op] == copies
    assert transport.status()["replayed"] == 200 - copies


@pytest.mark.parametrize(("op", "copies"), [(Op.STORE, 8), (Op.FETCH, 8), (Op.PUT, 1)])
@pytest.mark.parametrize("version", [4, 6])
def test_without_tags_different_messages_are_no_copies_of_each_other(start, version, op, copies):
    """A cluster without tags, as the benchmark measures: each tag is 0."""
    core, transport, got = lonely(start, LOOPBACK[version])
    configure(core, IDS[2], *transport.addresses, untagged=True)
    client = Client(LOOPBACK[version])
    sent = {"op": op, "key": IDS[2], "flags": Flag.FORWARDED, "hops": 5, "time": int(time.time())}
    messages = [bytes(Message(request_id=number, **sent).pack()) for number in range(40)]
    if time.time() % 1 > 0.5:
        time.sleep(1.05 - time.time() % 1)  # all of them within one second
    for message in messages:
        for _ in range(20):
            client.send(message, transport.addresses[0])
    through(client, transport, got)
    assert counted(got)[op] == 40 * copies
    assert transport.status()["replayed"] == 40 * (20 - copies)


def test_a_members_question_is_answered_a_few_times_only(start):
    _, transport, got = lonely(start)
    client = Client()
    fetch = of_a_member(Op.FETCH)
    for _ in range(200):
        client.send(fetch, transport.addresses[0])
    through(client, transport, got)
    assert counted(got)[Op.FETCH] == 8


def test_a_flood_of_requests_makes_no_node_forget_a_members_message(start):
    """Else a listener could have a captured one treated again and again."""
    core, transport, got = lonely(start)
    client = Client()
    fetch = of_a_member(Op.FETCH)
    for _ in range(20):
        client.send(fetch, transport.addresses[0])
    through(client, transport, got)
    asked = bytearray(request())
    while transport.status()["received"] < 60_000:
        for _ in range(500):
            asked[FIELD["request_id"]] = time.monotonic_ns().to_bytes(8, "big")
            client.send(bytes(asked), transport.addresses[0])
    for _ in range(20):
        client.send(fetch, transport.addresses[0])
    through(client, transport, got)
    assert (counted(got)[Op.FETCH], core.counters()["STALE"]) == (8, 0)


# --- Members first, clients in turn --------------------------------------------------------------


class Held:
    """A receiver that keeps the loop in its first batch until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[Datagram]] = []
        self.holds, self.go_on = threading.Event(), threading.Event()

    def receive(self, batch: list[Datagram]) -> None:
        self.batches.append(batch)
        if not self.holds.is_set():
            self.holds.set()
            self.go_on.wait(10)


@pytest.mark.parametrize("version", [4, 6])
def test_members_are_treated_before_clients_that_came_earlier(start, version):
    held = Held()
    _, transport, _ = lonely(start, LOOPBACK[version], receiver=held.receive)
    client = Client(LOOPBACK[version])
    client.send(request(), transport.addresses[0])
    assert held.holds.wait(10)
    for _ in range(300):
        client.send(request(), transport.addresses[0])
    client.send(of_a_member(), transport.addresses[0])
    held.go_on.set()
    wait_for(lambda: sum(map(len, held.batches)) == 302)
    assert held.batches[1][0].data[5] == Op.PING


def test_clients_take_turns(start):
    """One who sends 400 requests does not delay another by more than one batch. Clients share queues by a secret hash of
    their address, so one of several may stand behind the noisy one by chance."""
    held = Held()
    _, transport, _ = lonely(start, receiver=held.receive)
    noisy, quiet = Client("127.0.0.7"), [Client(f"127.0.0.{number}") for number in range(8, 12)]
    noisy.send(request(), transport.addresses[0])
    assert held.holds.wait(10)
    for _ in range(400):
        noisy.send(request(), transport.addresses[0])
    for client in quiet:
        client.send(request(Op.PUT), transport.addresses[0])
    held.go_on.set()
    wait_for(lambda: sum(map(len, held.batches)) == 401 + len(quiet))
    early = {datagram.source for datagram in held.batches[1][: 2 * len(quiet)]}
    assert len(early & {client.address for client in quiet}) >= 2


def test_the_longest_queue_loses_its_oldest_request(start):
    held = Held()
    _, transport, _ = lonely(start, receiver=held.receive)
    # Of several clients one may share the noisy one's queue by chance.
    noisy, quiet = Client("127.0.0.7"), [Client(f"127.0.0.{number}") for number in range(8, 12)]
    quiet[0].send(request(Op.PUT), transport.addresses[0])
    assert held.holds.wait(10)
    for client in quiet:
        client.send(request(Op.DELETE), transport.addresses[0])
    for _ in range(3000):
        noisy.send(request(), transport.addresses[0])
    held.go_on.set()
    wait_for(lambda: transport.status()["received"] == 3001 + len(quiet))
    wait_for(lambda: any(d.data[5] == Op.DELETE for batch in held.batches for d in batch))


def test_reads_of_absent_keys_are_refused_while_others_wait(start):
    busy, answered = threading.Event(), threading.Event()

    def nothing_found(keys, rooms, now):
        if not busy.is_set():
            busy.set()
            answered.wait(10)
        return [None] * len(keys)

    _, transport, got = lonely(start, read=nothing_found)
    client = Client()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    client.send(request(), transport.addresses[0])
    assert busy.wait(10)
    for _ in range(500):
        client.send(request(), transport.addresses[0])
    answered.set()
    wait_for(lambda: counted(got)[Op.GET] + transport.status()["refused_misses"] == 501)
    assert counted(got)[Op.GET] < 250
    assert parse(client.receive()[0]).status is Status.BUSY


# --- Forged ICMP errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_an_icmp_error_without_our_message_is_a_rate_limited_hint(start, version):
    told: list[tuple[Address, int | None]] = []
    _, transport, _ = lonely(start, LOOPBACK[version], unreachable=lambda *what: told.append(what))
    nobody = closed_port(LOOPBACK[version])
    end = time.monotonic() + 10
    while transport.status()["hints_ignored"] < 100 and time.monotonic() < end:
        transport.send([Outgoing(b"no message", nobody)])
    assert transport.status()["hints_ignored"] >= 100
    wait_for(lambda: told)
    assert set(told) == {(nobody, None)}
    assert len(told) < 64 + 32 * 10


@pytest.mark.parametrize("version", [4, 6])
def test_a_quoted_message_counts_once(start, version):
    told: list[tuple[Address, int | None]] = []
    _, transport, _ = lonely(start, LOOPBACK[version], unreachable=lambda *what: told.append(what))
    nobody, lost = closed_port(LOOPBACK[version]), of_a_member(Op.STORE, 4711)
    for _ in range(5):
        transport.send([Outgoing(lost, nobody)])
    wait_for(lambda: transport.status()["unreachable"] >= 2)
    wait_for(lambda: told)
    assert told[0] == (nobody, 4711)
    assert [request_id for _, request_id in told].count(4711) == 1


def test_without_tags_each_quoted_message_counts(start):
    """The tag of all of them is 0."""
    told: list[tuple[Address, int | None]] = []
    core, transport, _ = lonely(start, unreachable=lambda *what: told.append(what))
    configure(core, IDS[2], *transport.addresses, untagged=True)
    nobody = closed_port(LOOPBACK[4])
    for number in (4711, 4712, 4713):
        sent = {"op": Op.STORE, "key": IDS[2], "flags": Flag.FORWARDED, "hops": 5, "time": int(time.time())}
        transport.send([Outgoing(bytes(Message(request_id=number, **sent).pack()), nobody)])
        wait_for(lambda number=number: (nobody, number) in told)
