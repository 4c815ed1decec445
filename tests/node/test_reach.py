"""Nodes with IPv4 only and nodes with IPv6 only, in one cluster through a node that has both."""

from collections.abc import Sequence
from random import Random

import pytest

from kdht.client import _calls as calls
from kdht.client._calls import Call
from kdht.client._exchange import Exchange
from kdht.datapath.memory import MemoryNetwork
from kdht.errors import RequestError
from kdht.lab.virtual import Member, id_of
from kdht.lab.virtual.client import VirtualRequest
from kdht.node.events import Barred, LeftCluster, Ready, Resumes
from kdht.node.options import Options
from kdht.node.replicas import Policy
from kdht.storage import MemoryStore
from kdht.wire import Address, Contact, parse
from kdht.wire._shared import Op

SOON = 40.0
CLIENTS = {True: Address.of("192.0.2.7", 40000), False: Address.of("2001:db8::7", 40000)}


def four(number: int) -> Address:
    return Address.of(f"10.0.0.{number}", 5348)


def six(number: int) -> Address:
    return Address.of(f"fd00::{number:x}", 5348)


class Site:
    """Members by number; which addresses each has is its maker's choice."""

    def __init__(self, loss: float = 0.0) -> None:
        self.network = MemoryNetwork(seed=1, loss=loss)
        self.members: dict[int, Member] = {}
        self._stores: dict[int, MemoryStore] = {}
        self._lives = 0
        self._through: dict[int, Sequence[Address]] = {}
        self._known: dict[int, list[Contact]] = {}

    def add(self, number: int, *addresses: Address, through: Sequence[Address] = ()) -> Member:
        self._lives += 1
        member = Member(
            self.network,
            Contact(id_of(number), *addresses[0]),
            self._lives,
            also=addresses[1] if len(addresses) > 1 else None,
            policy=Policy(),
            store=self._stores.setdefault(number, MemoryStore()),
        )
        self.members[number] = member
        self._through[number] = through
        member.restore(self._known.get(number, []))
        member.node.join(list(through), self.network.now)
        member.flush()
        return member

    def run(self, seconds: float) -> None:
        """Who is to be started anew is, as its daemon would do."""
        end = self.network.now + seconds
        while self.network.now < end:
            self.network.run(min(self.network.now + 0.5, end))
            for number, member in list(self.members.items()):
                if not member.node.reach.aside:
                    self._known[number] = [*member.node.snapshot(), *member.node.census.gone]
                if any(type(event) is Resumes for event in member.seen):
                    self.kill(number)
                    self.add(number, *member.addresses, through=self._through[number])

    def kill(self, number: int) -> None:
        self.members.pop(number).stop()

    def ready(self) -> set[int]:
        return {number for number, member in self.members.items() if member.node.ready}

    def ask(self, number: int, call: Call) -> bytes:
        """The answer's body; raises as a client does."""
        ended: list[Exchange] = []
        address = self.members[number].contact.address
        VirtualRequest(
            self.network,
            CLIENTS[address.is_ipv4],
            [address],
            call,
            lambda exchange, seconds: ended.append(exchange),
            Random(1),
        )
        self.run(6)
        (exchange,) = ended
        return exchange.result().body


def stood_aside(member: Member) -> bool:
    return any(type(event) is LeftCluster for event in member.seen)


def mixed(site: Site) -> None:
    """1 has both versions, 2 and 3 have IPv4 only; all serve."""
    site.add(1, four(1), six(1))
    site.add(2, four(2), through=[four(1)])
    site.add(3, four(3), through=[four(1)])
    site.run(SOON)
    assert site.ready() == {1, 2, 3}


def test_a_single_stack_node_meets_members_through_a_dual_stack_one() -> None:
    """All members have both, and know each other by IPv6."""
    site = Site()
    for number in range(1, 6):
        site.add(number, six(number), four(number), through=[six(1)] if number > 1 else [])
        site.run(2)
    site.run(SOON)
    assert all(not entry.contact.address.is_ipv4 for m in site.members.values() for entry in m.node.table)
    fresh = site.add(9, four(9), through=[four(1)])
    site.run(5)
    assert site.ready() == {1, 2, 3, 4, 5, 9}
    assert len(fresh.node.table) == 5
    assert not any(map(stood_aside, site.members.values()))
    assert fresh.node.reach.unreachable == []


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_newcomer_that_cannot_reach_all_members_stands_aside(loss: float) -> None:
    site = Site(loss)
    mixed(site)
    site.ask(2, calls.put("key", b"before", None))
    stranger = site.add(4, six(4), through=[six(1)])
    site.run(SOON)
    assert site.ready() == {1, 2, 3}
    assert stood_aside(stranger)
    assert not any(type(event) is Ready for event in stranger.seen)
    assert {contact.address for contact in stranger.node.reach.unreachable} == {four(2), four(3)}
    assert "reach" in stranger.node.readiness.missing
    assert not any(stood_aside(site.members[number]) for number in (1, 2, 3))
    assert stranger.contact.id not in {entry.contact.id for entry in site.members[1].node.table}
    for number in (1, 2, 3):
        site.ask(number, calls.put("key", b"from %d" % number, None))
        for reader in (1, 2, 3):
            assert site.ask(reader, calls.get("key")).endswith(b"from %d" % number)
    with pytest.raises(RequestError):
        site.ask(4, calls.put("key", b"lost", None))
    with pytest.raises(RequestError):
        site.ask(4, calls.get("key"))


def test_no_write_is_taken_before_reachability_is_known() -> None:
    """The newcomer is in the table of the one that it can reach, which sends it its share of the writes."""
    site = Site()
    mixed(site)
    stranger = site.add(4, six(4), through=[six(1)])
    assert site.network.run_while(lambda: not any(type(e) is Barred for e in stranger.seen), SOON)
    assert site.network.run_while(lambda: site.members[1].node.table.get(stranger.contact.id) is None, 2.0)
    for number in range(20):
        VirtualRequest(
            site.network, Address.of("192.0.2.7", 41000 + number), [four(1)], calls.put(f"key {number}", b"value", None),
            lambda exchange, seconds: None, Random(number),
        )  # fmt: skip
    assert site.network.run_while(lambda: not stranger.node.reach.aside, SOON)
    assert stranger.records is not None
    assert stranger.store.stats().records == 0


def test_a_node_aside_returns_once_the_unreachable_are_gone() -> None:
    site = Site()
    mixed(site)
    site.add(4, six(4), through=[six(1)])
    site.run(SOON)
    assert stood_aside(site.members[4])
    site.kill(2)
    site.kill(3)
    site.run(120)
    assert site.ready() >= {1, 4}
    site.ask(4, calls.put("key", b"value", None))
    assert site.ask(1, calls.get("key")).endswith(b"value")


def test_old_reports_do_not_keep_a_node_unready() -> None:
    """The one that named the others is gone for good, at once."""
    site = Site()
    mixed(site)
    stranger = site.add(4, six(4), through=[six(1)])
    assert site.network.run_while(lambda: not stranger.node.reach.unreachable, SOON)
    site.kill(1)
    site.run(Options().doubt_expiry + 5)
    assert stranger.node.reach.unreachable == []
    assert "reach" not in stranger.node.readiness.missing


def test_two_clusters_that_meet_do_not_both_serve() -> None:
    site = Site()
    for number in (2, 3):
        site.add(number, four(number), through=[four(2)] if number > 2 else [])
    for number in (12, 13):
        site.add(number, six(number), through=[six(12)] if number > 12 else [])
    site.run(SOON)
    assert site.ready() == {2, 3, 12, 13}
    site.add(1, four(1), six(1), through=[four(2), six(12)])
    # From then on not both: some of one version, or none.
    site.run(Options().member_patience + 15)
    both = 0
    for _ in range(300):
        site.run(1)
        ready = site.ready()
        both += bool(ready & {2, 3}) and bool(ready & {12, 13})
    assert both == 0
    assert site.ready() in ({1, 2, 3}, {1, 12, 13})


def test_the_larger_side_serves_after_a_restart_of_all() -> None:
    site = Site()
    mixed(site)
    site.add(4, six(4), through=[six(1)])
    site.run(SOON)
    for number, addresses in {n: m.addresses for n, m in site.members.items()}.items():
        site.kill(number)
        site.add(number, *addresses, through=[six(1) if number == 4 else four(1)] if number > 1 else [])
    site.run(SOON)
    assert site.ready() == {1, 2, 3}


@pytest.mark.parametrize("seed", range(6))
def test_of_two_equal_sides_that_start_together_one_serves_soon(seed: int) -> None:
    """If both gave way, they would come back together too, and give way again."""
    site = Site()
    first, *others = Random(seed).sample(range(1, 200), 5)
    sides = (set(others[:2]), set(others[2:]))
    site.add(first, four(first), six(first))
    for number in others:
        address = four if number in sides[0] else six
        site.add(number, address(number), through=[address(first)])
    for half_second in range(60):
        site.run(0.5)
        assert not all(site.ready() & side for side in sides)
        if half_second >= 30:
            assert site.ready() in [{first} | side for side in sides]


def test_a_meet_is_passed_on_once() -> None:
    site = Site()
    mixed(site)
    sent: list[Op] = []
    site.network.observer = lambda event: (
        sent.append(parse(event.data).op) if event.what == "delivered" else None
    )
    one, two, three = (site.members[number] for number in (1, 2, 3))
    two.node._notices.meet(three.contact.id, None, one.contact, site.network.now)
    two.flush()
    site.run(1)
    assert sent.count(Op.MEET) == 2
