"""/kv/NAME against a real node: versions, conditions, parts, TTLs, and values of some MB both ways."""

import os
import random
import signal
import threading
from collections.abc import Iterator

import pytest
from daemons import KDHTCTL, run
from http_nodes import Caller, HttpNode, caller, http_node

from kdht import Client
from kdht.client import MAX_LARGE

HOST = "127.62.1.1"
LARGE = random.Random(62).randbytes(900_007)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpNode]:
    with http_node(tmp_path_factory.mktemp("http"), HOST, "rate = 0") as node:
        yield node


@pytest.fixture
def ask(node: HttpNode) -> Iterator[Caller]:
    with caller(node) as made:
        yield made


def test_a_value_with_its_version(ask: Caller, node: HttpNode) -> None:
    assert ask("GET", "/kv/greeting").code == "not_found"
    put = ask("PUT", "/kv/greeting", b"hello")
    assert put.status == 200
    got = ask("GET", "/kv/greeting")
    assert (got.status, got.body) == (200, b"hello")
    assert got.headers["ETag"] == put.headers["ETag"] == f'"{put.json["version"]}"'
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Cache-Control"] == "no-cache"
    assert "TTL" not in got.headers
    assert run([*KDHTCTL, "get", "greeting", "--node", node.listen]).stdout == "hello"
    head = ask("HEAD", "/kv/greeting")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")
    assert ask("GET", "/kv/greeting?quorum").body == b"hello"
    assert (ask("DELETE", "/kv/greeting").status, ask("DELETE", "/kv/greeting").status) == (204, 404)
    assert ask("HEAD", "/kv/greeting").status == 404


def test_one_connection_serves_many_requests(ask: Caller) -> None:
    ask("PUT", "/kv/kept", b"x")
    sock = ask.connection.sock
    for path in ("/kv/kept", "/kv/nothing", "/kv/a//b", "/elsewhere", "/kv/kept?typo", "/sets/none"):
        ask("GET", path)
        ask("DELETE", path)
    assert ask.connection.sock is sock


def test_names_may_have_slashes_and_any_letters(ask: Caller, node: HttpNode) -> None:
    ask("PUT", "/kv/users/%C3%A4%20%3F", b"x")
    assert ask("GET", "/kv/users%2F%c3%a4%20%3f").body == b"x"
    assert run([*KDHTCTL, "get", "users/ä ?", "--node", node.listen]).stdout == "x"


def test_an_empty_value_is_a_value(ask: Caller) -> None:
    assert ask("PUT", "/kv/empty").status == 200
    got = ask("GET", "/kv/empty")
    assert (got.status, got.body) == (200, b"")
    assert ask("GET", "/kv/empty", Range="bytes=0-").code == "bad_range"


def test_compare_and_set(ask: Caller) -> None:
    path = "/kv/counter"
    first = ask("PUT", path, b"1", If_None_Match="*")
    assert first.status == 201
    again = ask("PUT", path, b"2", If_None_Match="*")
    assert (again.status, again.code, again.json["done"]) == (412, "conflict", "no")
    assert again.json["version"] == first.json["version"]
    old = first.headers["ETag"]
    second = ask("PUT", path, b"2", If_Match=old)
    assert second.status == 200
    assert ask("PUT", path, b"3", If_Match=old).status == 412
    assert ask("DELETE", path, If_Match=old).status == 412
    assert ask("PUT", path, b"3", If_Match=f'"77", {second.headers["ETag"]}').status == 200
    assert ask("PUT", path, b"4", If_Match="*").status == 200
    assert ask("PUT", path, b"5", If_Match=f"W/{second.headers['ETag']}").status == 412
    now = ask("GET", path)
    assert now.body == b"4"
    assert ask("PUT", path, b"5", If_None_Match=now.headers["ETag"]).status == 412
    assert ask("DELETE", path, If_Match=now.headers["ETag"]).status == 204
    assert ask("PUT", path, b"5", If_Match="*").status == 412
    assert ask("PUT", path, b"5", If_Match="5").code == "bad_condition"


def test_of_two_who_change_a_counter_none_is_lost(node: HttpNode) -> None:
    def increment() -> None:
        with caller(node) as ask:
            for _ in range(10):
                while True:
                    now = ask("GET", "/kv/both?quorum")
                    number = int(now.body) + 1
                    if ask("PUT", "/kv/both", str(number), If_Match=now.headers["ETag"]).status == 200:
                        break

    with caller(node) as ask:
        ask("PUT", "/kv/both", b"0")
        threads = [threading.Thread(target=increment) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ask("GET", "/kv/both").body == b"20"


def test_reads_with_conditions(ask: Caller) -> None:
    tag = ask("PUT", "/kv/read", b"x").headers["ETag"]
    unchanged = ask("GET", "/kv/read", If_None_Match=f'"1", {tag}')
    assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", tag)
    assert ask("GET", "/kv/read", If_None_Match='"1"').status == 200
    assert ask("GET", "/kv/read", If_Match='"1"').status == 412
    assert ask("GET", "/kv/read", If_Match=tag).status == 200


def test_a_ttl(ask: Caller) -> None:
    ask("PUT", "/kv/short", b"x", TTL="60")
    assert 0 < int(ask("GET", "/kv/short").headers["TTL"]) <= 60
    for wrong in ("0", "-1", "1.5", "x", "", "4294967296", "1, 2", "\u00b2"):
        assert ask("PUT", "/kv/short", b"y", TTL=wrong).code == "bad_ttl"
    assert ask("GET", "/kv/short").body == b"x"


def test_parts_of_a_small_value(ask: Caller) -> None:
    tag = ask("PUT", "/kv/digits", b"0123456789").headers["ETag"]
    part = ask("GET", "/kv/digits", Range="bytes=2-4")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert ask("GET", "/kv/digits", Range="bytes=-3", If_Range=tag).body == b"789"
    assert ask("GET", "/kv/digits", Range="bytes=-3", If_Range='"1"').status == 200
    beyond = ask("GET", "/kv/digits", Range="bytes=10-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */10")
    head = ask("HEAD", "/kv/digits", Range="bytes=2-4")
    assert (head.status, head.headers["Content-Length"]) == (206, "3")


@pytest.mark.parametrize("how", ["whole", "chunked"])
def test_a_large_value_goes_both_ways(ask: Caller, node: HttpNode, how: str) -> None:
    path = f"/kv/large/{how}"
    body = LARGE if how == "whole" else iter([LARGE[:1000], LARGE[1000:500_000], LARGE[500_000:]])
    put = ask("PUT", path, body)
    assert put.status == 200
    got = ask("GET", path)
    assert (got.body, got.headers["ETag"]) == (LARGE, put.headers["ETag"])
    assert ask("GET", path, Range="bytes=400000-400999").body == LARGE[400_000:401_000]
    assert ask("GET", path, Range="bytes=-5").body == LARGE[-5:]
    assert ask("HEAD", path).headers["Content-Length"] == str(len(LARGE))
    assert ask("PUT", path, LARGE, If_Match='"1"').status == 412
    assert ask("PUT", path, LARGE[::-1], If_Match=put.headers["ETag"]).status == 200
    assert ask("GET", path).body == LARGE[::-1]
    assert ask("PUT", path, b"small again").status == 200
    assert ask("GET", path).body == b"small again"
    assert ask("DELETE", path).status == 204
    assert node.call("stats")["storage"]["records"] < 50


def test_who_waits_to_send_a_large_value_hears_of_the_condition_first(ask: Caller) -> None:
    connection = ask.connection
    ask("PUT", "/kv/expected", b"x")
    connection.putrequest("PUT", "/kv/expected")
    for name, value in (("Content-Length", "5000000"), ("Expect", "100-continue"), ("If-Match", '"1"')):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 412


def test_bodies_that_cannot_be_stored_as_they_are(ask: Caller) -> None:
    ask("PUT", "/kv/kept", b"old")
    assert ask("PUT", "/kv/kept", b"x", Content_Encoding="gzip").code == "encoded"
    assert ask("PUT", "/kv/kept", b"x", Content_Range="bytes 0-0/9").code == "partial_put"
    ask.connection.putrequest("PUT", "/kv/kept")
    ask.connection.putheader("Content-Length", str(MAX_LARGE + 1))
    ask.connection.endheaders()
    assert ask.connection.getresponse().status == 413
    ask.close()
    assert ask("GET", "/kv/kept").body == b"old"


def test_a_sender_that_goes_away_half_way_leaves_the_old_value(ask: Caller, node: HttpNode) -> None:
    ask("PUT", "/kv/half", b"old")
    with caller(node) as other:
        other.connection.putrequest("PUT", "/kv/half")
        other.connection.putheader("Content-Length", str(len(LARGE)))
        other.connection.endheaders()
        other.connection.send(LARGE[:700_000])
    assert ask("GET", "/kv/half").body == b"old"


def test_what_is_misspelt_is_not_ignored(ask: Caller) -> None:
    assert ask("GET", "/kv/a?qourum").code == "bad_target"
    assert ask("PUT", "/kv/a?quorum", b"x").code == "bad_target"
    assert ask("GET", "/kv/a?quorum=perhaps").code == "bad_target"
    wrong = ask("POST", "/kv/a", b"x")
    assert (wrong.code, wrong.headers["Allow"]) == ("wrong_method", "GET, HEAD, PUT, DELETE")
    ask.close()
    assert ask("GET", "/").code == "no_such_path"


def test_a_face_that_stands_still_does_not_hold_up_the_node(node: HttpNode) -> None:
    """They share no loop and no lock. What waits for the face waits; the node's clients do not."""
    with caller(node) as ask, Client(node.listen) as client:
        ask("PUT", "/kv/still", b"x")
        pid = node.face()["pid"]
        waiting = [Caller(node.host, node.port) for _ in range(20)]
        os.kill(pid, signal.SIGSTOP)
        try:
            for connection in waiting:
                connection.connection.putrequest("PUT", "/kv/still")
                connection.connection.putheader("Content-Length", str(len(LARGE)))
                connection.connection.endheaders()
            assert client.get("still") == b"x"
            client.put("still", b"y")
            assert node.call("status")["ready"]
        finally:
            os.kill(pid, signal.SIGCONT)
            for connection in waiting:
                connection.close()
        assert ask("GET", "/kv/still").body == b"y"
