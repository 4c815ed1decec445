"""What the XDP program answers of hot records, and what it leaves to the socket: the lease, changes, writes, copies."""

import asyncio

import pytest
from builders import KEYS, NOW, Node, forwarded, make_node, packet, request, usual_settings
from hot import LONG, Hot, boot_ns
from xdp import Program, Run, link_header

from kdht.daemon.hot import HotKeeper
from kdht.storage._hot import ASKS, ENDED
from kdht.wire import Address, parse
from kdht.wire._shared import ID_LEN, MAX_VALUE, Op, Reason
from kdht.wire.tags import make_cookie

pytestmark = pytest.mark.root

KEY = bytes(8) + b"hot".ljust(ID_LEN - 8)
CLIENT, NODE = Address.of("10.0.0.99", 40000), Address.of("10.0.0.1", 5348)
MEMBER = Address.of("10.0.0.7", 5348)
SIGNER = (KEYS[0].epoch, KEYS[0].tag)


@pytest.fixture(scope="module")
def program():
    made = Program()
    made.publish(make_node(usual_settings()))
    return made


@pytest.fixture
def hot(program):
    table = Hot(program)
    table.put(KEY, 7, 0, 0, b"value")
    yield table
    table.close()


class Asker:
    """Sends requests to the program, each with a request ID of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = boot_ns() << 20  # copies of an earlier test are others

    def get(self, source: Address = CLIENT, **fields: object) -> Run:
        return self._run(request, source, {"op": Op.GET, "key": KEY, **fields})

    def put(self, source: Address = CLIENT, **fields: object) -> Run:
        return self._run(request, source, {"op": Op.PUT, "key": KEY, "body": bytes(16), **fields})

    def _run(self, make, source: Address, fields: dict[str, object]) -> Run:
        self.number += 1
        data = make(**{"request_id": self.number % (1 << 64), **fields})
        return self.program.run(link_header(4) + bytes(packet(data, source, NODE)))


@pytest.fixture
def ask(program):
    return Asker(program)


def test_a_hot_record_is_answered(hot, ask):
    run = ask.get()
    assert run.reason == Reason.ANSWERED
    assert parse(run.data[42:]).body[16:] == b"value"
    assert ask.get(key=bytes(ID_LEN)).reason == Reason.OWNER


@pytest.mark.parametrize("half", ["loop_until", "serve_until"])
def test_nothing_is_answered_without_the_whole_lease(hot, ask, half):
    past = (boot_ns(), boot_ns()) if half == "loop_until" else (boot_ns(),)
    getattr(hot.table, half)(*past)
    assert ask.get().reason == Reason.OWNER
    hot.lease()
    assert ask.get().reason == Reason.ANSWERED


def test_a_node_that_has_fallen_behind_ends_the_lease_at_its_next_beat(hot, ask):
    serves = True
    keeper = HotKeeper(hot.table, hot.cache, lambda: serves)
    asyncio.run(keeper.beat())
    assert ask.get().reason == Reason.ANSWERED
    serves = False
    asyncio.run(keeper.beat())
    assert ask.get().reason == Reason.OWNER
    serves = True
    asyncio.run(keeper.beat())
    assert ask.get().reason == Reason.ANSWERED


def test_a_cookie_that_was_kept_is_not_used_for_another_address_or_key(hot, program, ask):
    """More addresses than the table of kept cookies has places."""

    def cookie(source: Address) -> int:
        run = ask.get(source)
        assert run.reason == Reason.ANSWERED
        return parse(run.data[42:]).cookie

    def right(node: Node, source: Address) -> int:
        return make_cookie(node.settings.cookie_key, source.ip, NOW)

    node = make_node(usual_settings())
    sources = [Address.of(f"10.1.{number // 250}.{number % 250 + 1}", 40000) for number in range(1500)]
    for _ in range(2):
        for source in sources:
            assert cookie(source) == right(node, source)
    other = make_node(usual_settings(cookie_key=bytes(range(16))))
    program.publish(other)
    try:
        assert cookie(CLIENT) == right(other, CLIENT) != right(node, CLIENT)
    finally:
        program.publish(node)


@pytest.mark.parametrize("why", [ASKS, ENDED])
def test_nothing_is_answered_while_it_is_forbidden(hot, ask, why):
    hot.table.forbid(why, True)
    assert ask.get().reason == Reason.OWNER
    hot.table.forbid(why, False)
    assert ask.get().reason == Reason.ANSWERED


def test_a_changed_record_is_not_answered_until_the_new_one_is_there(hot, ask):
    (before,) = hot.cache.begin([KEY])
    hot.cache.invalidate(KEY)
    assert ask.get().reason == Reason.OWNER
    # A reader of the store that began before the change comes too late.
    assert not hot.cache.fill(KEY, before, 7, 0, 0, b"value")
    assert ask.get().reason == Reason.OWNER
    (begun,) = hot.cache.begin([KEY])
    assert hot.cache.fill(KEY, begun, 8, 0, 0, b"newer")
    run = ask.get()
    assert run.reason == Reason.ANSWERED
    assert parse(run.data[42:]).body[16:] == b"newer"


def test_nothing_is_answered_after_a_clear(hot, ask):
    hot.cache.clear()
    assert ask.get().reason == Reason.OWNER


def test_while_a_record_is_written_it_is_not_answered(hot, ask):
    number = int.from_bytes(KEY[8:16], "little") % 512
    at = 64 + number * (len(hot.memory) - 64) // 512
    hot.memory[at] ^= 1  # the sequence is odd
    assert ask.get().reason == Reason.OWNER
    hot.memory[at] ^= 1
    assert ask.get().reason == Reason.ANSWERED


def test_a_read_waits_behind_a_write_of_the_same_client(hot, ask):
    hot.table.loop_until(boot_ns() + LONG, boot_ns())
    assert ask.put().reason == Reason.OWNER
    assert ask.get().reason == Reason.OWNER
    assert ask.get(Address.of("10.0.0.98", 40000)).reason == Reason.ANSWERED
    # The loop has received all that came before now.
    hot.table.loop_until(boot_ns() + LONG, boot_ns())
    assert ask.get().reason == Reason.ANSWERED


def test_a_write_that_a_member_forwards_counts_for_its_client(hot, program):
    origin = {"client_ip": CLIENT.ip, "client_port": CLIENT.port, "entry_ip": MEMBER.ip, "key": KEY}
    frames = [
        link_header(4)
        + bytes(packet(forwarded(SIGNER, op=op, body=body, request_id=boot_ns(), **origin), MEMBER, NODE))
        for op, body in ((Op.GET, b""), (Op.PUT, bytes(16)), (Op.GET, b""))
    ]
    assert [program.run(frame).reason for frame in frames] == [Reason.ANSWERED, Reason.OWNER, Reason.OWNER]


@pytest.mark.parametrize("by", ["client", "member"])
def test_copies_of_a_request_go_to_the_socket_in_the_end(hot, program, by):
    number = boot_ns()
    asked = {"op": Op.GET, "key": KEY, "request_id": number}
    if by == "client":
        frame = link_header(4) + bytes(packet(request(**asked), CLIENT, NODE))
    else:
        frame = link_header(4) + bytes(packet(forwarded(SIGNER, **asked), MEMBER, NODE))
    found = [program.run(frame).reason for _ in range(10)]
    assert found == 8 * [Reason.ANSWERED] + 2 * [Reason.OWNER]


@pytest.mark.parametrize("size", [0, 1, 8, 1000, MAX_VALUE])
@pytest.mark.parametrize("padding", [0, 300, 1120])
def test_a_frame_takes_the_length_of_its_answer(hot, ask, size, padding):
    hot.put(KEY, 9, 0, 0, bytes(range(256)) * 4 + bytes(80) if size == MAX_VALUE else b"x" * size)
    run = ask.get(body=bytes(padding))
    assert run.reason == Reason.ANSWERED
    assert len(run.data) == 14 + 20 + 8 + 112 + 16 + size
    assert run.data[16:18] == (len(run.data) - 14).to_bytes(2, "big")


def test_a_record_that_nobody_reads_makes_room_for_a_hot_one(hot, ask):
    same_set = [KEY[:16] + bytes([number, 1, 1, 1]) for number in range(6)]
    for key in same_set[:3]:
        hot.put(key, 1, 0, 0, b"")
    assert all(hot.table.holds(key) for key in [KEY, *same_set[:3]])
    assert ask.get().reason == Reason.ANSWERED
    hot.put(same_set[3], 1, 0, 0, b"")
    assert hot.table.holds(same_set[3])
    assert hot.table.holds(KEY)
    for key in [KEY, *same_set]:
        if hot.table.holds(key):
            assert ask.get(key=key).reason == Reason.ANSWERED
    # All are read: the newcomer has to be hot once more.
    hot.put(same_set[4], 1, 0, 0, b"")
    assert not hot.table.holds(same_set[4])
    hot.cache.heat([same_set[4]])
    assert hot.table.holds(same_set[4])


def test_a_record_in_its_last_second_is_left_to_the_socket(hot, ask):
    hot.put(KEY, 9, NOW + 1, 0, b"")
    assert ask.get().reason == Reason.OWNER
    hot.put(KEY, 9, NOW + 2, 0, b"")
    assert ask.get().reason == Reason.ANSWERED
