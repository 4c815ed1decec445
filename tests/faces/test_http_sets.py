"""/sets/NAME, watches as server-sent events, and web pages: against a real node."""

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from http_nodes import PATIENCE, Caller, HttpNode, caller, http_node

from kdht import Client
from kdht.lab.wait import wait_until

HOST = "127.62.2.1"
PAGE_HOST = "127.62.2.2"


class Page(BaseHTTPRequestHandler):
    """A web page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    server = ThreadingHTTPServer((PAGE_HOST, 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{PAGE_HOST}:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[HttpNode]:
    with http_node(tmp_path_factory.mktemp("http"), HOST, f'cors = ["{page}"]') as node:
        yield node


@pytest.fixture
def ask(node: HttpNode) -> Iterator[Caller]:
    with caller(node) as made:
        yield made


def test_members_come_and_go(ask: Caller) -> None:
    assert ask("GET", "/sets/web").json == {"members": []}
    put = ask("PUT", "/sets/web", b"10.0.0.7:80", TTL="60")
    assert (put.status, put.json["ttl"]) == (200, 60)
    assert ask("PUT", "/sets/web?member=b", b"\xff\xfe").json["ttl"] == 30
    found = sorted(ask("GET", "/sets/web?quorum").json["members"], key=lambda each: each["payload_base64"])
    assert [(each["payload"], each["payload_base64"]) for each in found] == [
        (None, "//4="),
        ("10.0.0.7:80", "MTAuMC4wLjc6ODA="),
    ]
    assert 0 < found[0]["ttl"] <= 30 < found[1]["ttl"] <= 60
    head = ask("HEAD", "/sets/web")
    assert (head.status, head.body) == (200, b"")
    assert ask("GET", "/sets/web?sample").json.keys() == {"members"}
    assert ask("PUT", "/sets/web?member=b", b"new payload").status == 200
    assert ask("DELETE", "/sets/web?payload=10.0.0.7:80").status == 204
    assert ask("DELETE", "/sets/web?payload=10.0.0.7:80").code == "not_found"
    assert [each["payload"] for each in ask("GET", "/sets/web").json["members"]] == ["new payload"]
    assert ask("DELETE", "/sets/web?member=b").status == 204


def test_what_is_no_member_is_refused(ask: Caller) -> None:
    assert ask("PUT", "/sets/bad", bytes(257)).code == "too_large"
    assert ask("PUT", "/sets/bad", b"x", TTL="86401").code == "bad_ttl"
    assert ask("DELETE", "/sets/bad").code == "which_member"
    assert ask("DELETE", "/sets/bad?member=a&payload=b").code == "which_member"
    assert ask("GET", "/sets/bad?payload=b").code == "bad_target"
    assert ask("GET", "/sets/bad").json == {"members": []}


def test_a_set_of_thousands_is_sent_as_it_is(ask: Caller, node: HttpNode) -> None:
    with Client(node.listen) as client:
        for number in range(600):
            client.announce_once("crowd", b"member %d" % number, 600)
    got = ask("GET", "/sets/crowd?quorum")
    assert {each["payload"] for each in got.json["members"]} == {f"member {n}" for n in range(600)}
    assert int(ask("HEAD", "/sets/crowd?quorum").headers["Content-Length"]) > 50_000


# --- Watches


class Events:
    """A stream of server-sent events, read as the standard says."""

    def __init__(self, node: HttpNode, path: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection(node.host, node.port, timeout=PATIENCE)
        self.connection.request(
            "GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["Content-Type"] == "text/event-stream"
        self.id = ""

    def next(self) -> Any:
        """The data of the next event; None for a comment."""
        data: list[str] = []
        comment = False
        while line := self.answer.readline().decode().rstrip("\n"):
            field, _, value = line.partition(":")
            comment = comment or not field
            data += [value.removeprefix(" ")] if field == "data" else []
            self.id = value.removeprefix(" ") if field == "id" else self.id
        assert comment or data, "the stream ended"
        return json.loads("\n".join(data)) if data else None


@contextlib.contextmanager
def watched(node: HttpNode, path: str, **headers: str) -> Iterator[Events]:
    events = Events(node, path, **headers)
    try:
        yield events
    finally:
        events.answer.close()
        events.connection.close()


def test_a_watch_of_a_value(ask: Caller, node: HttpNode) -> None:
    with watched(node, "/kv/light?watch") as light:
        assert light.next() == {"exists": False}
        version = ask("PUT", "/kv/light", b"on", TTL="60").json["version"]
        told = light.next()
        assert 0 < told.pop("ttl") <= 60
        assert told == {"exists": True, "version": version, "size": 2, "value": "on", "value_base64": "b24="}
        assert light.id == version
        ask("DELETE", "/kv/light")
        assert light.next() == {"exists": False}
        ask("PUT", "/kv/light", bytes(100_000))
        told = light.next()
        assert (told["size"], "value" in told) == (100_000, False)


def test_who_comes_back_is_told_only_what_is_new(ask: Caller, node: HttpNode) -> None:
    version = ask("PUT", "/kv/known", b"1").json["version"]
    with watched(node, "/kv/known?watch", Last_Event_ID=version) as known:
        assert known.next() is None
        ask("PUT", "/kv/known", b"2")
        assert known.next()["value"] == "2"
    with watched(node, "/kv/known?watch", Last_Event_ID=version) as known:
        assert known.next()["value"] == "2"


def test_a_watch_of_a_set(ask: Caller, node: HttpNode) -> None:
    with watched(node, "/sets/lamps?watch") as lamps:
        assert lamps.next() == {"members": []}
        ask("PUT", "/sets/lamps?member=a", b"on")
        assert [each["payload"] for each in lamps.next()["members"]] == ["on"]
        known = lamps.id
        ask("DELETE", "/sets/lamps?member=a")
        assert lamps.next() == {"members": []}
        assert lamps.id != known


def test_a_watch_is_a_get(ask: Caller) -> None:
    assert ask("HEAD", "/kv/light?watch").status == 400
    assert ask("GET", "/kv/light?watch&quorum").code == "bad_target"


# --- Web pages


def test_without_an_allowed_origin_nothing_is_allowed(ask: Caller, page: str) -> None:
    for origin in ("https://evil.example", f"{page}.evil.example", "null"):
        said = ask("GET", "/kv/greeting", Origin=origin)
        assert "Access-Control-Allow-Origin" not in said.headers
        asked = ask("OPTIONS", "/kv/greeting", Origin=origin, Access_Control_Request_Method="PUT")
        assert asked.status == 405


def test_an_allowed_origin_may_ask_and_read(ask: Caller, page: str) -> None:
    asked = ask("OPTIONS", "/kv/greeting", Origin=page, Access_Control_Request_Method="PUT")
    assert (asked.status, asked.headers["Access-Control-Allow-Methods"]) == (204, "GET, HEAD, PUT, DELETE")
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    said = ask("GET", "/kv/greeting", Origin=page)
    assert (said.headers["Access-Control-Allow-Origin"], said.headers["Vary"]) == (page, "Origin")


def test_another_name_of_this_server_is_not_answered(ask: Caller) -> None:
    said = ask("GET", "/kv/greeting", Host="evil.example")
    assert (said.status, said.code) == (421, "unknown_host")
    assert ask("GET", "/kv/greeting", Host="localhost:1").status == 404


@pytest.mark.browser
def test_a_page_in_chromium_watches_and_writes(
    node: HttpNode, page: str, ask: Caller, tmp_path: Path
) -> None:
    """EventSource and fetch of another origin, which http.cors allows."""
    ask("PUT", "/kv/lamp", b"off")
    with browser(tmp_path) as driver:
        driver.get(page)
        driver.execute_script(
            """
            window.seen = [];
            const source = new EventSource(arguments[0]);
            source.onmessage = (event) => seen.push(JSON.parse(event.data).value);
            """,
            f"{node.url}/kv/lamp?watch",
        )
        wait_until(lambda: driver.execute_script("return seen") == ["off"], "the first event")
        status = driver.execute_async_script(
            """
            const [url, done] = arguments;
            fetch(url, {method: "PUT", body: "on", headers: {TTL: "600"}})
                .then((answer) => done([answer.status, answer.headers.get("etag")]));
            """,
            f"{node.url}/kv/lamp",
        )
        assert status == [200, ask("GET", "/kv/lamp").headers["ETag"]]
        wait_until(lambda: driver.execute_script("return seen") == ["off", "on"], "the second event")
        # The face ends, and is started again by kdhtd: the browser comes back, and is told nothing twice.
        os.kill(node.face()["pid"], signal.SIGKILL)
        wait_until(lambda: node.face()["up"] and node.face()["starts"] == 2, "the face")
        with caller(node) as again:
            again("PUT", "/kv/lamp", b"blink")
        wait_until(lambda: driver.execute_script("return seen.at(-1)") == "blink", "the third event")
        assert driver.execute_script("return seen") == ["off", "on", "blink"]
