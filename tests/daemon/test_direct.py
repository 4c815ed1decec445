"""Direct answers: a client that takes them from any node gets them from the one that has them, without the entry node."""

from collections.abc import Iterator

import pytest
from chain import CLUSTER, IDS, configure, link, request
from sockets import LOOPBACK, Client, Start, closed_port, transports

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.wire import Address, Message, make_cookie, parse, seal, verify
from kdht.wire._shared import Flag, Op, Reason, Status

NOW = 1_800_000_000
HERE = [Address.of("192.0.2.1", 5348), Address.of("2001:db8::1", 5348)]
ENTRY = Address.of("192.0.2.3", 5348)
CLIENT = Address.of("198.51.100.9", 4000)
VALUE = b"what the owner has"


def owner(*addresses: Address, **options: object) -> Core:
    core = Core()
    configure(core, IDS[2], *addresses, **options)
    return core


def came(client: Address = CLIENT, flags: Flag = Flag.DIRECT, entry: Address = ENTRY) -> Datagram:
    """A request as it comes to its owner by way of others."""
    message = Message(
        op=Op.GET, key=IDS[2], request_id=77, flags=flags, hops=9, client=client, entry=entry, max_reply=1000
    ).pack()
    seal(message, CLUSTER, NOW)
    return Datagram(bytes(message), ENTRY, HERE[0], Reason.OWNER, 1000)


def answered(core: Core, datagram: Datagram) -> Outgoing:
    return Outgoing(*core.reply(datagram, Status.OK, VALUE, NOW))


@pytest.mark.parametrize("cookies", [False, True])
def test_a_direct_answer_equals_the_relayed_one(cookies):
    entry = owner(ENTRY, cookies=cookies)
    core = owner(*HERE, cookies=cookies)
    sealed = answered(core, came(flags=Flag(0)))
    assert (sealed.target, sealed.source) == (ENTRY, None)
    relayed = bytearray(sealed.data)
    assert entry.decide_message(relayed, HERE[0], ENTRY, NOW).reason is Reason.RELAYED
    direct = answered(core, came())
    assert (direct.target, direct.source, direct.data) == (CLIENT, None, bytes(relayed))
    assert parse(direct.data).cookie == make_cookie(CLUSTER.cookie, CLIENT.ip, NOW)


LOCAL = [Address.of("127.0.0.1", 5348), Address.of("::1", 5348)]


@pytest.mark.parametrize(
    ("own", "client", "direct"),
    [
        (HERE, "198.51.100.9", True),
        (HERE, "2001:db8::9", True),
        (HERE[:1], "2001:db8::9", False),
        (HERE[1:], "198.51.100.9", False),
        (HERE, "169.254.3.4", False),
        (HERE, "fe80::9", False),
        (HERE, "febf::9", False),
        (HERE, "fec0::9", True),
        (HERE, "127.0.0.1", False),
        (HERE, "::1", False),
        (LOCAL, "127.3.2.1", True),
        (LOCAL, "::1", True),
        (LOCAL, "198.51.100.9", False),
    ],
)
def test_a_client_out_of_reach_is_answered_by_the_entry_node(own, client, direct):
    """No address of that IP version, or one that means another host here."""
    out = answered(owner(*own), came(Address.of(client, 4000)))
    assert out.target == (Address.of(client, 4000) if direct else ENTRY)
    if not direct:
        verify(out.data, [CLUSTER], NOW)
        assert parse(out.data).flags == Flag.REPLY | Flag.FORWARDED


def test_a_dead_next_hop_is_reported_directly():
    core = owner(*HERE)
    data, target, source = core.bounce(came().data, NOW)
    assert (target, source, parse(data).status) == (CLIENT, None, Status.UNREACHABLE)
    assert parse(data).flags == Flag.REPLY | Flag.FORWARDED


@pytest.fixture
def start() -> Iterator[Start]:
    with transports() as starting:
        yield starting


@pytest.mark.parametrize("family", [4, 6])
def test_the_answer_comes_from_the_owners_address(start, family):
    cores = [Core() for _ in range(3)]
    served: list[Datagram] = []

    def serve(batch: list[Datagram]) -> None:
        served.extend(batch)
        now = parse(batch[0].data).time
        running[2].send([Outgoing(*cores[2].reply(each, Status.OK, VALUE, now)) for each in batch])

    running = [start(core, [LOOPBACK[family]], serve) for core in cores]
    addresses = [each.addresses[0] for each in running]
    link(cores, addresses)
    client = Client(LOOPBACK[family])
    with client.sock:
        for flags, sender in ((Flag.DIRECT, addresses[2]), (Flag(0), addresses[0])):
            client.send(request(flags=flags), addresses[0])
            data, source = client.receive()
            assert (source, parse(data).body) == (sender, VALUE)
    assert parse(served[0].data).flags == Flag.FORWARDED | Flag.DIRECT


@pytest.mark.parametrize("family", [4, 6])
def test_a_closed_port_is_reported_by_the_node_that_met_it(start, family):
    cores = [Core() for _ in range(3)]
    running = [start(core, [LOOPBACK[family]], print) for core in cores[:2]]
    link(cores, [*(each.addresses[0] for each in running), closed_port(LOOPBACK[family])])
    client = Client(LOOPBACK[family])
    with client.sock:
        client.send(request(flags=Flag.DIRECT), running[0].addresses[0])
        data, source = client.receive()
    assert (parse(data).status, source) == (Status.UNREACHABLE, running[1].addresses[0])
