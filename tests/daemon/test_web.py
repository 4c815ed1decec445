"""What the web page's script asks for, and who is answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from daemons import DevNode
from pages import ask
from web_nodes import web_nodes

from kdht import __version__
from kdht.config import dev
from kdht.daemon.pages import web
from kdht.daemon.pages.recent import MOST, RecentEvents, Sight
from kdht.wire import hash_key
from kdht.wire._shared import Reason

HOSTS = ("127.60.2.1", "127.60.2.2", "127.60.2.3")
AT = f"{HOSTS[0]}:5380"
URL = f"http://{AT}"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    """Three; the first has the page, and the metrics at the same address."""
    with web_nodes(tmp_path_factory.mktemp("web"), HOSTS, "--web", AT, "--metrics", AT) as started:
        yield started


def test_the_page_and_its_files_come_with_the_policy(nodes: list[DevNode]) -> None:
    for path, (name, content_type) in web.FILES.items():
        said = ask(f"{URL}{path}")
        assert (said.status, said.headers["Content-Type"]) == (200, content_type)
        assert said.body == (Path(web.__file__).parent / "page" / name).read_text()
        policy = said.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


def test_the_metrics_may_share_the_address(nodes: list[DevNode]) -> None:
    assert ask(f"{URL}/healthz").status == 200
    assert ask(f"{URL}/metrics").body.count("kdht_contacts 2.0") == 1


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:5380", "127.0.0.1.evil.example", "", "[::1", "a@b"]
)
def test_a_foreign_name_reads_nothing(nodes: list[DevNode], name: str) -> None:
    for path in ("/", "/api/status", "/api/trace?key=greeting"):
        said = ask(f"{URL}{path}", Host=name)
        assert said.status == 403
        assert HOSTS[1] not in said.body


@pytest.mark.parametrize("name", ["localhost", "localhost:1", "127.0.0.1", "[::1]:5380", "10.0.0.1"])
def test_this_machines_names_are_answered(nodes: list[DevNode], name: str) -> None:
    assert ask(f"{URL}/api/status", Host=name).status == 200


def test_status_has_the_cluster_as_the_node_sees_it(nodes: list[DevNode]) -> None:
    said = json.loads(ask(f"{URL}/api/status").body)
    told = [node.call("status") for node in nodes]
    assert said["self"]["node_id"] == told[0]["node_id"]
    assert said["not_ready"] == ""
    assert {node["id"] for node in said["nodes"]} == {status["node_id"] for status in told}
    assert [node["own"] for node in said["nodes"]] == [True, False, False]
    assert sum(node["share"] for node in said["nodes"]) == 1
    assert said["verdicts"]["BAD_TAG"] == "DROP"
    assert said["packets"]["socket"]["CONTROL"] > 0
    assert dev.SECRET not in json.dumps(said)


def test_trace_gives_the_way_and_ends_at_the_owner(nodes: list[DevNode]) -> None:
    said = json.loads(ask(f"{URL}/api/trace?key=greeting").body)
    ids = [node.call("status")["node_id"] for node in nodes]
    key = hash_key("greeting")
    owner = min(ids, key=lambda each: int(each, 16) ^ int.from_bytes(key, "big"))
    assert said["id"] == key.hex()
    assert said["hops"][0]["id"] == ids[0]
    assert [hop["owner"] for hop in said["hops"]] == [hop["id"] == owner for hop in said["hops"]]
    assert said["hops"][-1]["id"] == owner
    assert all(hop["rtt_ms"] > 0 for hop in said["hops"])
    assert {replica["id"] for replica in said["replicas"]} == set(ids)
    assert {replica["bytes"] for replica in said["replicas"]} == {len("hello")}
    assert len({replica["version"] for replica in said["replicas"]}) == 1


@pytest.mark.parametrize("query", ["", "?key=", "?other=1", f"?key={'x' * 1025}"])
def test_an_invalid_trace_is_refused(nodes: list[DevNode], query: str) -> None:
    said = ask(f"{URL}/api/trace{query}")
    assert said.status == 400
    assert json.loads(said.body) == {"error": "a key has 1 to 1024 bytes"}


def test_the_cluster_is_told_by_each_neighbour(nodes: list[DevNode]) -> None:
    said = json.loads(ask(f"{URL}/api/cluster").body)
    told = {node.call("status")["node_id"]: node.listen for node in nodes[1:]}
    assert {each["id"]: each["address"] for each in said["nodes"]} == told
    assert said["left_out"] == 0
    for each in said["nodes"]:
        assert each["rtt_ms"] > 0
        assert (each["said"]["ready"], each["said"]["version"]) == (True, __version__)
        assert (each["said"]["contacts"], each["said"]["records"]) == (2, 1)
        assert 0 <= each["said"]["uptime"] < 3600


def test_reasons_have_meanings(nodes: list[DevNode]) -> None:
    said = json.loads(ask(f"{URL}/api/reasons").body)
    assert set(said) == {reason.name for reason in Reason}
    assert not [text for text in said.values() if "{" in text or not text.endswith((".", ". "))]


# --- Events ----------------------------------------------------------------------------------


def sight(nodes: str = "abc", left: int = 0, paths: dict[str, str] | None = None, epochs: tuple[int, ...] = (1,),
          waits: tuple[str, ...] = ()) -> Sight:  # fmt: skip
    return Sight({each: f"10.0.0.{each}" for each in nodes}, left, paths or {"socket": "up"}, epochs, waits)


@pytest.mark.parametrize(
    ("now", "events"),
    [
        (sight(), []),
        (sight("abcd"), [("joined", "10.0.0.d")]),
        (sight("ab"), [("died", "10.0.0.c")]),
        (sight("ab", left=1), [("left", "10.0.0.c")]),
        (sight("a", left=1), [("gone", "10.0.0.c"), ("gone", "10.0.0.b")]),
        (sight(paths={"socket": "up", "ebpf": "degraded"}), [("degraded", "datapath ebpf: degraded")]),
        (sight(epochs=(2, 1)), [("rotated", "key epochs 1 to 2, 1")]),
        (sight(waits=("records",)), [("waiting", "this node, for records")]),
    ],
)
def test_what_differs_between_two_looks_is_an_event(now: Sight, events: list[tuple[str, str]]) -> None:
    recent = RecentEvents({})
    recent.look(sight(), 1.0)
    recent.look(now, 2.0)
    assert [event[1:] for event in recent.newest_first] == events


def test_events_are_bounded_and_many_deaths_are_one_line() -> None:
    recent = RecentEvents({})
    everybody = "".join(chr(ord("a") + number) for number in range(26))
    for number in range(100):
        recent.look(sight(everybody if number % 2 else "a"), float(number))
    kept = recent.newest_first
    assert len(kept) == MOST
    assert kept[0] == (99.0, "joined", "15 more")


# --- Shares ----------------------------------------------------------------------------------


def test_shares_are_those_of_keys_that_are_counted() -> None:
    """With IDs of 2 hex digits, every key can be tried."""
    rng = Random(7)
    for count in (1, 2, 3, 5, 30, 256):
        numbers = rng.sample(range(256), count)
        shares = web.key_shares([f"{number:02x}" for number in numbers])
        closest = [min(numbers, key=lambda number: number ^ key) for key in range(256)]
        assert shares == {f"{number:02x}": closest.count(number) / 256 for number in numbers}
