"""The node's own messages to one target leave as bundles (UDP_SEGMENT), and arrive as they were given."""

import random
import socket
import struct
from collections.abc import Iterator

import pytest
from sockets import LOOPBACK, PATIENCE, Client, lonely

from kdht.datapath.base import Outgoing
from kdht.wire import Address

SOL_UDP, UDP_GRO = 17, 104
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Whole:
    """Receives bundles without cutting them apart."""

    def __init__(self, host: str) -> None:
        self.sock = socket.socket(FAMILIES[6 if ":" in host else 4], socket.SOCK_DGRAM)
        self.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        self.sock.settimeout(PATIENCE)
        self.sock.bind((host, 0))
        self.address = Address.of(*self.sock.getsockname()[:2])

    def receive(self) -> tuple[bytes, int | None]:
        """A bundle, and the length of its datagrams; None: it is a single one."""
        data, control, _, _ = self.sock.recvmsg(1 << 16, 64)
        told = [value for level, kind, value in control if (level, kind) == (SOL_UDP, UDP_GRO)]
        return data, struct.unpack_from("=i", told[0])[0] if told else None


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def host(request) -> str:
    return LOOPBACK[request.param]


@pytest.fixture
def whole(host) -> Iterator[Whole]:
    made = Whole(host)
    with made.sock:
        yield made


def datagrams(sizes) -> list[bytes]:
    return [bytes([number]) * size for number, size in enumerate(sizes)]


def test_datagrams_of_one_length_for_one_target_leave_together(start, host, whole):
    _, transport, _ = lonely(start, host)
    parts = datagrams([200] * 10)
    assert transport.send([Outgoing(part, whole.address) for part in parts]) == 10
    assert whole.receive() == (b"".join(parts), 200)
    assert transport.status()["sent"] == 10


def test_a_shorter_datagram_ends_a_bundle_and_a_longer_one_begins_another(start, host, whole):
    _, transport, _ = lonely(start, host)
    parts = datagrams([200, 200, 100, 200, 300, 300])
    assert transport.send([Outgoing(part, whole.address) for part in parts]) == 6
    assert [whole.receive() for _ in range(3)] == [
        (b"".join(parts[:3]), 200),
        (parts[3], None),
        (b"".join(parts[4:]), 300),
    ]


def test_any_mix_of_targets_and_lengths_arrives_whole_and_in_order(start, host):
    """Seeded random batches, longer than one that the kernel takes."""
    rng = random.Random(host)
    _, transport, _ = lonely(start, host)
    clients = [Client(host) for _ in range(3)]
    for _ in range(30):
        sent: dict[Address, list[bytes]] = {client.address: [] for client in clients}
        batch = []
        for number in range(rng.randint(1, 150)):
            data = number.to_bytes(2) * rng.choice([20, 20, 20, 50, 600, 616])
            target = rng.choice(clients).address
            source = rng.choice([None, transport.addresses[0]])
            sent[target].append(data)
            batch.append(Outgoing(data, target, source))
        assert transport.send(batch) == len(batch)
        for client in clients:
            assert [client.receive()[0] for _ in sent[client.address]] == sent[client.address]
    for client in clients:
        client.sock.close()
    assert transport.status()["send_errors"] == {}


def test_answers_from_different_own_addresses_are_no_bundle(start):
    _, transport, _ = lonely(start, "0.0.0.0")
    client = Client(LOOPBACK[4])
    port = transport.addresses[0].port
    sources = [Address.of(f"127.0.0.{2 + number % 2}", port) for number in range(6)]
    with client.sock:
        parts = datagrams([100] * 6)
        batch = [Outgoing(part, client.address, source) for part, source in zip(parts, sources, strict=True)]
        assert transport.send(batch) == 6
        got = [client.receive() for _ in range(6)]
    assert sorted(got) == sorted(zip(parts, sources, strict=True))


@pytest.mark.root
def test_what_the_path_cannot_take_as_a_bundle_is_sent_apart(start, lab):
    """A datagram that is longer than the MTU may be cut into fragments, but in no bundle."""
    host = lab.host("n1")
    host.run(["ip", "link", "set", "lo", "mtu", "600"])
    with host.enter():
        _, transport, _ = lonely(start)
        made = Whole(LOOPBACK[4])
    with made.sock:
        long, short = datagrams([1000] * 5), datagrams([200] * 3)
        assert transport.send([Outgoing(part, made.address) for part in long]) == 5
        assert [made.receive() for _ in long] == [(part, None) for part in long]
        # It is not tried again and again.
        assert transport.send([Outgoing(part, made.address) for part in short]) == 3
        assert [made.receive() for _ in short] == [(part, None) for part in short]
    assert transport.status()["send_errors"] == {}
    assert transport.status()["sent"] == 8
