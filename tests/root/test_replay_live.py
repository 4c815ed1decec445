"""What a node of a real cluster gets, recorded, and replayed through all implementations.

client   n1   n2   n3   n4        and, for each live implementation, a laboratory of its own:
  |      |    |    |    |         wire --- bridge --- node
--+------+----+----+----+-- br0
"""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chain
import pytest
import replay_fixtures

from kdht import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.replay import tables
from kdht.replay.implementations import made

pytestmark = pytest.mark.root

REPLAY = [sys.executable, "-m", "kdht.replay.main"]
ALL = ("oracle", "core", "ebpf", "live-socket", "live-nfqueue", "live-ebpf")
LIVE = ALL[3:]


def replay(*arguments: str | Path) -> tuple[int, list[dict], str]:
    """Exit status, the JSON lines, and what was said."""
    done = subprocess.run(
        [*REPLAY, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, [json.loads(each) for each in done.stdout.splitlines()], done.stderr


def through(*names: str) -> list[str]:
    return [word for name in names for word in ("--impl", name)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A fixture recorded at one of four nodes while a client works, addresses and values replaced."""
    home = tmp_path_factory.mktemp("cluster")
    fixture = home / "fixture"
    with Lab("kr-cluster") as lab:
        places = places_in(lab, 4)
        client = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, home, datapath="nfqueue") as cluster:
            node = cluster.nodes[1]
            config = node.control.with_name("kdhtd.toml")
            command = ["record", str(fixture), "--interface", "eth0", "--socket", str(node.control)]
            options = ["--config", str(config), "--anonymise", "--drop-values", "--json"]
            recorder = node.host.popen([*REPLAY, *command, *options], stdout=subprocess.PIPE, text=True)
            wait_until(lambda: _listens(node.host), "the recorder to listen")
            with client.enter(), Client([node.address.host]) as kdht:
                for number in range(60):
                    kdht.put(f"key {number}", b"a secret value " * (number % 60))
                    assert kdht.get(f"key {number}") == b"a secret value " * (number % 60)
            recorder.send_signal(signal.SIGINT)
            said, _ = recorder.communicate(timeout=60)
            assert recorder.returncode == 0
    return fixture, json.loads(said)


def _listens(host) -> bool:
    with host.enter():
        return len(Path("/proc/thread-self/net/packet").read_text().splitlines()) > 1


def test_a_recording_has_the_verdicts_that_the_node_gave(recorded):
    fixture, said = recorded
    assert said["packets"] > 100
    assert {"ENTERED", "RELAYED", "OWNER"} <= {row["reason"] for row in said["reasons"]}
    assert said["lost"] == 0
    counted = {row["reason"]: row["packets"] for row in said["reasons"]}
    for reason in ("ENTERED", "RELAYED", "NEXT_HOP"):
        by_node = sum(lane.get(reason, 0) for lane in said["node_counted"].values())
        # Another node's path check, one a second, may be counted before or after the recording.
        assert 0 <= by_node - counted.get(reason, 0) <= (1 if reason == "NEXT_HOP" else 0)
    status, found, _ = replay("check", fixture)
    assert (status, found[0]["mismatches"]) == (0, [])


def test_a_recording_warns_of_packets_hidden_by_xdp(tmp_path):
    with Lab("kr-xdp") as lab:
        places = places_in(lab, 2)
        lab.let_xdp_send()
        client = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, tmp_path, datapath="ebpf") as cluster:
            node = cluster.nodes[1]
            command = [
                "record",
                str(tmp_path / "fixture"),
                "--interface",
                "eth0",
                "--socket",
                str(node.control),
            ]
            config = str(node.control.with_name("kdhtd.toml"))
            recorder = node.host.popen(
                [*REPLAY, *command, "--config", config, "--json"], stdout=subprocess.PIPE, text=True
            )
            wait_until(lambda: _listens(node.host), "the recorder to listen")
            with client.enter(), Client([node.address.host]) as kdht:
                for number in range(20):
                    kdht.put(f"key {number}", b"")
            recorder.send_signal(signal.SIGINT)
            said = json.loads(recorder.communicate(timeout=60)[0])
    assert said["packets"] > 0
    assert any("by the XDP program" in each for each in said["warnings"])


def test_a_recording_outlives_its_node(tmp_path):
    """A node that dies is what one wants to have recorded."""
    fixture = tmp_path / "fixture"
    with Lab("kr-gone") as lab:
        places = places_in(lab, 2)
        with Cluster(places, tmp_path, datapath="socket") as cluster:
            node = cluster.nodes[1]
            command = ["record", str(fixture), "--interface", "eth0", "--socket", str(node.control), "--json"]
            config = str(node.control.with_name("kdhtd.toml"))
            recorder = node.host.popen(
                [*REPLAY, *command, "--config", config], stdout=subprocess.PIPE, text=True
            )
            wait_until(lambda: _listens(node.host), "the recorder to listen")
            node.kill()
            with cluster.nodes[0].host.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
                there.sendto(chain.request(), (node.address.host, node.address.port))
            recorder.send_signal(signal.SIGINT)
            said = json.loads(recorder.communicate(timeout=60)[0])
    assert recorder.returncode == 0
    assert said["packets"] > 0
    assert said["node_counted"] == {}
    assert any("the node is gone" in each for each in said["warnings"])
    assert replay("check", fixture)[0] == 0


def test_a_recording_gives_nothing_away(recorded):
    fixture, _ = recorded
    everything = b"".join(path.read_bytes() for path in fixture.iterdir())
    assert b"a secret value" not in everything
    assert b"10.53.48." not in everything
    assert bytes((10, 53, 48)) not in everything


def test_all_implementations_agree_on_a_recording(recorded):
    fixture, said = recorded
    status, found, _ = replay(
        "diff", fixture / "capture.pcap", "--table", fixture / "table.json", *through(*ALL)
    )
    summary = found[-1]
    assert (status, len(found)) == (0, 1)
    assert summary["packets"] == said["packets"]
    assert summary["differences"] == dict.fromkeys(ALL[1:], 0)
    assert summary["not_comparable"]["live-nfqueue"] == 0
    assert summary["not_comparable"]["live-ebpf"] == 0


KERNEL_DROPS = ("MARTIAN", "BAD_CHECKSUM")


@pytest.mark.parametrize("name", ["hostile-ipv4", "hostile-ipv6", "right-ipv4", "right-ipv6", "not-ours"])
def test_hostile_packets_through_live_nodes(name):
    home = replay_fixtures.DIRECTORY / name
    status, found, said = replay(
        "diff", home / "capture.pcap", "--table", home / "table.json", *through("core", *LIVE)
    )
    told = [(each["number"], each["names"], each["what"], each["seen"], each["now"]) for each in found[:-1]]
    assert (status, told) == (0, []), said
    hidden = found[-1]["not_comparable"]
    # The kernel of a live node drops these itself, before any program sees them.
    dropped = sum(KERNEL_DROPS.count(word) for word in (home / "verdicts.txt").read_text().split())
    assert max(hidden["live-nfqueue"], hidden["live-ebpf"]) <= 2 + dropped
    assert hidden["live-socket"] <= 22


@pytest.mark.parametrize("name", LIVE)
def test_a_fault_in_the_reference_is_seen_against_a_live_node(name):
    """The core's table lacks the best next hop, so the live node sends elsewhere."""
    home = replay_fixtures.DIRECTORY / "right-ipv4"
    table = replay_fixtures.DIRECTORY.parent / "replay-two-hops.json"
    status, found, _ = replay(
        "diff", home / "capture.pcap", "--table", table, *through("core", name), "--fault", "core:next-hop"
    )
    assert status == 8
    assert any("sent from" in each["what"] for each in found[:-1])
    assert found[-1]["differences"][name] > 0


def test_the_test_run_agrees_on_all_fixtures():
    status, found, said = replay("check", replay_fixtures.DIRECTORY, *through("ebpf"))
    assert status == 0, said
    assert sum(each["packets"] for each in found) > 1000


@pytest.mark.parametrize("kind", ["mix", "mutations", "flood", "retransmissions"])
def test_three_implementations_agree_on_generated_traffic(tmp_path, kind):
    table = replay_fixtures.DIRECTORY / "right-ipv6/table.json"
    capture = tmp_path / "capture.pcap"
    assert replay("generate", capture, "--table", table, "--kind", kind, "--count", "3000")[0] == 0
    status, found, _ = replay("diff", capture, "--table", table)
    assert (status, len(found)) == (0, 1)
    assert found[0]["packets"] == 3000


def test_a_fault_in_the_test_run_is_found():
    home = replay_fixtures.DIRECTORY / "right-ipv4"
    status, found, _ = replay(
        "diff", home / "capture.pcap", "--table", home / "table.json", "--fault", "ebpf:hops"
    )
    assert status == 8
    assert found[0]["names"] == ["oracle", "ebpf"]
    assert found[0]["what"] == "other bytes in hops"


def test_large_frames_are_refused_by_the_test_run():
    from kdht.replay._capture import Batch

    table = tables.load(replay_fixtures.DIRECTORY / "right-ipv4/table.json")
    with made("ebpf", table) as ebpf:
        huge = b"\x45\x00\xff\xff" + bytes(65531)
        results = ebpf.run(Batch.of([huge, huge[:30000], b""], [0, 0, 0]), 0).results
    assert results.get(0).unable
    assert results.get(2).reason.name == "NOT_OURS"
