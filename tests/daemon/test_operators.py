"""What an operator does to a cluster of real daemons: too few live, forget, drain and call it off."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ctl import Ctl, bad, complained, good
from pages import ask

from kdht.client import Client
from kdht.errors import NOT_READY, NoDaemon, Unconfirmed
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until

METRICS = "127.0.0.1:9549"
PATIENT = 60.0
"""Seconds that a client would wait: whoever is refused at once does not notice."""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    settings = {"replication": {"replicas": 3}}
    cluster = Cluster(places_on_loopback(3), tmp_path, datapath="socket", settings=settings)
    first = cluster.nodes[0]
    first.config.write_text(first.config.read_text() + f'[metrics]\nlisten = "{METRICS}"\n')
    with cluster:
        yield cluster


def ctl_of(node: LabNode) -> Ctl:
    return Ctl(node.control)


def put(node: LabNode, key: str, value: bytes = b"value") -> None:
    with Client(str(node.address), timeout=PATIENT) as client:
        client.put(key, value)


def alone(first: LabNode, *others: LabNode) -> None:
    """Kill the others, and wait until the first one has noticed."""
    for node in others:
        node.kill()
    wait_until(lambda: first.status()["contacts"] == 0, "the dead to be noticed")


def page(query: str = "") -> tuple[int, str]:
    said = ask(f"http://{METRICS}/readyz{query}")
    return said.status, said.body


def test_a_write_with_too_few_nodes_is_refused_at_once(three: Cluster) -> None:
    first, *others = three.nodes
    put(first, "before")
    assert page() == page("?writes") == (200, "ready\nready for writes\n")
    assert (first.status()["writable"], first.status()["gone"]) == (True, [])
    alone(first, *others)
    before = first.stats()["requests"]
    with pytest.raises(
        Unconfirmed, match="nothing was changed: fewer nodes live than must confirm a write"
    ) as refused:
        put(first, "after")
    assert refused.value.status == "TOO_FEW"
    after = first.stats()["requests"]
    assert after["PUT TOO_FEW"] == 1, "one try"
    assert after.get("PUT OK") == before.get("PUT OK")
    assert first.stats()["replication"]["writes_too_few"] == 1
    why = "2 nodes must confirm a write, and 1 lives"
    status = first.status()
    assert why in status["not_writable"]
    assert (status["writable"], len(status["gone"])) == (False, 2)
    if status["ready"]:  # that is about serving what can be read
        code, body = page()
        assert (code, body.startswith("ready\nnot ready for writes: ")) == (200, True)
    code, body = page("?writes")
    assert code == 503
    assert why in body or "waiting for" in body
    metrics = ask(f"http://{METRICS}/metrics").body
    assert "\nkdht_writable 0.0\n" in metrics
    assert "\nkdht_gone 2.0\n" in metrics
    assert b"refused: 2 nodes must confirm a write" in ctl_of(first)("status").stdout  # ready or not
    found = ctl_of(first)("doctor")
    assert why.encode() in found.stdout
    bad(ctl_of(first)("put", "after", "value"), 9, "nothing was changed")
    others[0].start()
    wait_until(lambda: first.status()["writable"], "the write to be possible again")
    put(first, "after")


def test_forget_removes_dead_nodes_for_the_next_start_too(three: Cluster) -> None:
    first, second, third = three.nodes
    third.kill()
    wait_until(lambda: first.status()["contacts"] == second.status()["contacts"] == 1, "the death to be seen")
    id = next(each["id"] for each in first.status()["gone"])
    bad(ctl_of(first)("forget", str(second.address)), 1, "lives: only a dead node is forgotten")
    bad(ctl_of(first)("forget", "127.0.0.99:1"), 1, "this node remembers nobody at 127.0.0.99:1")
    bad(ctl_of(first)("forget", "zz" * 20), 1, "is no ID")
    told = ctl_of(second).json("forget", str(third.address))
    assert (told["id"], told["unknown"], told["silent"]) == (id, [], [])
    assert sorted(told["forgot"]) == sorted(str(node.address) for node in (first, second))
    assert first.status()["gone"] == second.status()["gone"] == []
    assert b"not remembered by" in good(ctl_of(first)("forget", id))
    good(ctl_of(second)("drain"))
    wait_until(lambda: first.status()["writable"], "one node to be enough")
    put(first, "alone")
    first.stop()
    first.start()
    wait_until(lambda: first.ready(0), "it to be ready again")
    assert first.status()["gone"] == []
    put(first, "alone again")


def test_a_restarted_node_still_counts_the_others(three: Cluster) -> None:
    first, *others = three.nodes
    alone(first, *others)
    first.stop()
    first.start()

    def has_looked() -> bool:
        with suppress(NoDaemon):
            status = first.status()
            return status["joined"] and "table" not in status["waiting_for"]
        return False

    wait_until(has_looked, "it to have looked for the others", PATIENT)
    assert "replicas" in first.status()["waiting_for"]
    assert len(first.status()["gone"]) == 2
    assert "must confirm" in first.status()["not_writable"]
    with pytest.raises(Unconfirmed):
        put(first, "refused")


def test_a_drain_is_called_off_and_the_node_serves_as_before(three: Cluster) -> None:
    first, second, third = three.nodes
    values = {f"key {n}": b"%d" % n for n in range(300)}
    with Client(str(first.address)) as client:
        client.put_many(values)
    wait_until(lambda: third.status()["records"] == 300, "all to be everywhere")
    bad(ctl_of(third)("drain", "--cancel"), 1, "no drain goes on")
    os.kill(second.pid, signal.SIGSTOP)  # it takes nothing, so the drain has no end
    try:
        drain = ctl_of(third).start("drain")
        wait_until(lambda: third.status()["repair"].get("draining"), "the drain to begin")
        drain.send_signal(signal.SIGINT)
        out, said = drain.communicate(timeout=PATIENT)
        complained(drain.returncode, said, 130, "the drain continues", "drain --cancel cancels it")
        assert out == b""
        shown = ctl_of(third)("status")
        assert (shown.returncode, "--cancel" in shown.stdout.decode()) == (NOT_READY, True)
    finally:
        os.kill(second.pid, signal.SIGCONT)
    pid = third.pid
    assert b"called off" in good(ctl_of(third)("drain", "--cancel"))
    three.wait_ready()
    assert (third.alive(), third.pid) == (True, pid)
    assert not third.status()["repair"]["draining"]
    wait_until(lambda: third.status()["records"] == 300, "it to have all again")
    assert ctl_of(first)("cluster").returncode == 0
    with Client(str(third.address)) as client:
        assert client.get_many(values) == values
        client.put("after", b"value")
    good(ctl_of(third)("drain"))
    assert third.wait_end() == 0


def test_a_drain_that_is_over_can_be_called_off_too(three: Cluster) -> None:
    first, _, third = three.nodes
    with Client(str(first.address)) as client:
        client.put_many({f"key {n}": b"value" for n in range(50)})
    wait_until(lambda: third.call("drain")["drained"], "all to be given away")
    assert third.status()["records"] == 0
    good(ctl_of(third)("drain", "--cancel"))
    three.wait_ready()
    wait_until(lambda: third.status()["records"] == 50, "it to have all again")


def test_a_daemon_that_starts_anew_still_ends_by_a_signal(three: Cluster) -> None:
    third = three.nodes[2]
    third.call("drain")
    third.call("stay")
    assert third.stop() == 0
