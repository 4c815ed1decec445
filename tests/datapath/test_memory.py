"""The network in memory: the same run for the same seed, loss, cuts, and messages hop by hop."""

from dataclasses import replace

import pytest
from chain import IDS, answer, configure, link, request

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.memory import START, TICK, Event, MemoryNetwork, MemoryTransport, attach
from kdht.errors import DatapathError
from kdht.wire import Address, parse
from kdht.wire._shared import Flag

NODES = [Address.of(f"10.0.0.{n}", 5348) for n in (1, 2, 3)]
CLIENT = Address.of("10.0.9.9", 40000)
ELSEWHERE = Address.of("10.0.8.8", 40000)


class Chain:
    """Three linked nodes on one network, of which the last answers with the request's body."""

    def __init__(self, **options: object) -> None:
        self.trace: list[Event] = []
        self.net = MemoryNetwork(**{"seed": 1, "observer": self.trace.append, **options})
        self.cores = [Core() for _ in NODES]
        self.got: list[list[Datagram]] = [[], [], []]
        link(self.cores, NODES)
        self.transports = [
            attach(self.net, core, address, received.extend)
            for core, address, received in zip(self.cores, NODES, self.got, strict=True)
        ]
        self.transports[-1].stop()
        self.transports[-1] = attach(self.net, self.cores[-1], NODES[-1], self.serve)
        self.client = self.net.client(CLIENT)

    def serve(self, batch: list[Datagram]) -> None:
        self.got[-1] += batch
        now = int(self.net.now)
        self.transports[-1].send([answer(datagram, parse(datagram.data).body, now) for datagram in batch])

    def ask(self, count: int) -> list[bytes]:
        """The bodies of the replies to `count` requests through the first node."""
        for number in range(count):
            self.client.send(request(body=b"%d" % number), NODES[0])
        self.net.run()
        return [parse(received.data).body for received in self.client.take()]


def test_the_reply_comes_from_the_node_that_was_asked():
    chain = Chain(delay=(0.25, 0.25))
    chain.client.send(request(body=b"hello"), NODES[0])
    chain.net.run()
    (received,) = chain.client.take()
    reply = parse(received.data)
    assert (reply.body, received.source, received.time) == (b"hello", NODES[0], START + 5 * 0.25)
    assert reply.flags & Flag.REPLY
    assert [(event.source, event.target) for event in chain.trace] == [
        (CLIENT, NODES[0]),
        (NODES[0], NODES[1]),
        (NODES[1], NODES[2]),
        (NODES[2], NODES[0]),
        (NODES[0], CLIENT),
    ]
    assert [len(got) for got in chain.got] == [0, 0, 1]
    assert chain.cores[0].counters()["RELAYED"] == 1


def run_of(seed: int) -> list[tuple[float, str, Address, Address]]:
    chain = Chain(seed=seed, loss=0.1, duplicate=0.1, delay=(0.001, 0.1))
    chain.ask(100)
    return [event[:4] for event in chain.trace]


def test_the_same_seed_gives_the_same_trace_and_another_seed_another():
    assert run_of(7) == run_of(7)
    assert run_of(7) != run_of(8)


@pytest.mark.parametrize(("loss", "least", "most"), [(0.0, 200, 200), (1.0, 0, 0), (0.2, 30, 110)])
def test_loss_is_per_leg(loss, least, most):
    chain = Chain(loss=loss)
    assert least <= len(chain.ask(200)) <= most
    counts = chain.net.counts
    assert (counts["lost"] > 0) == (loss > 0)
    assert counts["delivered"] + counts["lost"] == len(chain.trace)


def test_a_duplicate_arrives_twice():
    net = MemoryNetwork(seed=1, duplicate=1.0)
    client, other = net.client(CLIENT), net.client(ELSEWHERE)
    client.send(b"x", ELSEWHERE)
    net.run()
    assert [received.data for received in other.take()] == [b"x", b"x"]


@pytest.mark.parametrize(("delay", "ordered"), [((0.01, 0.01), True), ((0.001, 0.1), False)])
def test_a_range_of_delays_reorders_and_a_fixed_delay_does_not(delay, ordered):
    net = MemoryNetwork(seed=1, delay=delay)
    client, other = net.client(CLIENT), net.client(ELSEWHERE)
    for number in range(100):
        client.send(bytes([number]), ELSEWHERE)
    net.run()
    got = [received.data[0] for received in other.take()]
    assert sorted(got) == list(range(100))
    assert (got == sorted(got)) is ordered


def test_a_partition_cuts_what_crosses_it_until_it_is_healed():
    chain = Chain()
    chain.net.partition(NODES[:1], NODES[1:])
    assert chain.ask(10) == []
    cut = [(event.source, event.target) for event in chain.trace if event.what == "cut"]
    assert cut == [(NODES[0], NODES[1])] * 10
    chain.net.heal()
    assert len(chain.ask(10)) == 10


def test_a_link_has_its_own_loss_in_one_direction():
    chain = Chain()
    chain.net.set_loss(NODES[2], NODES[0], 1.0)
    assert chain.ask(10) == []
    assert (len(chain.got[2]), chain.net.counts["lost"]) == (10, 10)
    chain.net.set_loss(NODES[2], NODES[0], 0.0)
    assert len(chain.ask(10)) == 10


def test_a_stopped_node_is_silent_and_can_return():
    chain = Chain()
    stopped = chain.transports[1]
    stopped.stop()
    stopped.stop()
    assert stopped.status()["state"] == "down"
    assert stopped.send([Outgoing(b"x", CLIENT)]) == 0
    assert chain.ask(10) == []
    assert chain.net.counts["nobody"] == 10
    for _ in range(2):
        stopped.start(Handlers.without_records(chain.got[1].extend))
    assert len(chain.ask(10)) == 10


def test_a_failed_start_binds_no_address():
    net = MemoryNetwork(seed=1)
    core = Core()
    net.client(CLIENT)
    with pytest.raises(DatapathError, match=r"10\.0\.9\.9:40000 is in use"):
        attach(net, core, NODES[0], print, also=[CLIENT])
    net.client(NODES[0])
    client = net.client(ELSEWHERE)
    client.send(b"x", CLIENT)
    net.run()
    assert net.counts["nobody"] == 0


def test_the_usual_source_is_of_the_targets_family():
    net = MemoryNetwork(seed=1)
    six, client6 = Address.of("fd00::1", 5348), Address.of("fd00::9", 40000)
    transport = attach(net, Core(), NODES[0], print, also=[six])
    clients = [net.client(CLIENT), net.client(client6)]
    assert transport.send([Outgoing(b"4", CLIENT), Outgoing(b"6", client6)]) == 2
    net.run()
    assert [client.take()[0].source for client in clients] == [NODES[0], six]


def test_the_answer_leaves_from_the_address_that_was_asked():
    net, core = MemoryNetwork(seed=1), Core()
    configure(core, IDS[2], *NODES)
    got: list[Datagram] = []
    transport = attach(net, core, NODES[0], got.extend, also=NODES[1:])
    client = net.client(CLIENT)
    client.send(request(), NODES[1])
    net.run()
    transport.send([Outgoing(b"answer", got[0].source, got[0].target)])
    net.run()
    assert client.take()[0].source == NODES[1]


def test_a_node_without_a_configuration_loses_what_it_gets():
    net = MemoryNetwork(seed=1)
    got: list[Datagram] = []
    core = Core()
    attach(net, core, NODES[0], got.extend)
    net.client(CLIENT).send(request(), NODES[0])
    net.run()
    assert (got, core.counters()["NOT_READY"]) == ([], 1)


def test_virtual_time_jumps_from_event_to_event():
    net = MemoryNetwork(seed=1, delay=(1.0, 1.0))
    seen: list[float] = []
    net.call_at(START + 3.0, lambda: seen.append(net.now))
    net.call_at(START - 1.0, lambda: seen.append(net.now))
    net.run(START + 2.0)
    assert (net.now, seen) == (START + 2.0, [START])
    assert net.step()
    assert not net.step()
    assert (net.now, seen) == (START + 3.0, [START, START + 3.0])


def test_run_while_ends_with_its_condition_or_at_its_limit():
    net = MemoryNetwork(seed=1, delay=(1.0, 1.0))
    client, other = net.client(CLIENT), net.client(ELSEWHERE)
    client.send(b"x", ELSEWHERE)
    assert not net.run_while(lambda: not other.inbox, limit=0.5)
    assert net.now == START + 0.5
    assert net.run_while(lambda: not other.inbox, limit=5.0)
    assert net.now == START + 1.0


def test_an_alarm_rings_once_and_the_earliest_counts():
    net, rung = MemoryNetwork(seed=1), []
    again = [0.5, None, None]

    def ring() -> float | None:
        rung.append(net.now - START)
        return again.pop(0)

    transport = MemoryTransport(net, Core(), NODES[:1])
    handlers = replace(Handlers.without_records(print), time=ring)
    transport.call_in(0.1)  # not started: nothing happens
    transport.start(handlers)
    for seconds in (3.0, 1.0, 2.0):
        transport.call_in(seconds)
    net.run()
    assert rung == pytest.approx([1.0, 1.5])
    transport.call_in(0.0)
    net.run()
    assert rung[2:] == pytest.approx([3.0 + TICK])
    transport.call_in(1.0)
    transport.stop()
    net.run()
    assert len(rung) == 3
