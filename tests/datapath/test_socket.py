"""The socket datapath on real loopback sockets: hop by hop, both IPs, bad input, errors, stopping."""

import errno
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from chain import IDS, answer, configure, link, request
from sockets import ANY, LOOPBACK, PATIENCE, Client, Start, closed_port, lonely, wait_for

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.socket.transport import SocketTransport, _explain, _udp
from kdht.errors import DatapathError
from kdht.wire import Address, Contact, parse
from kdht.wire._shared import MAX_BODY, MAX_DATAGRAM, Flag, Op, Reason


@pytest.fixture
def client6() -> Iterator[Client]:
    made = Client(LOOPBACK[6])
    with made.sock:
        yield made


def chain(start: Start, hosts: list[str]):
    """Three linked nodes; the last answers with the request's body."""
    cores = [Core() for _ in hosts]
    transports: list[SocketTransport] = []

    def serve(batch: list[Datagram]) -> None:
        now = int(time.time())
        transports[-1].send([answer(datagram, parse(datagram.data).body, now) for datagram in batch])

    transports += [start(core, [host], print) for core, host in zip(cores[:2], hosts[:2], strict=True)]
    transports.append(start(cores[2], [hosts[2]], serve))
    link(cores, [transport.addresses[0] for transport in transports])
    return cores, transports


# --- The way of a message ----------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [
        ["127.0.0.11", "127.0.0.12", "127.0.0.13"],
        [LOOPBACK[6]] * 3,
    ],
    ids=["IPv4", "IPv6"],
)
def test_three_nodes_forward_a_request_and_the_first_replies(start, hosts):
    cores, transports = chain(start, hosts)
    asked = transports[0].addresses[0]
    client = Client(hosts[0])
    with client.sock:
        for body in (b"hello", bytes(MAX_BODY), b""):
            client.send(request(body=body), asked)
            data, source = client.receive()
            reply = parse(data)
            assert (reply.body, source, reply.header_tag) == (body, asked, 0)
            assert reply.flags & Flag.REPLY
    reasons = [core.counters(1) for core in cores]
    assert [r["ENTERED"] for r in reasons] == [3, 0, 0]
    assert [r["NEXT_HOP"] for r in reasons] == [0, 3, 0]
    assert [r["OWNER"] for r in reasons] == [0, 0, 3]
    assert [r["RELAYED"] for r in reasons] == [3, 0, 0]


def test_a_chain_under_many_requests_at_once_loses_none(start, client):
    _, transports = chain(start, ["127.0.0.11", "127.0.0.12", "127.0.0.13"])
    waiting: set[bytes] = set()
    answered: set[bytes] = set()
    for number in range(2000):
        client.send(request(body=b"%d" % number), transports[0].addresses[0])
        waiting.add(b"%d" % number)
        if len(waiting) - len(answered) >= 100:
            answered.add(parse(client.receive()[0]).body)
    while len(answered) < len(waiting):
        answered.add(parse(client.receive()[0]).body)
    assert answered == waiting
    assert all(transport.status()["send_errors"] == {} for transport in transports)


def test_a_hop_from_ipv4_to_ipv6(start, client):
    core, transport, _ = lonely(start, LOOPBACK[4], LOOPBACK[6])
    other_core, other, got = lonely(start, LOOPBACK[6])
    configure(core, IDS[0], *transport.addresses)
    core.set_bucket(0, [Contact(IDS[1], *other.addresses[0])])
    client.send(request(), transport.addresses[0])
    wait_for(lambda: got)
    assert got[0].source == transport.addresses[1]
    assert parse(got[0].data).client == client.address
    assert other_core.counters()["OWNER"] == 1


def test_datagrams_that_no_socket_can_send_are_counted(start, client):
    core, transport, _ = lonely(start, LOOPBACK[4])
    configure(core, IDS[0], *transport.addresses)
    core.set_bucket(0, [Contact(IDS[1], *Address.of("::1", 9))])
    client.send(request(), transport.addresses[0])
    wait_for(lambda: transport.status()["unroutable"] == 1)
    assert transport.send([Outgoing(b"x", Address.of("::1", 9))]) == 0
    assert transport.status()["unroutable"] == 2


# --- Addresses -----------------------------------------------------------------------------


def test_a_local_datagram_has_both_addresses(start, client):
    _, transport, got = lonely(start)
    message = request(body=b"body", max_reply=700)
    client.send(message, transport.addresses[0])
    wait_for(lambda: got)
    assert got == [Datagram(message, client.address, transport.addresses[0], Reason.OWNER, 700)]


@pytest.mark.parametrize("asked", ["127.0.0.21", "127.0.0.22", "127.255.0.1"])
def test_on_a_wildcard_the_answer_leaves_from_the_address_asked(start, client, asked):
    _, transport, got = lonely(start, ANY[4])
    target = Address.of(asked, transport.addresses[0].port)
    client.send(request(), target)
    wait_for(lambda: got)
    assert got[0].target == target
    assert transport.send([Outgoing(b"answer", client.address, got[0].target)]) == 1
    assert client.receive() == (b"answer", target)


def test_on_an_ipv6_wildcard_the_answer_leaves_from_the_address_asked(start, client6):
    _, transport, got = lonely(start, ANY[6])
    target = Address.of(LOOPBACK[6], transport.addresses[0].port)
    client6.send(request(), target)
    wait_for(lambda: got)
    assert got[0].target == target
    assert transport.send([Outgoing(b"answer", client6.address, got[0].target)]) == 1
    assert client6.receive() == (b"answer", target)


def test_on_a_wildcard_a_relayed_reply_leaves_from_the_address_asked(start, client):
    cores, transports = chain(start, [ANY[4], "127.0.0.12", "127.0.0.13"])
    asked = Address.of("127.0.0.31", transports[0].addresses[0].port)
    configure(cores[0], IDS[0], asked)
    client.send(request(body=b"x"), asked)
    data, source = client.receive()
    assert (parse(data).body, source) == (b"x", asked)


def test_each_of_several_addresses_answers_for_itself(start, client):
    hosts = [f"127.0.0.{n}" for n in range(41, 47)]
    _, transport, got = lonely(start, *hosts)
    for address in transport.addresses:
        got.clear()
        client.send(request(), address)
        wait_for(lambda: got)
        transport.send([Outgoing(b"answer", client.address, got[0].target)])
        assert client.receive() == (b"answer", address)


def test_without_a_source_the_first_socket_of_the_family_sends(start, client, client6):
    _, transport, _ = lonely(start, "127.0.0.51", LOOPBACK[6], "127.0.0.52")
    batch = [Outgoing(b"4", client.address), Outgoing(b"6", client6.address)]
    assert transport.send(iter(batch)) == 2
    assert client.receive() == (b"4", transport.addresses[0])
    assert client6.receive() == (b"6", transport.addresses[1])


def test_a_broadcast_is_ignored(start, client):
    core, transport, got = lonely(start, ANY[4])
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.send(request(), Address.of("127.255.255.255", transport.addresses[0].port))
    wait_for(lambda: transport.status()["not_unicast"] == 1)
    assert (got, sum(core.counters().values())) == ([], 0)


# --- Bad input -------------------------------------------------------------------------------


BAD = {
    "TRUNCATED": request()[:50],
    "BAD_MAGIC": bytes(200),
    "BAD_VERSION": request()[:4] + b"\x63" + request()[5:],
    "TOO_LONG": request(body=bytes(MAX_BODY)) + b"x",
    "BAD_LENGTH": request() + b"x",
    "BAD_OP": request()[:5] + b"\xee" + request()[6:],
    "BAD_FLAGS": request()[:6] + b"\xf0" + request()[7:],
    "FORGED_ORIGIN": request(client=Address.of("192.0.2.1", 53)),
    "BAD_EPOCH": request(flags=Flag.FORWARDED, epoch=9),
    "BAD_TAG": request(flags=Flag.FORWARDED, epoch=1, header_tag=1),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_message_is_counted_by_its_reason_and_dropped(start, client, reason):
    core, transport, got = lonely(start)
    client.send(BAD[reason], transport.addresses[0])
    wait_for(lambda: core.counters(1)[reason] == 1)
    assert (got, transport.status()["sent"]) == ([], 0)


@pytest.mark.parametrize("length", [MAX_DATAGRAM + 1, 1280, 1281, 1500, 9000, 65507])
def test_an_oversize_datagram_is_too_long_whatever_its_length(start, client, length):
    core, transport, _ = lonely(start)
    client.send(request(body=bytes(MAX_BODY)).ljust(length, b"\0"), transport.addresses[0])
    wait_for(lambda: core.counters(1)["TOO_LONG"] == 1)


def test_random_bytes_never_stop_it(start, client):
    core, transport, got = lonely(start)
    chance = random.Random(5348)
    for _ in range(500):
        message = bytearray(request(body=chance.randbytes(chance.randrange(64))))
        for _ in range(chance.randrange(1, 4)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        client.send(message[: chance.randrange(len(message) + 1)], transport.addresses[0])
    client.send(request(op=Op.PUT, body=b"still there"), transport.addresses[0])
    wait_for(lambda: got and parse(got[-1].data).body == b"still there")
    assert sum(core.counters(1).values()) == transport.status()["received"] == 501


@pytest.mark.parametrize(
    ("target", "source", "names"),
    [
        (Address.of("127.0.0.1", 0), None, {"EINVAL"}),
        (Address.of("127.0.0.1", 9), Address.of("192.0.2.1", 9), {"EINVAL", "ENETUNREACH"}),
        (Address.of("127.255.255.255", 9), None, {"EACCES"}),
    ],
    ids=["no port", "a source that is not here", "a broadcast"],
)
def test_send_errors_are_counted_by_kind_and_skipped(start, client, target, source, names):
    _, transport, _ = lonely(start)
    good = Outgoing(b"good", client.address)
    assert transport.send([good, Outgoing(b"bad", target, source), good]) == 2
    assert [client.receive()[0] for _ in range(2)] == [b"good", b"good"]
    ((name, count),) = transport.status()["send_errors"].items()
    assert (name in names, count) == (True, 1)


def test_an_oversize_message_is_not_sent(start, client):
    _, transport, _ = lonely(start)
    assert transport.send([Outgoing(bytes(MAX_DATAGRAM + 1), client.address)]) == 0
    assert transport.send([Outgoing(bytes(MAX_DATAGRAM), client.address)]) == 1
    assert len(client.receive()[0]) == MAX_DATAGRAM
    assert transport.status()["send_errors"] == {"EMSGSIZE": 1}


def test_a_malformed_address_sends_nothing_of_its_batch(start, client):
    _, transport, _ = lonely(start)
    with pytest.raises(ValueError, match="16 bytes"):
        transport.send([Outgoing(b"x", client.address), Outgoing(b"y", Address(b"short", 1))])
    assert transport.send([Outgoing(b"z", client.address)]) == 1
    assert client.receive()[0] == b"z"


def test_datagrams_lost_at_a_full_buffer_are_counted(start, client):
    entered, leave = threading.Event(), threading.Event()

    def block(batch: list[Datagram]) -> None:
        entered.set()
        leave.wait(PATIENCE)

    _, transport, _ = lonely(start, receiver=block, receive_buffer=4096)
    client.send(request(), transport.addresses[0])
    assert entered.wait(PATIENCE)
    for _ in range(200):
        client.send(request(body=bytes(MAX_BODY)), transport.addresses[0])
    leave.set()
    wait_for(lambda: transport.status()["received"] + transport.status()["kernel_drops"] == 201)
    assert transport.status()["kernel_drops"] > 0


# --- Starting and stopping ---------------------------------------------------------------------


def refused(*addresses: Address) -> str:
    with pytest.raises(DatapathError) as caught:
        SocketTransport(Core(), addresses).start(Handlers.without_records(print))
    return str(caught.value)


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_in_use_names_it_and_what_to_do(start, family):
    _, transport, _ = lonely(start, LOOPBACK[family])
    taken = transport.addresses[0]
    text = refused(taken)
    assert f"UDP port {taken.port} is in use" in text
    assert "configure another port" in text


def test_a_failed_start_leaves_nothing_bound(client):
    free = closed_port("127.0.0.71")
    assert "in use" in refused(free, client.address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((free.host, free.port))


def test_an_address_of_another_machine_is_told():
    assert "192.0.2.1 is not an address of this machine" in refused(Address.of("192.0.2.1", 0))
    assert "2001:db8::1 is not an address" in refused(Address.of("2001:db8::1", 0))


def test_a_link_local_address_is_told():
    assert "link-local" in refused(Address.of("fe80::1", 0))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "use a higher port"),
        (errno.EPERM, "security policy"),
        (errno.EAFNOSUPPORT, "leave out the IPv6 addresses"),
        (errno.ENOMEM, "cannot be bound: Cannot allocate memory"),
    ],
)
def test_errors_of_other_machines_are_told_in_one_line(number, words):
    text = _explain(OSError(number, "Cannot allocate memory"), Address.of("::1", 53))
    assert words in text
    assert "::1" in text
    assert "\n" not in text


@pytest.mark.parametrize("count", [0, 9])
def test_the_number_of_addresses_has_bounds(count):
    with pytest.raises(DatapathError, match=f"1 to 8 addresses, not {count}"):
        SocketTransport(Core(), [Address.of(LOOPBACK[4], 0)] * count)


def test_a_lane_has_bounds():
    with pytest.raises(DatapathError, match="lane"):
        SocketTransport(Core(), [Address.of(LOOPBACK[4], 0)], lane=32)


def test_start_and_stop_can_be_repeated_and_the_port_is_free_in_between(client):
    core = Core()
    got: list[Datagram] = []
    fixed = closed_port("127.0.0.73")
    transport = SocketTransport(core, [fixed])
    configure(core, IDS[2], fixed)
    assert transport.status()["why"] == "not started"
    transport.stop()
    for round_number in range(1, 4):
        transport.start(Handlers.without_records(got.extend))
        transport.start(Handlers.without_records(got.extend))
        assert transport.status()["state"] == "up"
        client.send(request(), fixed)
        wait_for(lambda number=round_number: len(got) == number)
        transport.stop()
        transport.stop()
        status = transport.status()
        assert (status["state"], status["why"], status["received"]) == ("down", "stopped", 1)
        assert transport.send([Outgoing(b"x", client.address)]) == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((fixed.host, fixed.port))


def test_the_thread_has_a_name_and_ends_with_stop(start):
    _, transport, _ = lonely(start)
    assert "kdht-socket" in [thread.name for thread in threading.enumerate()]
    transport.stop()
    assert "kdht-socket" not in [thread.name for thread in threading.enumerate()]


class Times:
    """When a transport called `on_time`, and on which thread; `again`: what it is told."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.threads: set[str] = set()
        self.again: list[float | None] = []

    def __call__(self) -> float | None:
        self.threads.add(threading.current_thread().name)
        self.at.append(time.monotonic())
        return self.again.pop(0) if self.again else None


def test_time_passes_on_its_own_thread_without_any_datagram(start):
    times = Times()
    times.again = [0.02, 0.0, None]
    begun = time.monotonic()
    transport = start(Core(), [LOOPBACK[4]], print, time=times)
    wait_for(lambda: len(times.at) == 3)
    assert times.threads == {"kdht-socket"}
    assert times.at[1] - begun >= 0.02
    transport.call_in(3600.0)
    transport.call_in(0.02)  # sooner counts, from any thread
    wait_for(lambda: len(times.at) == 4)
    transport.call_in(1e9)
    transport.stop()
    transport.call_in(0.0)
    assert len(times.at) == 4


def test_time_passes_under_load_and_what_it_raises_is_logged(start, client, caplog):
    def broken() -> float | None:
        times()
        raise ValueError("no time")

    times, core, got = Times(), Core(), []
    transport = start(core, [LOOPBACK[4]], got.extend, time=broken)
    configure(core, IDS[2], transport.addresses[0])
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            client.send(request(), transport.addresses[0])

    sender = threading.Thread(target=flood)
    sender.start()
    try:
        wait_for(lambda: len(got) > 100)
        transport.call_in(0.02)
        wait_for(lambda: len(times.at) == 2)
    finally:
        done.set()
        sender.join()
    assert transport.status()["raised"] == 2
    assert "no time" in caplog.text


def test_stop_under_load_is_clean(client):
    core, got, done = Core(), [], threading.Event()
    fixed = closed_port("127.0.0.74")
    transport = SocketTransport(core, [fixed])
    configure(core, IDS[2], fixed)

    def flood() -> None:
        while not done.is_set():
            client.send(request(), fixed)
            transport.send([Outgoing(b"x", client.address)] * 10)

    senders = [threading.Thread(target=flood) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(5):
            before = len(got)
            transport.start(Handlers.without_records(got.extend))
            wait_for(lambda before=before: len(got) > before)
            transport.stop()
            assert transport.status()["state"] == "down"
    finally:
        done.set()
        for sender in senders:
            sender.join()
        transport.stop()
    # What waited for its turn is gone with each stop, and its client asks again. Nothing is handed up twice.
    assert core.counters(1)["OWNER"] >= len(got)
    last = request()
    transport.start(Handlers.without_records(got.extend))
    try:
        client.send(last, fixed)
        wait_for(lambda: any(datagram.data == last for datagram in got))
    finally:
        transport.stop()


def test_a_receiver_that_raises_loses_its_batch_and_nothing_more(start, client, caplog):
    got: list[Datagram] = []

    def picky(batch: list[Datagram]) -> None:
        if parse(batch[0].data).body == b"bad":
            raise RuntimeError("no such thing")
        got.extend(batch)

    _, transport, _ = lonely(start, receiver=picky)
    with caplog.at_level(logging.ERROR, "kdht.socket"):
        client.send(request(body=b"bad"), transport.addresses[0])
        wait_for(lambda: transport.status()["raised"] == 1)
    client.send(request(body=b"good"), transport.addresses[0])
    wait_for(lambda: got)
    assert "raised: what it was given is lost" in caplog.text
    assert transport.status()["state"] == "up"


def test_a_lost_socket_sets_the_state_to_down(start, client, caplog):
    _, transport, _ = lonely(start, "127.0.0.81", "127.0.0.82")
    transport._sockets[0].close()
    client.send(b"wake up", transport.addresses[1])
    wait_for(lambda: transport.status()["state"] == "down")
    assert "the thread ended" in transport.status()["why"]
    wait_for(lambda: "the socket datapath's thread ended" in caplog.text)
    transport.stop()
    assert "the thread ended" in transport.status()["why"]


def test_kernel_drops_needs_a_socket():
    with pytest.raises(OSError, match="Bad file descriptor"):
        _udp.kernel_drops(-1)
