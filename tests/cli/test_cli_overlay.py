"""top, closest, trace, cluster, simulate, join, bench: three real nodes on loopback, one of them apart at first."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import contact, routing_table
from ctl import Ctl, bad, complained, good
from daemons import DevNode, free_port

from kdht.cli import top
from kdht.cli.bench import latencies
from kdht.cli.cluster import NodeSeen, cluster, compare, difference
from kdht.errors import Disagreement
from kdht.lab.wait import wait_until
from kdht.program import control_client
from kdht.program.answers import RoutingTable
from kdht.replay.packets import packet
from kdht.wire import Address, Message, hash_key
from kdht.wire._shared import Op

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    home, port = tmp_path_factory.mktemp("nodes"), free_port(*HOSTS)
    started = [DevNode(home / "n1", f"{HOSTS[0]}:{port}")]
    for number, host in enumerate(HOSTS[1:], 2):
        started[0].wait_ready()
        started.append(DevNode(home / f"n{number}", f"{host}:{port}", "--bootstrap", started[0].listen))
    for node in started:
        node.wait_ready(contacts=2)
    yield started
    for node in started:
        node.close()


@pytest.fixture
def ctl(nodes: list[DevNode]) -> Ctl:
    return Ctl(nodes[0].control)


def ids(nodes: list[DevNode]) -> dict[str, str]:
    """Address to ID."""
    return {node.listen: node.call("status")["node_id"] for node in nodes}


def ranked(nodes: list[DevNode], key: str) -> list[str]:
    """The nodes' IDs, nearest to the key first."""
    wanted = int.from_bytes(hash_key(key), "big")
    return sorted(ids(nodes).values(), key=lambda id: int(id, 16) ^ wanted)


# --- closest, trace


@pytest.mark.parametrize("lookup", [(), ("--lookup",)])
def test_closest(ctl, nodes, lookup):
    for key in ("a", "b", "c"):
        found = ctl.json("closest", key, *lookup)
        assert [row["id"] for row in found["nodes"]] == ranked(nodes, key)
        assert [row["rank"] for row in found["nodes"]] == [0, 1, 2]
        (itself,) = [row for row in found["nodes"] if row["self"]]
        assert itself["address"] == nodes[0].listen
    shown = good(ctl("closest", "a", *lookup)).decode()
    assert "owner" in shown
    assert "this node" in shown


def test_closest_takes_an_id(ctl, nodes):
    id = ids(nodes)[nodes[1].listen]
    (found,) = ctl.json("closest", id, "--hex", "--count", "1")["nodes"]
    assert (found["id"], found["bits_shared"]) == (id, 160)
    bad(ctl("closest", "abc", "--hex"), 2, "40 hexadecimal digits")


def test_trace_ends_at_the_owner_and_tells_the_replicas(ctl, nodes):
    version = ctl.json("put", "traced", "four")["version"]
    path = ctl.json("trace", "traced")
    assert path["reached"]
    assert path["hops"][0]["address"] == nodes[0].listen
    assert path["hops"][-1]["id"] == ranked(nodes, "traced")[0]
    assert all(hop["ms"] > 0 for hop in path["hops"])
    assert [row["id"] for row in path["replicas"]["replicas"]] == ranked(nodes, "traced")

    def held() -> bool:  # with --dev one replica confirms, the others follow
        rows = ctl.json("trace", "traced")["replicas"]["replicas"]
        return [(row["version"], row["bytes"]) for row in rows] == [(version, 4)] * 3

    wait_until(held, "all replicas to have it")
    shown = good(ctl("trace", "traced")).decode()
    assert "owner" in shown
    assert str(version) in shown


def test_a_trace_of_a_deleted_key_shows_tombstones(ctl):
    good(ctl("put", "gone", "v"))
    good(ctl("delete", "gone"))
    rows = ctl.json("trace", "gone")["replicas"]["replicas"]
    assert any(row["deleted"] for row in rows)


def test_a_trace_through_a_node_that_does_not_answer(ctl, tmp_path):
    silent = f"127.0.0.1:{free_port('127.0.0.1')}"
    done = ctl("trace", "k", "--node", silent, "--timeout", "0.3", "--socket", tmp_path / "none")
    complained(done.returncode, done.stderr, 6, "hop 1 did not answer")
    assert b"no answer" in done.stdout
    done = ctl("trace", "k", "--node", silent, "--timeout", "0.3", "--socket", tmp_path / "none", "--json")
    assert json.loads(done.stdout)["replicas"] is None


# --- top


def test_top_shows_what_happens_meanwhile(ctl, nodes):
    process = ctl.start("top", "--interval", "0.5", "--count", "3", "--json")
    for _ in range(10):
        good(ctl("put", "busy", "v"))
        if process.poll() is not None:
            break
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    samples = [json.loads(line) for line in out.splitlines()]
    assert len(samples) == 3
    assert all(sample["probe_ms"] > 0 for sample in samples)
    assert all(sample["round_trips"]["contacts"] == 2 for sample in samples)
    assert any(sum(sample["rates"]["packets"]["socket"].values()) > 0 for sample in samples)


def test_top_once_as_a_picture(ctl, nodes):
    shown = good(ctl("top", "--once", "--interval", "0.2")).decode()
    assert nodes[0].listen in shown
    assert "storage" in shown
    assert "round trips" in shown


def test_top_ends_at_ctrl_c(ctl):
    process = ctl.start("top", "--interval", "0.1", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, b"")


def test_rates_are_differences_over_time():
    before: dict[str, Any] = {"a": 10, "g": {"b": 1, "name": "x", "on": True}, "restarted": 100}
    after: dict[str, Any] = {"a": 30, "g": {"b": 1, "c": 4, "name": "x", "on": True}, "restarted": 7}
    assert top.rates(before, after, 2.0) == {"a": 10.0, "g": {"b": 0.0, "c": 2.0}, "restarted": 0.0}


def test_round_trips_of_no_contact_and_of_one():
    silent = contact(rtt_ms=None)
    assert top.round_trips(routing_table(silent)) is None
    assert top.round_trips(routing_table(silent, contact(rtt_ms=2.0))) == top.RoundTrips(
        1, 2.0, 2.0, 2.0, 2.0
    )


def test_percentiles_are_in_milliseconds():
    found = latencies([number / 1000 for number in range(1, 1001)])
    assert found is not None
    assert [round(found[name]) for name in ("p50", "p90", "p99", "max")] == [500, 900, 990, 1000]
    assert latencies([]) is None
    assert latencies([0.5]) == dict.fromkeys(("p50", "p90", "p99", "p99.9", "max"), 500.0)


# --- cluster, bench


def test_cluster_that_agrees(ctl, nodes):
    found = ctl.json("cluster", "--keys", "4")
    assert {node["address"]: node["id"] for node in found["nodes"]} == ids(nodes)
    assert all((node["asked"], node["answered"], node["agrees"]) == (4, 4, 4) for node in found["nodes"])
    assert all(abs(node["clock"]) < 2 for node in found["nodes"] if not node["self"])
    assert "4 of 4" in good(ctl("cluster", "--keys", "4")).decode()
    assert all(node["asked"] is None for node in ctl.json("cluster", "--no-views")["nodes"])


@pytest.mark.parametrize("name", ["cluster", "closest", "trace", "table"])
def test_addresses_are_whole_in_a_narrow_terminal(nodes, name):
    arguments = [name, *(["k"] if name in ("closest", "trace") else [])]
    shown = good(Ctl(nodes[0].control, COLUMNS="60")(*arguments)).decode()
    assert nodes[0].listen in shown or nodes[1].listen in shown


def test_piped_output_is_not_cut(ctl, nodes):
    """Not to the 80 columns of a terminal that is none; what runs the tests may say how wide its own is."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    shown = good(ctl("cluster", env={**environment, "KDHT_SOCKET": str(nodes[0].control)})).decode()
    for address, id in ids(nodes).items():
        assert re.search(f"{id} +{re.escape(address)} ", shown)


class Dreaming:
    """A control client whose daemon knows, for so many looks, a node that does not answer, beside the real ones."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.silent = f"{HOSTS[0]}:{free_port(HOSTS[0])}"
        self._ask = control_client.ask

    def __call__(self, path: Path, method: str, answer: type[Any], **options: Any) -> Any:
        found = self._ask(path, method, answer, **options)
        if isinstance(found, RoutingTable) and self.looks:
            self.looks -= 1
            found.buckets[0].contacts.append(contact(address=self.silent, id="0" * 40))
        return found


@pytest.fixture
def look(nodes, monkeypatch, capsys):
    """`cluster --json` in this process, with a daemon that dreams: what it prints."""

    def call(daemon: Dreaming, *arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(control_client, "ask", daemon)
        usual = ["--socket", str(nodes[0].control), "--keys", "2", "--timeout", "0.3", "--json"]
        try:
            cluster.main([*usual, *arguments], standalone_mode=False)
        finally:
            call.shown = json.loads(capsys.readouterr().out)["nodes"]
        return call.shown

    return call


def test_cluster_asks_again_while_nodes_differ(look):
    daemon = Dreaming(looks=2)
    assert [node["agrees"] for node in look(daemon, "--settle", "60")] == [2, 2, 2]
    assert daemon.looks == 0


def test_cluster_lists_silent_nodes(look):
    daemon = Dreaming(looks=9)
    with pytest.raises(Disagreement, match=f"^{daemon.silent} did not answer: ") as raised:
        look(daemon, "--settle", "0")
    assert raised.value.exit_code == 8
    assert daemon.looks == 8
    assert {node["address"]: node["answered"] for node in look.shown}[daemon.silent] == 0


def test_cluster_lists_nodes_that_disagree_on_an_owner():
    answers = {"a": {"k": "1", "l": "2"}, "b": {"k": "1", "l": "2"}, "c": {"k": "1", "l": "3"}}
    seen = [NodeSeen(id=address, address=address) for address in answers]
    compare(seen, answers, ["k", "l"])
    assert difference(seen).startswith("c named other owners than most: ")


def test_bench_with_direct_answers(ctl):
    found = ctl.json("bench", "--direct", "--seconds", "0.3", "--keys", "20")
    assert found["direct"]
    assert [phase["failed"] + phase["wrong"] for phase in found["phases"]] == [0, 0]


def test_bench_measures_and_leaves_nothing(ctl):
    found = ctl.json("bench", "--seconds", "0.3", "--size", "50", "--keys", "40")
    assert [phase["op"] for phase in found["phases"]] == ["put", "get"]
    for phase in found["phases"]:
        assert phase["failed"] == phase["wrong"] == 0
        assert phase["requests"] > 0
        assert phase["ms"]["p50"] <= phase["ms"]["p99"] <= phase["ms"]["max"]
    assert "a second" in good(ctl("bench", "--seconds", "0.2", "--keys", "5")).decode()


# --- simulate


def a_get(target: str, key: str = "greeting") -> str:
    message = Message(op=Op.GET, key=hash_key(key), request_id=1).pack()
    host, _, port = target.rpartition(":")
    return packet(message, Address.of("10.9.9.9", 999), Address.of(host, int(port))).hex()


def test_simulate_gives_the_nodes_own_verdict(ctl, nodes):
    keys = {ranked(nodes, f"k{number}")[0]: f"k{number}" for number in range(40)}
    itself = ids(nodes)[nodes[0].listen]
    owned = ctl.json("simulate", a_get(nodes[0].listen, keys[itself]))
    assert (owned["verdict"]["verdict"], owned["verdict"]["reason"]) == ("LOCAL", "OWNER")
    other = next(id for id in keys if id != itself)
    sent_on = ctl.json("simulate", a_get(nodes[0].listen, keys[other]))
    assert (sent_on["verdict"]["verdict"], sent_on["verdict"]["next_hop"]) == ("FORWARD", other)
    assert "FORWARD" in good(ctl("simulate", a_get(nodes[0].listen, keys[other]))).decode()


def test_simulate_of_a_file_and_of_what_is_no_packet(ctl, nodes, tmp_path):
    (tmp_path / "packet").write_bytes(bytes.fromhex(a_get(nodes[0].listen)))
    assert ctl.json("simulate", tmp_path / "packet")["verdict"]["verdict"] in ("LOCAL", "FORWARD")
    bad(ctl("simulate", tmp_path / "none"), 2, "give hexadecimal digits or a file")
    bad(ctl("simulate", tmp_path / "packet", "1"), 2, str(tmp_path / "packet"))


# --- join


def test_join_brings_two_clusters_together(ctl, nodes, tmp_path):
    host = "127.0.0.4"
    port = nodes[0].listen.rpartition(":")[2]
    apart = DevNode(tmp_path / "n4", f"{host}:{port}").wait_ready()
    try:
        found = Ctl(apart.control).json("join", nodes[0].listen)
        assert found["answered"] == [nodes[0].listen]
        apart.wait_ready(contacts=3)
        nodes[2].wait_ready(contacts=3)
        assert b"joined through" in good(Ctl(apart.control)("join", nodes[0].listen))
    finally:
        apart.end()


def test_a_silent_host_and_a_name_that_is_none(ctl):
    silent = f"127.0.0.9:{free_port('127.0.0.9')}"
    done = ctl("join", silent, "--timeout", "0.3")
    complained(done.returncode, done.stderr, 6, f"none of {silent} answered")
    bad(ctl("join", "no such host.invalid"), 2, "no such host.invalid")


def test_addresses_that_the_node_cannot_ask_are_refused(nodes, ctl):
    bad(ctl("join", "[fd00::1]:5348"), 1, "only IPv6 addresses, and this node has none")
