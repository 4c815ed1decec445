"""What a node makes of messages that are forged, malformed or too many: counts them, and no more."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from nodes import KEY, Member, contact_of, id_of

from kdht.datapath.base import Datagram, Outgoing
from kdht.datapath.memory import START, MemoryNetwork
from kdht.node.events import LookupDone
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.node.search import MAX_WAITING
from kdht.wire import Address, Contact, Message, pack_contacts, parse, seal, verify
from kdht.wire._shared import MAX_BODY, Flag, K, Op, Reason
from kdht.wire.keys import derive

ME = contact_of(1)
OTHER = contact_of(2)
LIAR = contact_of(3)


class Lone:
    """One node whose network is the test itself."""

    def __init__(self, options: Options | None = None, own: tuple[Address, ...] = ()) -> None:
        self.now = START
        self.published: set[Contact] = set()
        self.buckets: dict[int, list[Contact]] = {}
        self.node = Node(ME, [KEY], self._publish, Random(5), options, own)
        self.node.join([], self.now)

    def _publish(self, index: int, contacts: list[Contact]) -> None:
        self.buckets[index] = contacts
        self.published = {contact for each in self.buckets.values() for contact in each}

    def receive(self, message: Message, source: Address, target: Address = ME.address) -> list[Outgoing]:
        """Hand it a message whose tags were checked; what it sends."""
        data = message.pack()
        seal(data, KEY, int(self.now))
        return self.receive_bytes(bytes(data), source, target)

    def receive_bytes(self, data: bytes, source: Address, target: Address = ME.address) -> list[Outgoing]:
        self.node.receive(Datagram(data, source, target, Reason.CONTROL, 0), self.now)
        return self.node.datagrams_to_send()

    def advance(self, seconds: float) -> list[Outgoing]:
        """Let time pass, tick by tick; what it sends."""
        end = self.now + seconds
        while (wake := self.node.next_wake()) is not None and wake <= end:
            self.now = max(self.now, wake)
            self.node.tick(self.now)
        self.now = end
        return self.node.datagrams_to_send()


def request(sender: Contact, op: Op = Op.PING, key: bytes = ME.id, request_id: int = 77) -> Message:
    return Message(op=op, key=key, request_id=request_id, hops=1, body=sender.id, client=sender.address)


def reply_to(sent: Outgoing, sender: Contact, named: tuple[Contact, ...] = ()) -> Message:
    """The right answer of `sender`."""
    asked = parse(sent.data)
    body = sender.id + pack_contacts(named)
    return replace(asked, flags=Flag.REPLY, body=body, client=sender.address)


def pinged(lone: Lone) -> Outgoing:
    """OTHER wrote, and the node, having answered, wants to know who that is."""
    _answer, ping = lone.receive(request(OTHER), OTHER.address)
    return ping


def test_a_stranger_enters_the_table_after_it_answered_a_ping() -> None:
    lone = Lone()
    answer, ping = lone.receive(request(OTHER), OTHER.address)
    message = parse(answer.data)
    verify(answer.data, [KEY], int(lone.now))
    assert (answer.target, answer.source) == (OTHER.address, ME.address)
    assert (message.op, message.request_id, message.flags) == (Op.PING, 77, Flag.REPLY | Flag.FORWARDED)
    assert (message.body, message.client) == (ME.id, ME.address)
    question = parse(ping.data)
    assert (question.op, question.key, question.body) == (Op.PING, OTHER.id, ME.id)
    assert lone.published == set()
    lone.receive(reply_to(ping, OTHER), OTHER.address)
    assert lone.published == {OTHER}


Forgery = Callable[[Message], tuple[Message, Address]]

FORGERIES: dict[str, Forgery] = {
    "unmatched": lambda m: (replace(m, request_id=m.request_id ^ 1), OTHER.address),
    "wrong_address": lambda m: (replace(m, client=LIAR.address), LIAR.address),
    "wrong_client": lambda m: (m, LIAR.address),
    "wrong_id": lambda m: (replace(m, body=LIAR.id), OTHER.address),
    "own_id": lambda m: (replace(m, body=ME.id), OTHER.address),
    "TRUNCATED": lambda m: (replace(m, body=m.body[:19]), OTHER.address),
    "FORGED_ORIGIN": lambda m: (replace(m, body=bytes(20)), OTHER.address),
}


@pytest.mark.parametrize("counter", FORGERIES)
def test_forged_replies_change_nothing(counter: str) -> None:
    lone = Lone()
    ping = pinged(lone)
    lone.receive(*FORGERIES[counter](reply_to(ping, OTHER)))
    assert lone.node.counters[counter] == 1
    assert lone.published == set()
    assert lone.node.counters["replies"] == 0
    lone.receive(reply_to(ping, OTHER), OTHER.address)
    assert lone.published == {OTHER}, "the right one still counts"


@pytest.mark.parametrize(
    "wrong",
    [{"op": Op.FIND_NODE}, {"key": bytes(20)}, {"attempt": 1}],
    ids=["operation", "key", "number of the transmission"],
)
def test_replies_to_another_question_change_nothing(wrong: dict[str, object]) -> None:
    lone = Lone()
    reply = reply_to(pinged(lone), OTHER)
    lone.receive(replace(reply, **wrong), OTHER.address)  # type: ignore[arg-type]
    assert lone.node.counters["unmatched"] == 1
    assert lone.published == set()


def test_a_reply_counts_once_and_in_time_only() -> None:
    lone = Lone()
    ping = pinged(lone)
    lone.advance(60)
    lone.receive(reply_to(ping, OTHER), OTHER.address)
    assert lone.published == set()
    ping = pinged(lone)
    for _ in range(2):
        lone.receive(reply_to(ping, OTHER), OTHER.address)
    assert lone.node.counters["replies"] == 1
    assert lone.node.counters["unmatched"] == 2


def test_a_round_trip_is_measured_from_the_answered_transmission() -> None:
    lone = Lone()
    first = pinged(lone)
    (second,) = lone.advance(1.0)
    assert parse(second.data).request_id == parse(first.data).request_id
    lone.now += 0.25
    lone.receive(reply_to(second, OTHER), OTHER.address)
    (entry,) = lone.node.table
    assert entry.rtt == pytest.approx(0.25, abs=1e-6)


def sealed(message: Message, key: bytes = b"") -> bytes:
    data = message.pack()
    seal(data, derive(KEY.epoch, key) if key else KEY, int(START))
    return bytes(data)


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("BAD_FLAGS", lambda m: bytes(m.pack())),
        ("BAD_TAG", lambda m: sealed(m, b"the secret of another cluster")),
        ("BAD_TAG", lambda m: sealed(m)[:-21] + b"\1" + sealed(m)[-20:]),
        ("BAD_BODY_TAG", lambda m: sealed(m)[:-1] + b"\1"),
    ],
    ids=["not sealed", "another cluster's", "header changed", "body changed"],
)
def test_unsealed_messages_do_not_reach_the_node(reason: str, forge: Callable[[Message], bytes]) -> None:
    network = MemoryNetwork(seed=1)
    member = Member(network, ME, seed=1)
    stranger = network.client(OTHER.address)
    stranger.send(forge(request(OTHER)), ME.address)
    network.run()
    assert member.core.counters()[reason] == 1
    assert not +member.node.counters
    assert stranger.take() == []


def test_misdirected_messages_are_counted() -> None:
    lone = Lone()
    routed = replace(request(OTHER), op=Op.GET)
    assert lone.receive(routed, OTHER.address) == []
    assert lone.receive(request(OTHER), OTHER.address, target=Address.of("10.9.9.9", 5348)) == []
    assert lone.receive_bytes(b"no message", OTHER.address) == []
    assert {name for name, count in lone.node.counters.items() if count} == {
        "not_control",
        "not_own_address",
        "BAD_MAGIC",
    }


@pytest.mark.parametrize("op", [Op.PING, Op.FIND_NODE, Op.SUSPECT, Op.LEAVE, Op.FORGET, Op.MEET])
@pytest.mark.parametrize("flags", [Flag(0), Flag.REPLY])
def test_malformed_bodies_are_only_counted(op: Op, flags: Flag) -> None:
    rng = Random(3)
    lone = Lone(Options(request_rate=1e6, reply_rate=1e6))
    for length in [*range(120), *rng.sample(range(120, MAX_BODY + 1), 200), MAX_BODY]:
        message = replace(request(OTHER, op), flags=flags, body=rng.randbytes(length))
        for out in lone.receive(message, OTHER.address):
            asked = replace(message, flags=Flag.REPLY, request_id=parse(out.data).request_id)
            lone.receive(asked, OTHER.address)
    assert lone.published == set()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (OTHER.id + bytes(37), "BAD_LENGTH"),
        (OTHER.id + pack_contacts(contact_of(n) for n in range(K + 1)), "TOO_LONG"),
    ],
)
def test_malformed_contact_lists_are_only_counted(body: bytes, reason: str) -> None:
    lone = Lone()
    lookup = searching(lone)
    lone.receive(replace(reply_to(lookup, OTHER), body=body), OTHER.address)
    assert lone.node.counters[reason] == 1
    assert lone.advance(0) == []


def searching(lone: Lone) -> Outgoing:
    """A FIND_NODE to OTHER, the only contact."""
    lone.receive(reply_to(pinged(lone), OTHER), OTHER.address)
    lone.node.lookup(id_of(50), lone.now)
    (query,) = (out for out in lone.node.datagrams_to_send() if parse(out.data).key == id_of(50))
    return query


def test_impossible_contacts_are_neither_asked_nor_published() -> None:
    lone = Lone()
    query = searching(lone)
    hosts = ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1"]
    bad = [Contact(id_of(n), *Address.of(host, 5348)) for n, host in enumerate(hosts, 100)]
    bad += [contact_of(99)._replace(port=0), Contact(id_of(98), *ME.address)]
    bad += [contact_of(97)._replace(id=ME.id), contact_of(96)._replace(id=bytes(20))]
    assert lone.receive(reply_to(query, OTHER, tuple(bad)), OTHER.address) == []
    assert lone.node.counters["unusable_contact"] == len(bad)
    assert lone.published == {OTHER}


def test_a_contact_of_the_other_ip_version_is_never_published() -> None:
    lone = Lone()
    query = searching(lone)
    six = Contact(id_of(100), *Address.of("2001:db8::1", 5348))
    sent = lone.receive(reply_to(query, OTHER, (six,)), OTHER.address)
    assert [(parse(out.data).op, parse(out.data).key, out.target) for out in sent] == [
        (Op.FIND_NODE, six.id, OTHER.address),
        (Op.MEET, six.id, OTHER.address),
    ]
    assert lone.node.counters["other_version"] == 1
    assert lone.node.reach.unreachable == [six]
    assert lone.published == {OTHER}


def test_named_contacts_are_published_after_they_answered() -> None:
    lone = Lone()
    victim = contact_of(9)
    sent = lone.receive(reply_to(searching(lone), OTHER, (victim,)), OTHER.address)
    assert {out.target for out in sent} == {victim.address}
    lone.advance(30)
    assert victim not in lone.published


def test_an_address_with_many_ids_gets_one_place() -> None:
    lone = Lone()
    for number in range(100, 150):
        sender = Contact(id_of(number), *OTHER.address)
        for ping in lone.receive(request(sender), OTHER.address)[1:]:
            asked = Contact(parse(ping.data).key, *OTHER.address)
            lone.receive(reply_to(ping, asked), OTHER.address)
    assert len(lone.published) == 1
    assert len(lone.node.table) == 1


def test_a_flood_of_strangers_is_bounded_in_queue_and_rate() -> None:
    options = Options(max_verifying=50, request_rate=10.0, reply_rate=20.0)
    lone = Lone(options)
    sent = [
        out
        for number in range(1000, 2000)
        for out in lone.receive(request(contact_of(number)), contact_of(number).address)
    ]
    replies = sum(1 for out in sent if parse(out.data).flags & Flag.REPLY)
    assert replies == 20
    assert len(sent) - replies <= options.parallel_verifying
    assert lone.node.counters["reply_rate"] == 980
    assert lone.node.counters["verifying_full"] == 950
    assert lone.node.status(lone.now)["verifying"] == 50
    seconds = 20
    assert len(lone.advance(seconds)) <= seconds * 10 + 10
    assert lone.published == set()


def test_requests_beyond_the_rate_wait_and_are_not_lost() -> None:
    lone = Lone(
        Options(
            request_rate=2.0, first_timeout=60.0, max_timeout=60.0, max_verifying=10, parallel_verifying=10
        )
    )
    for number in range(10, 20):
        lone.receive(request(contact_of(number)), contact_of(number).address)
    assert lone.node.counters["requests_sent"] == 2
    assert len(lone.advance(2.0)) == 4
    assert len(lone.advance(10.0)) == 4


def test_too_many_requests_under_way_are_refused() -> None:
    lone = Lone(Options(max_pending=3, parallel_verifying=8))
    for number in range(10, 20):
        lone.receive(request(contact_of(number)), contact_of(number).address)
    assert lone.node.status(lone.now)["pending"] == 3
    assert lone.node.counters["pending_full"] > 0
    for _ in range(20):
        lone.advance(3.0)
    assert lone.node.status(lone.now)["pending"] == 0, "those that waited had their turn"
    assert lone.node.status(lone.now)["verifying"] == 0


def test_lookups_end_even_when_requests_are_refused() -> None:
    lone = Lone(Options(max_pending=1))
    lone.receive(reply_to(pinged(lone), OTHER), OTHER.address)
    accepted = sum(lone.node.lookup(id_of(number), lone.now) for number in range(400))
    assert lone.node.counters["lookups_full"] == 400 - accepted
    lone.advance(60)
    assert sum(isinstance(event, LookupDone) for event in lone.node.events()) == accepted


def test_newcomers_wait_while_other_requests_are_under_way() -> None:
    lone = Lone(Options(max_pending=1, probe_interval=1e6, discovery_interval=1e6))
    query = searching(lone)
    stranger = contact_of(9)
    assert len(lone.receive(request(stranger), stranger.address)) == 1, "an answer, and no ping"
    lone.receive(reply_to(query, OTHER), OTHER.address)
    ping, *_again = lone.advance(2)
    assert ping.target == stranger.address


def test_a_full_bucket_asks_its_oldest_contact_before_it_takes_a_newcomer() -> None:
    old, new = in_same_bucket(2)
    options = Options(k=1, replicas=1, quiet=60.0, probe_interval=1e6, discovery_interval=1e6)
    lone = Lone(options)
    enter(lone, old)
    assert len(lone.receive(request(new), new.address)) == 1, "the old one was heard just now"
    lone.now += 61
    _answer, ping = lone.receive(request(new), new.address)
    assert ping.target == old.address
    lone.receive(reply_to(ping, old), old.address)
    lone.advance(30)
    assert lone.published == {old}
    lone.now += 61
    lone.receive(request(new), new.address)
    sent = lone.advance(30)
    assert lone.published == set()
    assert [out.target for out in sent if out.target != old.address][:1] == [new.address]


def test_a_removed_contact_is_replaced_by_a_waiting_one() -> None:
    old, new = in_same_bucket(2)
    lone = Lone(Options(k=1, replicas=1, quiet=0.0, probe_interval=1e6, discovery_interval=1e6))
    enter(lone, old)
    lone.receive(request(new), new.address)
    while not (pings := [out for out in lone.advance(0.1) if out.target == new.address]):
        assert lone.now < START + 60
    lone.receive(reply_to(pings[0], new), new.address)
    assert lone.published == {new}


def test_a_dead_replacement_is_followed_by_the_next() -> None:
    old, first, last = in_same_bucket(3)
    lone = Lone(Options(k=1, replicas=1, quiet=0.0, probe_interval=1e6, discovery_interval=1e6))
    enter(lone, old)
    for contact in (first, last):
        lone.receive(request(contact), contact.address)
    targets = [out.target for out in lone.advance(30)]
    assert targets.index(last.address) < targets.index(first.address)


def test_a_removed_contact_is_not_asked_again_soon() -> None:
    dead, witness = in_same_bucket(2)
    lone = Lone(Options(probe_interval=1e6, discovery_interval=1e6))
    enter(lone, dead)
    lone.node.unreachable(dead.address, lone.now + 1)
    lone.advance(20)
    assert lone.published == set()
    enter(lone, witness)

    assert names(lone, witness, dead) == []
    lone.now += Options().refusal_time
    assert names(lone, witness, dead) == [dead.address]


def test_a_named_contact_that_starts_late_is_asked_again_soon_and_a_dead_one_ever_more_seldom() -> None:
    """All nodes of a cluster start at once, and one is named before it listens."""
    late, witness = in_same_bucket(2)
    lone = Lone(Options(probe_interval=1e6, discovery_interval=1e6))
    enter(lone, witness)
    # A lookup asks the named contact too. It ends before the next one begins.
    pauses, silent, step = [], lone.now, 4.0
    while len(pauses) < 8:
        if names(lone, witness, late):
            pauses.append(lone.now - silent)
            silent = lone.now
        lone.advance(step)
    first, longest = Options().first_refusal, Options().refusal_time
    wanted = [0.0, *(min(first * 2**number, longest) for number in range(7))]
    assert all(wish <= pause <= wish + 2 * step for pause, wish in zip(pauses, wanted, strict=True))
    lone.now += longest
    assert names(lone, witness, late) == [late.address]


def names(lone: Lone, namer: Contact, contact: Contact) -> list[Address]:
    """A lookup's answer names a contact. The addresses that the node pings then."""
    lone.node.lookup(namer.id, lone.now)
    queries = [out for out in lone.node.datagrams_to_send() if out.target == namer.address]
    sent = lone.receive(reply_to(queries[0], namer, (contact,)), namer.address)
    return [out.target for out in sent if parse(out.data).op is Op.PING]


def test_a_bucket_that_lost_a_contact_is_refreshed_soon() -> None:
    dead, other = in_same_bucket(2)
    lone = Lone(Options(probe_interval=1e6, discovery_interval=1e6))
    for contact in (dead, other):
        enter(lone, contact)
    lone.node.unreachable(dead.address, lone.now + 1)
    lookups: list[Message] = []
    for _ in range(int(Options().repair_delay * 200)):
        for out in lone.advance(0.01):
            message = parse(out.data)
            if out.target == other.address and message.op in (Op.PING, Op.FIND_NODE):
                lone.receive(reply_to(out, other), other.address)
                lookups += [message] if message.op is Op.FIND_NODE else []
    assert lone.published == {other}
    assert lookups
    assert all((message.key[0] ^ ME.id[0]) & 0x80 for message in lookups), "in that bucket's range"


def test_too_many_lookups_are_refused() -> None:
    lone = Lone()
    enter(lone, OTHER)
    accepted = sum(lone.node.lookup(id_of(number), lone.now) for number in range(2000))
    assert accepted == Options().max_lookups + MAX_WAITING
    assert lone.node.counters["lookups_full"] == 2000 - accepted


def in_same_bucket(count: int) -> list[Contact]:
    """Contacts that share no bit with ME."""
    others = (contact_of(number) for number in range(100, 200))
    return [each for each in others if (each.id[0] ^ ME.id[0]) & 0x80][:count]


def enter(lone: Lone, contact: Contact) -> None:
    _answer, ping = lone.receive(request(contact), contact.address)
    lone.receive(reply_to(ping, contact), contact.address)
    assert contact in lone.published


def test_messages_carry_unix_time() -> None:
    lone = Lone()
    lone.now = 5.0
    lone.node.unix_offset = START
    answer, _ping = lone.receive(request(OTHER), OTHER.address)
    verify(answer.data, [KEY], int(START) + 5, window=0)


def test_a_dual_stack_node_uses_the_source_of_each_ip_version() -> None:
    six = Address.of("2001:db8::1", 5348)
    far = Contact(OTHER.id, *Address.of("2001:db8::2", 5348))
    lone = Lone(own=(ME.address, six))
    answer, ping = lone.receive(request(far), far.address, target=six)
    for out in (answer, ping):
        assert (out.source, parse(out.data).client) == (six, six)
    lone.receive(reply_to(ping, far), far.address, target=six)
    assert lone.published == {far}
