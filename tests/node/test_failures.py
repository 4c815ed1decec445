"""How a cluster finds out who died, how fast, at what cost, and what liars can do: on a network in memory."""

from collections.abc import Iterable

import pytest
from nodes import KEY, SOON, Cluster, Member, contact_of

from kdht.datapath.memory import Event as NetworkEvent
from kdht.datapath.memory import MemoryClient
from kdht.node.events import ContactRemoved
from kdht.node.options import Options
from kdht.wire import OFFSET, Address, Contact, Message, parse, seal
from kdht.wire._shared import Op

pytestmark = pytest.mark.slow

NODES = 32
DETECTED = 2.0
"""Virtual seconds after which no node of a small cluster routes to a dead one."""
IDLE_PACKETS = 10.0
"""Sent and received together, per second and node."""


def make_cluster(count: int, *, seed: int = 1, loss: float = 0.0, options: Options | None = None) -> Cluster:
    """A cluster that has come to rest."""
    cluster = Cluster(seed, loss=loss, options=options)
    cluster.grow(count)
    cluster.run(SOON)
    cluster.sent.clear()
    return cluster


def who_publish(cluster: Cluster, contacts: Iterable[Contact]) -> list[Contact]:
    gone = set(contacts)
    return [member.contact for member in cluster.members if gone & set(member.published())]


def who_know(cluster: Cluster, contacts: Iterable[Contact]) -> list[Contact]:
    gone = set(contacts)
    return [member.contact for member in cluster.members if gone & set(member.node.snapshot())]


def removed(cluster: Cluster) -> list[ContactRemoved]:
    return [event for member in cluster.members for event in member.seen if isinstance(event, ContactRemoved)]


def in_ring(cluster: Cluster) -> list[Member]:
    return sorted(cluster.members, key=lambda member: member.contact.id)


# --- Silence ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eight_simultaneous_deaths_leave_all_tables_within_2_seconds(seed: int) -> None:
    cluster = make_cluster(NODES, seed=seed)
    dead = cluster.members[3::4]
    for member in dead:
        cluster.kill(member)
    cluster.run(DETECTED)
    assert who_publish(cluster, (member.contact for member in dead)) == []
    cluster.run(0.5)
    assert who_know(cluster, (member.contact for member in dead)) == []
    assert cluster.astray(20) == []
    assert {event.contact for event in removed(cluster)} == {member.contact for member in dead}


def test_eight_neighbours_in_the_ring_leave_all_tables_as_fast() -> None:
    """Only one living node watches any of them: it must find all the others after the first."""
    cluster = make_cluster(NODES)
    dead = in_ring(cluster)[5:13]
    for member in dead:
        cluster.kill(member)
    cluster.run(DETECTED)
    assert who_publish(cluster, (member.contact for member in dead)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_single_death_leaves_all_tables_within_2_seconds(seed: int) -> None:
    cluster = make_cluster(NODES, seed=seed)
    dead = cluster.members[seed * 5]
    died = cluster.network.now
    cluster.kill(dead)
    times = []
    for known in (who_publish, who_know):
        assert cluster.network.run_while(lambda known=known: bool(known(cluster, [dead.contact])), 3)  # type: ignore[misc]
        times.append(cluster.network.now - died)
    print(f"out of all published buckets after {times[0]:.2f} s, of all tables after {times[1]:.2f} s")
    assert times[0] < DETECTED
    assert times[1] < DETECTED + 0.5


def test_in_a_cluster_of_two_each_notices_the_others_death() -> None:
    cluster = make_cluster(2)
    dead = cluster.members[1]
    cluster.kill(dead)
    cluster.run(DETECTED)
    assert who_know(cluster, [dead.contact]) == []


def test_lost_messages_do_not_hide_a_death() -> None:
    cluster = make_cluster(NODES, loss=0.05)
    dead = cluster.members[7]
    cluster.kill(dead)
    cluster.run(2 * DETECTED)
    assert who_publish(cluster, [dead.contact]) == []


@pytest.mark.parametrize(
    ("nodes", "minutes"), [(8, 20), pytest.param(NODES, 60, marks=pytest.mark.slow)], ids=["8", "32"]
)
def test_a_lossy_network_removes_no_living_node(nodes: int, minutes: int) -> None:
    """Eight answers in a row are missed by chance once in 10^8 probes, at 5 % loss in each direction."""
    cluster = make_cluster(nodes, loss=0.05)
    cluster.run(minutes * 60)
    assert removed(cluster) == []
    assert sum(member.node.counters["timeouts"] for member in cluster.members) > 100


def test_an_idle_node_sends_and_receives_little() -> None:
    cluster = make_cluster(NODES)
    minutes = 5
    cluster.run(minutes * 60)
    # Whatever one sends another receives, so a node's mean is twice what it sends.
    rate = 2 * sum(cluster.sent.values()) / NODES / (minutes * 60)
    print(f"{rate:.2f} packets per second and node, sent and received, at N = {NODES}")
    assert rate < IDLE_PACKETS
    assert 2 * max(cluster.sent.values()) / (minutes * 60) < 1.2 * IDLE_PACKETS


def test_a_stalled_host_is_back_soon() -> None:
    cluster = make_cluster(NODES)
    stalled = cluster.members[4]
    others = [member.contact.address for member in cluster.members if member is not stalled]
    cluster.network.partition([stalled.contact.address], others)
    cluster.run(3)
    cluster.network.heal()
    cluster.run(10)
    assert cluster.astray(20) == []
    assert len(who_know(cluster, [stalled.contact])) == NODES - 1


# --- ICMP ------------------------------------------------------------------------------


def test_icmp_removes_a_dead_process_at_once() -> None:
    cluster = make_cluster(8)
    one, other = cluster.members[2:4]
    other.transport.stop()
    one.node.unreachable(other.contact.address, cluster.network.now)
    one.flush()
    assert other.contact not in one.published()
    assert other.contact in one.node.snapshot()
    cluster.run(0.3)
    assert other.contact not in one.node.snapshot()


def test_forged_icmp_costs_one_round_trip_in_5_seconds() -> None:
    cluster = make_cluster(8)
    one, other = cluster.members[2:4]

    def forge() -> None:
        one.node.unreachable(other.contact.address, cluster.network.now)
        one.flush()

    forge()
    assert other.contact not in one.published()
    cluster.run(0.03)
    assert other.contact in one.published()
    for _ in range(46):
        forge()
        assert other.contact in one.published()
        cluster.run(0.1)
    cluster.run(0.5)
    forge()
    assert other.contact not in one.published()
    cluster.run(0.03)
    assert other.contact in one.published()
    assert removed(cluster) == []


def test_icmp_news_is_passed_on_within_its_time() -> None:
    """All who use the closed port find out at once; their gossip is not to come all at once, too."""
    cluster = make_cluster(16)
    dead, *users = cluster.members[3:9]
    began = cluster.network.now
    told: list[float] = []

    def note(event: NetworkEvent) -> None:
        if event.data[OFFSET["op"]] == Op.SUSPECT:
            told.append(event.time - began)

    cluster.network.observer = note
    cluster.kill(dead)
    for user in users:
        user.node.unreachable(dead.contact.address, began)
        user.flush()
    cluster.run(2)
    assert who_know(cluster, [dead.contact]) == []
    spread = Options().unhurried
    assert sum(when < spread / 3 for when in told) < 0.6 * len(told)
    assert max(told) > spread / 2


def suspects_of_a_closed_port(seed: int, options: Options) -> tuple[int, list[Contact]]:
    """How many SUSPECTs there are when all of 16 meet one node's closed port, and who knows it still."""
    cluster = make_cluster(16, seed=seed, options=options)
    dead, *users = cluster.members[3:]
    told = 0

    def count(event: NetworkEvent) -> None:
        nonlocal told
        told += event.data[OFFSET["op"]] == Op.SUSPECT

    cluster.network.observer = count
    cluster.kill(dead)
    for user in users:
        user.node.unreachable(dead.contact.address, cluster.network.now)
        user.flush()
    cluster.run(2)
    return told, who_know(cluster, [dead.contact])


def test_enough_suspects_of_a_closed_port_silence_further_ones() -> None:
    all_some = all_many = 0
    for seed in range(1, 7):
        some, still = suspects_of_a_closed_port(seed, Options())
        many, _ = suspects_of_a_closed_port(seed, Options(told_enough=1000))
        assert still == []
        assert 15 <= some <= many
        all_some, all_many = all_some + some, all_many + many
    print(f"{all_some} SUSPECTs, {all_many} without")
    assert all_some < 0.9 * all_many


def test_icmp_about_a_stranger_is_ignored() -> None:
    cluster = make_cluster(2)
    one = cluster.members[0]
    before = one.node.counters["requests_sent"]
    one.node.unreachable(contact_of(999).address, cluster.network.now)
    assert one.node.counters["requests_sent"] == before


def test_a_missed_answer_of_any_part_leads_to_a_ping() -> None:
    cluster = make_cluster(8)
    one, other = cluster.members[2:4]
    cluster.run(0.2)
    before = one.node.counters["requests_sent"]
    one.node.silent(other.contact.address, cluster.network.now)
    one.node.silent(contact_of(999).address, cluster.network.now)
    one.flush()
    assert one.node.counters["requests_sent"] - before <= 1
    assert other.contact in one.published()
    other.transport.stop()
    one.node.silent(other.contact.address, cluster.network.now + 0.2)
    one.flush()
    cluster.run(1)
    assert other.contact not in one.node.snapshot()


# --- What others say -------------------------------------------------------------------


def watched(cluster: Cluster, member: Member) -> list[NetworkEvent]:
    """What the member sends from now on."""
    seen: list[NetworkEvent] = []

    def observe(event: NetworkEvent) -> None:
        if event.source == member.contact.address:
            seen.append(event)

    cluster.network.observer = observe
    return seen


def test_a_false_suspect_message_costs_only_a_ping() -> None:
    cluster = make_cluster(8)
    liar, victim, *others = cluster.members
    tables = [set(member.published()) for member in others]
    sent = watched(cluster, others[0])
    for _ in range(100):
        liar.node._notices.suspect(victim.contact, [others[0].contact], cluster.network.now)
        liar.flush()
        cluster.run(0.02)
        assert [set(member.published()) for member in others] == tables
    pings = [event for event in sent if event.target == victim.contact.address]
    assert len(pings) <= 2 / Options().just_answered + 10, "not more often than it has just answered"
    assert all(parse(event.data).op in (Op.PING, Op.FIND_NODE) for event in pings)
    assert not any(parse(event.data).op is Op.SUSPECT for event in sent), "it is not passed on"


def test_a_suspect_message_about_a_stranger_is_only_counted() -> None:
    cluster = make_cluster(4)
    liar, other = cluster.members[:2]
    for contact in (contact_of(999), liar.contact._replace(port=7), other.contact):
        liar.node._notices.suspect(contact, [other.contact], cluster.network.now)
    liar.flush()
    cluster.run(0.02)
    assert other.node.counters["suspect_unknown"] == 3


def test_a_leaving_node_is_removed_at_once() -> None:
    cluster = make_cluster(NODES)
    leaving = cluster.members[9]
    leaving.node.leave(cluster.network.now)
    leaving.flush()
    cluster.run(0.05)
    assert who_know(cluster, [leaving.contact]) == []
    assert not leaving.node.ready
    sent = watched(cluster, leaving)
    cluster.run(SOON)
    assert sent == [], "it asks nobody and answers nobody"
    assert who_know(cluster, [leaving.contact]) == []
    others = [member for member in cluster.members if member is not leaving]
    assert {event.contact for event in removed(cluster)} == {leaving.contact}
    assert all(member.node.counters["left"] == 1 for member in others)


def test_a_node_that_left_may_come_back() -> None:
    cluster = make_cluster(8)
    gone = cluster.members[5]
    gone.node.leave(cluster.network.now)
    gone.flush()
    cluster.run(0.05)
    cluster.kill(gone)
    cluster.add(6)
    cluster.run(5)
    assert len(who_know(cluster, [gone.contact])) == 7
    assert cluster.astray(20) == []


def test_a_leave_must_come_from_the_contact_itself() -> None:
    cluster = make_cluster(4)
    liar, victim, other = cluster.members[:3]

    def lie(source: Address) -> None:
        id = victim.contact.id
        message = Message(op=Op.LEAVE, key=id, request_id=1, hops=1, body=id, client=source)
        data = message.pack()
        seal(data, KEY, int(cluster.network.now))
        cluster.network.carry(bytes(data), source, other.contact.address)
        cluster.run(0.02)

    lie(liar.contact.address)
    assert other.node.counters["wrong_id"] == 1
    assert other.node.counters["left"] == 0
    lie(contact_of(999).address)
    assert {victim.contact, liar.contact} <= set(other.published())


def test_a_replayed_leave_costs_only_a_ping() -> None:
    cluster = make_cluster(4)
    gone, other = cluster.members[2:]
    said: list[NetworkEvent] = []
    cluster.network.observer = lambda event: (
        said.append(event) if event.target == other.contact.address else None
    )
    gone.node.leave(cluster.network.now)
    gone.flush()
    cluster.run(0.05)
    (leave,) = (event for event in said if parse(event.data).op is Op.LEAVE)
    cluster.kill(gone)
    cluster.run(2)
    cluster.add(3, id=gone.contact.id)
    cluster.run(5)
    assert gone.contact in other.published()
    cluster.network.carry(leave.data, leave.source, leave.target)
    cluster.run(0.02)
    assert other.node.counters["left_stale"] == 1
    assert gone.contact in other.published()


def test_messages_without_a_valid_tag_have_no_effect() -> None:
    cluster = make_cluster(2)
    one, other = cluster.members
    stranger: MemoryClient = cluster.network.client(contact_of(77).address)
    outbox = one.node._outbox
    outbox.notice(Op.LEAVE, one.contact.id, b"", other.contact.address, cluster.network.now)
    (sealed,) = outbox.take()
    forged = bytearray(sealed.data)
    forged[-1] ^= 1
    cluster.network.carry(bytes(forged), one.contact.address, other.contact.address)
    stranger.send(sealed.data, other.contact.address)
    cluster.run(0.02)
    assert one.contact in other.published()
    assert other.node.counters["left"] == 0
    assert other.node.counters["wrong_client"] == 1
