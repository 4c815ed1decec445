"""One mapping, several processes and threads: readers see whole states, whatever the writer does.

The writer is another process (tests/helpers/table_writer.py), so that it really runs meanwhile.
"""

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import table_writer
from builders import NOW, Node, make_node, packet, request, usual_settings
from paths import HELPERS, ROOT
from table_writer import HOME, KEY, LANE, bucket_states, configuration_states

from kdht._routing import Core
from kdht.lab._repeat import repeat
from kdht.replay.oracle import SlowNode, SlowTable
from kdht.wire import Address, Contact
from kdht.wire import _shared as shared
from kdht.wire._shared import Reason

CLIENT = Address.of("10.0.0.99", 40000)
NEXT = Contact(b"\x80" + bytes(19), Address.of("10.0.0.2", 0).ip, shared.PORT)


@contextmanager
def process(core: Core, role: str) -> Iterator[subprocess.Popen[str]]:
    """tests/helpers/table_writer.py on the same mapping; killed at the end, in the middle of what it does."""
    command = [sys.executable, str(HELPERS / "table_writer.py"), str(core.fd), role]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HELPERS), str(ROOT)])}
    running = subprocess.Popen(
        command,
        pass_fds=[core.fd],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield running
        assert running.poll() is None, "it ended by itself"
    finally:
        running.kill()
        running.communicate()


def until(running: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Wait for what the other process does; fail if it ended instead."""
    while not holds():
        assert running.poll() is None, "it ended by itself"


def state(core: Core) -> tuple[bytes, bytes]:
    return core.raw_config(), core.raw_bucket(0)


def entering() -> bytearray:
    return packet(request(key=KEY), CLIENT, HOME)


# --- Another process --------------------------------------------------------------------------


def test_another_process_decides_from_the_shared_mapping():
    node = make_node(usual_settings())
    with process(node.core, "answer") as other:

        def asked() -> list[str]:
            other.stdin.write(entering().hex() + "\n")
            other.stdin.flush()
            return other.stdout.readline().split()

        assert asked() == ["OWNER", "None", entering().hex()]
        node.set_bucket(0, [NEXT])
        expected = entering()
        node.core.decide_packet(expected, NOW)
        assert asked() == ["ENTERED", "10.0.0.2:5348", expected.hex()]
        node.set_bucket(0, [])
        assert asked()[0] == "OWNER"
        node.core.configure(**vars(usual_settings(port=1)))
        assert asked()[0] == "NOT_OURS"
    counted = {name: count for name, count in node.core.counters(LANE).items() if count}
    assert counted == {"OWNER": 2, "ENTERED": 1, "NOT_OURS": 1}
    assert node.core.counters()["ENTERED"] == 2


def test_two_mappings_of_one_core_are_the_same_state():
    node = make_node(usual_settings(), [NEXT])
    twin = Core(node.core.fd)
    assert twin.bucket(0) == [NEXT]
    twin.set_bucket(0, [])
    assert node.core.bucket(0) == []
    assert node.core.decide_packet(entering(), NOW, 3).reason is Reason.OWNER
    assert twin.counters(3)["OWNER"] == 1


def test_a_mapping_outlives_the_core_that_made_it():
    node = make_node(usual_settings(), [NEXT])
    twin = Core(node.core.fd)
    del node
    assert twin.next_hop(KEY) == NEXT


def test_a_foreign_file_descriptor_is_refused():
    core = Core()
    for size in (0, mmap.PAGESIZE, os.fstat(core.fd).st_size):
        fd = os.memfd_create("no-core")
        os.ftruncate(fd, size)
        with pytest.raises(ValueError, match="no routing state"):
            Core(fd)
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Core(fd)


# --- Whole states -----------------------------------------------------------------------------


def test_a_reader_sees_whole_buckets_while_another_process_writes_them():
    states = bucket_states()
    tables = {number: SlowTable(bytes(20), {0: contacts}) for number, contacts in states.items()}
    nearest = {number: table.next_hop(KEY) for number, table in tables.items()}
    second = {number: table.next_hop(KEY, 1) for number, table in tables.items()}
    core = make_node(usual_settings()).core
    seen: set[int] = set()
    with process(core, "buckets") as writer:
        until(writer, lambda: core.next_hop(KEY) is not None)
        for _ in range(20_000):
            contacts = core.bucket(0)
            assert contacts == states[contacts[0].port]
            outcome = core.decide_packet(entering(), NOW)
            if outcome.reason is not Reason.NOT_READY:  # every try met the writer
                hop = nearest[outcome.target.port]
                assert (outcome.reason, outcome.next_id, outcome.target) == (
                    Reason.ENTERED,
                    hop.id,
                    hop.address,
                )
                seen.add(outcome.target.port)
            other = core.next_hop(KEY, 1)
            assert other is None or other == second[other.port]
    assert len(seen) > 8, "the writer did not run meanwhile"


def test_no_reader_sees_half_a_configuration():
    states = configuration_states()
    core = make_node(usual_settings(), [NEXT]).core
    expected = {}
    for number, settings in states.items():
        slow = SlowNode(settings, SlowTable(settings.self_id, {0: [NEXT]}))
        result = slow.decide_message(bytes(request(key=KEY)), CLIENT, HOME, NOW)
        expected[number] = (result.source, result.target, result.data)
    seen: set[int] = set()
    with process(core, "configurations") as writer:
        until(writer, lambda: core.decide_packet(entering(), NOW).reason is Reason.NOT_OURS)
        for _ in range(20_000):
            message = request(key=KEY)
            outcome = core.decide_message(message, CLIENT, HOME, NOW)
            if outcome.reason is not Reason.NOT_READY:
                number = outcome.source.port
                assert (outcome.source, outcome.target, message) == expected[number]
                seen.add(number)
    assert len(seen) > 8, "the writer did not run meanwhile"


@pytest.mark.parametrize("role", ["buckets", "configurations"])
def test_a_killed_writer_leaves_a_consistent_state(role):
    states = bucket_states()
    node = make_node(usual_settings(port=66), [NEXT])
    for _ in range(4):
        before = state(node.core)
        with process(node.core, role) as writer:
            until(writer, lambda before=before: state(node.core) != before)
        contacts = node.core.bucket(0)
        assert contacts == [NEXT] or contacts == states[contacts[0].port]
        assert node.core.decide_message(request(key=KEY), CLIENT, HOME, NOW).reason is Reason.ENTERED
        node.core.configure(**vars(node.settings))
        node.core.set_bucket(0, [NEXT])
        assert node.core.next_hop(KEY) == NEXT


# --- Threads ----------------------------------------------------------------------------------


def test_verdicts_without_the_gil_while_this_thread_publishes():
    """Each lane's counters have one writer, so none of the verdicts is lost from them."""
    states = list(bucket_states().values())
    node: Node = make_node(usual_settings(), [NEXT])
    rounds, lanes = 200_000, (4, 5)
    moved: dict[int, int] = {}

    def run(lane: int) -> None:
        moved[lane] = repeat(node.core, [entering()], rounds, NOW, lane)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    published = 0
    while any(thread.is_alive() for thread in threads):
        node.core.set_bucket(0, states[published % len(states)])
        published += 1
    for thread in threads:
        thread.join()
    assert published > 0
    for lane in lanes:
        counted = node.core.counters(lane)
        assert counted["ENTERED"] == moved[lane] > 0
        assert counted["ENTERED"] + counted["NOT_READY"] == rounds


def test_an_emptied_table_makes_this_node_the_owner_at_once():
    node = make_node(usual_settings(), [NEXT])
    twin = Core(node.core.fd)
    for _ in range(100):
        node.core.set_bucket(0, [])
        assert twin.decide_packet(entering(), NOW).reason is Reason.OWNER
        node.core.set_bucket(0, [NEXT])
        assert twin.decide_packet(entering(), NOW).reason is Reason.ENTERED


def test_the_writers_states_are_different():
    """Else the tests above could not see a mixture of two."""
    ports = {contact.port for contacts in table_writer.bucket_states().values() for contact in contacts}
    ids = [contact.id for contacts in table_writer.bucket_states().values() for contact in contacts]
    assert len(ports) == 64
    assert len(set(ids)) == len(ids)
