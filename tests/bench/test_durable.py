"""The durable peers' measuring: requests as bytes, the load over TCP, processor time of families, tables. No peer runs."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds, tree_cpu_seconds
from bench.peers.durable import grpc, postgres, sets, writes
from bench.peers.durable.base import ask_tcp
from bench.peers.durable.redis import command
from bench.peers.missing import PeerMissing

PUT = "/etcdserverpb.KV/Put"


@contextmanager
def served(connection: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on 127.0.0.1, a thread for each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=connection, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


# --- RESP ----------------------------------------------------------------------------------

ASKED = [command(b"GET", b"%04d" % n) for n in range(40)]
STORED = [b"value %04d" % n for n in range(40)]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def resp(reply: Callable[[int], bytes]) -> Callable[[socket.socket], None]:
    """Replies to each request of ASKED, in pieces."""

    def connection(sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(len(ASKED[0])):
                whole = reply(ASKED.index(data))
                for piece in (whole[:3], whole[3:]):
                    sock.sendall(piece)
                    time.sleep(0.001)

    return connection


def test_each_request_is_asked_once_and_each_answer_checked():
    with served(resp(lambda n: bulk(STORED[n]))) as port:
        done = ask_tcp("resp1", [port], ASKED, STORED, 4)
    assert (done.done, done.failed) == (40, 0)
    assert 0 < done.p50 <= done.p99


@pytest.mark.parametrize(
    ("protocol", "reply", "failed"),
    [
        ("resp1", b"-ERR no\r\n", 40),
        ("resp1", b"$-1\r\n", 40),
        ("resp2", b"+OK\r\n:1\r\n", 0),
        ("resp2", b"+OK\r\n:0\r\n", 40),
        ("resp2", b":0\r\n:2\r\n", 0),
        ("resp2", b"-ERR no\r\n:1\r\n", 40),
        ("resp1", b"*2\r\n$5\r\nvalue\r\n*1\r\n:7\r\n", 0),
        ("resp1", b"*0\r\n", 0),
    ],
)
def test_what_is_no_confirmation_counts_as_failed(protocol, reply, failed):
    answers = STORED if reply == b"$-1\r\n" else []
    with served(resp(lambda n: reply)) as port:
        done = ask_tcp(protocol, [port], ASKED, answers, 2)
    assert (done.done, done.failed) == (40, failed)


def test_a_server_that_hangs_up_ends_the_measurement():
    with served(lambda sock: sock.close()) as port, pytest.raises(PeerMissing, match="closed"):
        ask_tcp("resp1", [port], ASKED, [], 1)


# --- gRPC ----------------------------------------------------------------------------------


def test_a_request_is_two_frames_with_the_message_behind_its_length():
    data = grpc.request(PUT, {1: b"key", 2: b"v" * 200, 3: 300})
    headers = int.from_bytes(data[:3], "big")
    assert data[3:9] == bytes((grpc.HEADERS, grpc.END_HEADERS, 0, 0, 0, 0))
    assert PUT.encode() in data[9 : 9 + headers]
    body = data[9 + headers :]
    assert int.from_bytes(body[:3], "big") == len(body) - 9
    assert body[3:9] == bytes((grpc.DATA, grpc.END_STREAM, 0, 0, 0, 0))
    message = b"\x0a\x03key" + b"\x12\xc8\x01" + b"v" * 200 + b"\x18\xac\x02"
    assert body[9:] == b"\0" + len(message).to_bytes(4, "big") + message


CALLS = [grpc.request(PUT, {1: b"%04d" % n}) for n in range(60)]


def http2(answer: Callable[[int, bytes], list[bytes]]) -> Callable[[socket.socket], None]:
    """Answers each DATA frame with those frames; asks for acknowledgements first, as servers do."""

    def connection(sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as incoming:
            assert incoming.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            sock.sendall(frame(4, 0, 0) + frame(6, 0, 0, b"12345678"))
            while head := incoming.read(9):
                payload = incoming.read(int.from_bytes(head[:3], "big"))
                stream = int.from_bytes(head[5:], "big")
                if head[3] == 6:
                    assert (head[4], payload) == (1, b"12345678")
                if head[3] == grpc.DATA:
                    sock.sendall(b"".join(answer(stream, payload)))

    return connection


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def good(stream: int, payload: bytes) -> list[bytes]:
    return [
        frame(grpc.HEADERS, 4, stream, b"h"),
        frame(grpc.DATA, 0, stream, payload),
        frame(grpc.HEADERS, 5, stream),
    ]


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (1, 8), (4, 3)])
def test_calls_run_beside_each_other_on_streams(connections, streams):
    answers = [b"%04d" % n for n in range(60)]
    with served(http2(good)) as port:
        done = ask_tcp("grpc", [port], CALLS, answers, connections, streams)
    assert (done.done, done.failed) == (60, 0)


@pytest.mark.parametrize(
    "answer",
    [
        lambda stream, payload: [frame(grpc.HEADERS, 5, stream, b"grpc-status: 14")],
        lambda stream, payload: [frame(3, 0, stream, bytes(4))],
        lambda stream, payload: good(stream, payload[:5] + b"another"),
    ],
    ids=["an error", "a reset", "a wrong value"],
)
def test_a_call_without_the_right_message_counts_as_failed(answer):
    with served(http2(answer)) as port:
        done = ask_tcp("grpc", [port], CALLS, [b"%04d" % n for n in range(60)], 2, 2)
    assert (done.done, done.failed) == (60, 60)


# --- Costs and tables ----------------------------------------------------------------------

# The kernel counts the time of others in ticks of 10 ms, and cuts off.
TICKS = 0.03
SPIN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_the_time_of_a_family_has_children_that_ended():
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])\nprint(flush=True)\ninput()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert tree_cpu_seconds([parent.pid]) >= 0.3 - TICKS
        assert tree_cpu_seconds([parent.pid]) > cpu_seconds([parent.pid])
        parent.communicate(b"\n")


def test_the_time_of_a_family_has_children_that_live():
    code = f"import os\nif os.fork() == 0:\n {SPIN.replace(chr(10), chr(10) + ' ')}\n print(flush=True)\n os.read(0, 1)\nelse:\n os.wait()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert tree_cpu_seconds([parent.pid]) >= 0.3 - TICKS
        parent.communicate(b"\n")


def test_pgbench_says_how_long_it_took():
    said = "number of transactions actually processed: 500/500\nlatency average = 1 ms\ntps = 250.5 (without x)\n"
    assert postgres._seconds(said) == pytest.approx(500 / 250.5)


class Told:
    """A Store that takes a second for each load."""

    def __init__(self, reads: bool) -> None:
        self._clock = itertools.count()
        self._reads = reads

    def cpu_seconds(self) -> float:
        return float(next(self._clock))

    def put(self, numbers, outstanding) -> Timing:
        return Timing(len(numbers), 0, 1.0, 2.0, 3.0)

    def get(self, numbers, outstanding) -> Timing | None:
        return self.put(numbers, outstanding) if self._reads else None


def test_a_round_asks_all_and_the_table_has_what_was_measured():
    plan = writes.Plan(values=1000, alone=100)
    figures = writes.one_round({"one": Told(True), "two": Told(False)}, plan)
    assert figures["one"]["put_32_per_second"] == 1000
    assert figures["one"]["put_1_cpu_us"] == 10_000
    assert not any(name.startswith("get") for name in figures["two"])
    found = {"plan": {"size": 100}, "stores": figures, "missing": {"three": "absent"}, "notes": {"one": "so"}}
    text = writes.report(found)
    assert "| one | 100 / 1,000 / 1,000 |" in text
    assert text.count("| two |") == 1
    assert "missing: three: absent" in text
    assert os.linesep * 3 not in text


def test_a_set_is_gone_when_nobody_finds_it_any_more():
    found = iter([True, True, True, False])
    assert 2 * sets.LOOK < sets.gone(lambda: next(found)) < 10


def test_reads_ask_for_members_of_all_sets():
    plan = sets.Plan(announcements=200, reads=400)
    asked = sets._asked(plan)
    assert sorted(set(asked)) == list(range(200))
    assert {*map(sets.set_of, asked)} == {f"set-{n:06d}" for n in range(200 // sets.MEMBERS)}


def test_the_table_of_sets_leaves_out_what_a_peer_has_not():
    figures = {"hard_per_second": 1000.0, "hard_cpu_us": 5.0, "hard_failed": 2.0, "died_seconds": 5.04}
    text = sets.report({"peers": {"one": figures}, "missing": {"two": "absent"}})
    assert "| one | 1,000 | 5 |  |  |  |  |  |  | 5.0 | 2 |" in text
    assert "missing: two: absent" in text
