"""The measuring itself: what is parsed, counted, put in relation and drawn, without any peer."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable

import pytest
from click.testing import CliRunner
from paths import ROOT

from bench import __main__ as everything
from bench.peers import asking, counting, measure, sites, table
from bench.peers.__main__ import main as peers_command
from bench.peers.base import Timing, make_values, percentile, timing
from bench.peers.kdht_cluster import PROTOCOL, get_request, key_of, put_request
from bench.peers.nodes.lines import window
from bench.peers.single import redis_row
from bench.report import flat, report
from bench.soak import growth
from kdht.wire import OFFSET, Record, parse
from kdht.wire._shared import Op

FIGURES = {key: 10.0 for _, key, _ in table.COLUMNS} | {"get_failed": 0.0}


# --- The load ------------------------------------------------------------------------------


class Echo:
    """A UDP server that sends `answers(request)` back, on 127.0.0.1."""

    def __init__(self, answers) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.name = "{}:{}".format(*self.socket.getsockname())
        self.asked: list[bytes] = []
        self._answers = answers
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Echo":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.sendto(b"", self.socket.getsockname())
        self._thread.join()
        self.socket.close()

    def _run(self) -> None:
        while True:
            data, source = self.socket.recvfrom(2048)
            if not data:
                return
            self.asked.append(data)
            for answer in self._answers(data):
                self.socket.sendto(answer, source)


def replied(data: bytes, value: bytes, status: int = 0) -> bytes:
    message = bytearray(data)
    message[OFFSET["status"]] = status
    return bytes(message) + value


REQUESTS = [get_request(key_of(number), bytes(8)) for number in range(20)]
VALUES = make_values(20, 50)
BY_KEY = {key_of(number): value for number, value in enumerate(VALUES)}


def test_the_load_asks_for_each_once_and_checks_each_answer():
    with Echo(lambda data: [replied(data, BY_KEY[parse(data).key])]) as echo:
        done = asking.ask([echo.name], REQUESTS, VALUES, PROTOCOL, 4)
    assert (done.done, done.failed) == (20, 0)
    assert 0 < done.p50 <= done.p99
    assert done.seconds > 0
    messages = [parse(data) for data in echo.asked]
    assert sorted(message.key for message in messages) == sorted(BY_KEY)
    assert len({message.request_id for message in messages}) == 20
    assert {message.op for message in messages} == {Op.GET}


def test_wrong_answers_and_refusals_are_failures():
    def answer(data: bytes) -> Iterable[bytes]:
        key = parse(data).key
        if key == key_of(0):
            return [replied(data, b"another value")]
        return [replied(data, BY_KEY[key], status=1 if key == key_of(1) else 0)]

    with Echo(answer) as echo:
        done = asking.ask([echo.name], REQUESTS, VALUES, PROTOCOL, 1)
    assert (done.done, done.failed) == (20, 2)


def test_a_lost_request_is_retried_and_a_second_answer_is_ignored():
    lost: set[bytes] = set()

    def answer(data: bytes) -> Iterable[bytes]:
        key = parse(data).key
        if key == key_of(3) and key not in lost:
            lost.add(key)
            return []
        return [replied(data, BY_KEY[key])] * 2

    with Echo(answer) as echo:
        done = asking.ask([echo.name], REQUESTS, VALUES, PROTOCOL, 2)
    assert (done.done, done.failed) == (20, 0)
    assert done.p99 < 100  # one of 20 took that long
    tries = [parse(data) for data in echo.asked if parse(data).key == key_of(3)]
    assert [message.attempt for message in tries] == [0, 1]
    assert len({message.request_id for message in tries}) == 1


def test_more_requests_than_there_are_begin_again():
    with Echo(lambda data: [replied(data, BY_KEY[parse(data).key])]) as echo:
        assert asking.ask([echo.name], REQUESTS, VALUES, PROTOCOL, 8, 50).done == 50
    assert len(echo.asked) == 50


def test_requests_are_what_a_client_sends():
    put = parse(put_request(key_of(1), b"value", b"\0" * 7 + b"\5"))
    assert (put.op, put.key, Record.parse(put.body), put.cookie) == (
        Op.PUT,
        key_of(1),
        Record(value=b"value"),
        5,
    )


def test_values_are_the_same_every_time():
    assert make_values(3, 16) == make_values(5, 16)[:3]
    assert len(set(make_values(1000, 16))) == 1000


# --- A window of requests at a peer's node ---------------------------------------------------


class Scripted:
    """A node whose requests end, in turn, as told; None: not at all."""

    def __init__(self, ends: dict[int, bool]) -> None:
        self.ends = ends
        self.under_way: list[int] = []
        self.most = 0

    def begin(self, do: str, number: int) -> None:
        self.under_way.append(number)
        self.most = max(self.most, len(self.under_way))

    def finished(self, seconds: float) -> Iterable[tuple[int, bool]]:
        ended = [number for number in self.under_way if number in self.ends][:1]
        for number in ended:
            self.under_way.remove(number)
            yield number, self.ends[number]
            yield number, False  # a second word about it counts for nothing


def test_a_window_is_kept_full_and_each_end_counts_once():
    node = Scripted(dict.fromkeys(range(9), True) | {9: False})
    found = window(node, "get", range(10), 4)
    assert (len(found["latencies"]), found["failed"], node.most) == (10, 1, 4)


def test_a_request_that_never_ends_has_failed():
    ticks = iter(range(0, 10_000, 7))
    found = window(Scripted({0: True}), "put", range(3), 2, clock=lambda: float(next(ticks)))
    assert (len(found["latencies"]), found["failed"]) == (1, 2)


# --- Figures --------------------------------------------------------------------------------


def test_timings_and_percentiles():
    found = timing([0.003, 0.001, 0.002], 1, 2.0)
    assert found == Timing(done=3, failed=1, seconds=2.0, p50=2.0, p99=2.0)
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0, 2.0], 1.0) == 2.0


def test_medians_are_per_figure_and_failures_are_summed():
    rounds = [{"a": 3.0, "a_failed": 1.0}, {"a": 1.0, "a_failed": 0.0}, {"a": 2.0, "a_failed": 4.0}]
    assert measure.medians(rounds) == {"a": 2.0, "a_failed": 5.0}


def test_a_ratio_says_how_many_times_better_kdht_is():
    assert table.ratio(10.0, 2.0, True) == 5.0
    assert table.ratio(10.0, 2.0, False) == 0.2
    assert table.ratio(0.0, 2.0, False) == float("inf")


def test_kernel_counters_are_read():
    assert counting._of_snmp("Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts\nUdp: 77 3\n") == 77
    assert counting._of_dev("head\n    lo: 9 8 7\n  eth0: 5 6 7\n", "eth0") == 6
    assert counting._of_machine("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1") == 19 / counting._TICK
    assert counting._of_stat("1 (a) name) S " + " ".join(str(n) for n in range(4, 40))) == 29 / counting._TICK
    assert counting.datagrams() >= 0
    assert counting.cpu_seconds([os.getpid()]) > 0
    assert 0 < counting.pss_mib(os.getpid()) <= counting.rss_mib(os.getpid())


def test_redis_benchmark_is_understood():
    said = 'WARNING: a line\n"test","rps","p50_latency_ms"\n"SET","1.0","2.0"\n"GET","14000.5","0.064"\n'
    assert redis_row(said) == {"test": "GET", "rps": "14000.5", "p50_latency_ms": "0.064"}


def test_growth_is_a_slope_after_the_warm_part():
    points = [{"seconds": 360.0 * n, "rss_mib": 50.0 + 0.2 * n} for n in range(10)]
    points[0]["rss_mib"] = 10.0
    assert growth(points) == pytest.approx(2.0)
    assert growth(points[:2]) is None


# --- Reports --------------------------------------------------------------------------------


def test_the_report_has_ratios_and_names_what_is_missing():
    found = {
        "plan": {"size": 100},
        "clusters": {"32": {"kdht": FIGURES, "other": FIGURES | {"get_per_second": 4.0}}},
        "missing": {"third": "it has no wheel"},
        "notes": {"kdht": "as it is"},
        "single": {"kdht": {"p50_us": 50.0, "p99_us": 60.0, "per_second": 200_000.0}},
    }
    found["hosts"] = {"8": {"kdht-ebpf": FIGURES, "kdht-socket": FIGURES | {"get_alone_p50_ms": 30.0}}}
    text = table.report(found)
    assert "### 32 nodes on loopback, 100-byte values" in text
    assert "| than other | 2.5 | 1.0 |" in text
    assert "### 8 nodes on hosts of their own" in text
    assert "How many times better kdht-ebpf is:" in text
    assert "| than kdht-socket | 1.0 | 3.0 |" in text
    assert "- missing: third: it has no wheel" in text
    assert "| kdht | 50.0 | 60.0 | 200,000 |" in text
    assert "- kdht: as it is" in text


def test_other_measurements_are_listed_figure_by_figure():
    found = {"runs": [{"a": 1}, {"a": 2.5}], "sizes": [1, 2], "name": "x"}
    assert list(flat(found)) == [("runs, 1, a", 1), ("runs, 2, a", 2.5), ("sizes", [1, 2]), ("name", "x")]
    about = {"cores": 2, "cpu": "fast", "kernel": "6", "python": "3"}
    text = report({"machine": about, "core": found})
    assert "2 cores of fast, Linux 6, Python 3." in text
    assert "| sizes | 1, 2 |" in text


def test_a_peer_that_cannot_run_is_missing_and_the_others_run(monkeypatch):
    class Absent:
        name, notes, scale = "absent", "", 1.0

        def missing(self) -> str:
            return "not here"

    found = measure.compare([Absent()], [8], sites.loopback, measure.Plan(), pytest.fail)
    assert found == ({"8": {}}, {"absent": "not here"})


def test_unknown_measurements_are_refused():
    assert {"core", "peers", "scaling", "sim", "storage"} <= set(everything.programs())
    assert not {"soak", "machine", "report", "plots"} & set(everything.programs())
    result = CliRunner().invoke(everything.command, ["cor"])
    assert (result.exit_code, "no such measurement: cor; there are announcements, core" in result.output) == (
        2,
        True,
    )


def compared(*arguments: str) -> dict[str, dict[str, dict[str, float]]]:
    """What a small comparison prints, of one kind or another."""
    command = ["-m", "bench.peers", "--rounds", "1", "--values", "90", "--no-single", "--json", *arguments]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == {}
    return found


@pytest.mark.slow
def test_a_small_comparison_of_kdht_alone_from_start_to_end():
    found = compared("--peer", "kdht-socket", "--nodes", "3", "--hosts", "")
    figures = found["clusters"]["3"]["kdht-socket"]
    assert all(figures[f"{what}_failed"] == 0 for what in ("get", "get_first", "put"))
    assert 2 <= figures["get_packets"] < 5


@pytest.mark.slow
@pytest.mark.root
def test_packets_and_cpu_time_of_all_hosts_are_counted():
    found = compared("--peer", "kdht-ebpf", "--nodes", "", "--hosts", "3")
    figures = found["hosts"]["3"]["kdht-ebpf"]
    assert all(figures[f"{what}_failed"] == 0 for what in ("get", "get_first", "put"))
    assert 2 <= figures["get_packets"] < 6
    assert figures["get_cpu_us"] > 0


def test_help_is_there():
    assert "memcached" in CliRunner().invoke(peers_command, ["--help"]).output
