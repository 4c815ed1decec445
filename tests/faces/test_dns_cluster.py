"""The DNS face at a real node that asks for tokens."""

from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
import tokens
from daemons import free_port

from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.wire.rights import Right

HOST = "127.63.1.1"
SECONDS = 60.0


def code_of(port: int, name: str) -> tuple[int, set[str]] | None:
    """The answer's code and addresses; None without an answer."""
    try:
        reply = dns.query.udp(dns.message.make_query(name, "A"), HOST, port=port, timeout=5)
    except (dns.exception.DNSException, OSError):
        return None
    return reply.rcode(), {rdata.address for rrset in reply.answer for rdata in rrset}


@pytest.fixture
def start(tmp_path: Path):
    """Starts a node whose reads need tokens, with a face that has these settings."""
    running: list[Cluster] = []

    def started(**dns_settings: object) -> tuple[LabNode, int]:
        port = free_port(HOST)
        tables = dict(tokens.settings(reads="token"))
        tables["dns"] = {"listen": [f"{HOST}:{port}"], **dns_settings}
        cluster = Cluster(places_on_loopback(1), tmp_path, datapath="socket", settings=tables)
        running.append(cluster.__enter__())
        node = cluster.nodes[0]
        wait_until(lambda: code_of(port, "ns.kdht") == (dns.rcode.NOERROR, {HOST}), "the face", SECONDS)
        return node, port

    yield started
    for cluster in running:
        cluster.__exit__(None, None, None)


def announce(node: LabNode, scope: str, host: str) -> None:
    maker = tokens.token(scope=scope).text
    with Client(str(node.address), token=maker) as client:
        client.announce_once("web", f"{host}:80".encode(), ttl=600)


def test_names_are_read_with_the_faces_token_in_its_scope(
    start: Callable[..., tuple[LabNode, int]], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(tokens.token(scope="services", rights=Right.READ).text + "\n")
    node, port = start(token_file=str(file))
    announce(node, "", "10.0.0.1")
    announce(node, "services", "10.0.0.2")
    found = (dns.rcode.NOERROR, {"10.0.0.2"})
    wait_until(lambda: code_of(port, "web.kdht") == found, "the name", SECONDS)


def test_without_the_right_to_read_it_fails_and_goes_on(start: Callable[..., tuple[LabNode, int]]) -> None:
    node, port = start()
    announce(node, "", "10.0.0.1")
    wait_until(lambda: code_of(port, "web.kdht") == (dns.rcode.SERVFAIL, set()), "a refusal", SECONDS)
    assert code_of(port, "ns.kdht") == (dns.rcode.NOERROR, {HOST})
