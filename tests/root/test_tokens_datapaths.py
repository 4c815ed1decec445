"""Tokens behind every datapath, over IPv4 and IPv6: a forged source, a replay and a stranger change and learn nothing."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import tokens
from builders import packet
from policy_changes import change_both_secrets, open_becomes_token

from kdht.client import Client
from kdht.errors import Denied, NotFound
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import FIELD, OFFSET, Address, Message, hash_key, parse
from kdht.wire._shared import HEADER_LEN, MAGIC, PORT, RECORD_LEN, Flag, Op, Right, Status
from kdht.wire.rights import EVERY_KEY, Token, open_token

pytestmark = pytest.mark.root

CLIENT = {4: "10.53.48.250", 6: "fd53:48::fa"}
VICTIM = {4: "10.53.48.251", 6: "fd53:48::fb"}
"""Nobody has this address."""


class Stage(NamedTuple):
    cluster: Cluster
    host: Host
    version: int

    def client(self, made: Token | None) -> Client:
        nodes = [str(self.address(node)) for node in self.cluster.nodes]
        return Client(nodes, token=made.text if made else "")

    @contextmanager
    def client_inside(self, made: Token | None) -> Iterator[Client]:
        """One on the client's host, for the thread that asks for it."""
        with self.host.enter(), self.client(made) as client:
            yield client

    def address(self, node: LabNode) -> Address:
        return next(each for each in node.place.addresses if each.is_ipv4 == (self.version == 4))

    def denied(self) -> int:
        return sum(sum(node.stats()["denied"].values()) for node in self.cluster.nodes)

    def reasons(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for node in self.cluster.nodes:
            counted.update(node.stats()["denied"])
        return counted

    def forge(self, data: bytes) -> None:
        """The datagram to every node, from the victim's address."""
        before = self.denied()
        with self.host.enter():
            family = socket.AF_INET if self.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                for node in self.cluster.nodes:
                    target = self.address(node)
                    frame = packet(data, Address.of(VICTIM[self.version], 4000), target)
                    raw.sendto(bytes(frame), (target.host, 0))
        wait_until(lambda: self.denied() >= before + len(self.cluster.nodes), "the refusals")


@pytest.fixture(scope="module", params=["socket", "nfqueue", "ebpf"])
def clusters(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cluster, Host]]:
    with Lab(f"t-tok-{request.param}") as lab:
        host = lab.host("client", ipv4=f"{CLIENT[4]}/24", ipv6=f"{CLIENT[6]}/64")
        places = places_in(lab, 3, ipv4=True, ipv6=True)
        if request.param == "ebpf":
            lab.let_xdp_send()
        settings = tokens.settings(reads="token", revoked=["gone"])
        directory = tmp_path_factory.mktemp("t")
        with Cluster(places, directory, datapath=request.param, settings=settings) as cluster:
            yield cluster, host


@pytest.fixture(params=[4, 6])
def stage(clusters: tuple[Cluster, Host], request: pytest.FixtureRequest) -> Stage:
    return Stage(*clusters, request.param)


def test_a_datagram_with_a_forged_source_changes_nothing(stage: Stage) -> None:
    name = f"forged {stage.version}"
    with stage.host.enter(), stage.client(tokens.token()) as owner:
        version = owner.put(name, b"mine")
        delete = Message(op=Op.DELETE, key=hash_key(name), request_id=64).pack()
        write = Message(
            op=Op.PUT, key=hash_key(name), request_id=128, body=tokens.body_of_put(b"theirs")
        ).pack()
        for data in (delete, write):
            stage.forge(bytes(data))
        assert (owner.get(name, quorum=True), owner.get_record(name).version) == (b"mine", version)


def test_a_stranger_is_denied(stage: Stage) -> None:
    name = f"strange {stage.version}"
    with stage.host.enter(), stage.client(tokens.token()) as owner, stage.client(None) as stranger:
        owner.put(name, b"mine")
        for _ in range(5):
            assert owner.get(name) == b"mine"
            for attempt in (
                lambda: stranger.put(name, b"x"),
                lambda: stranger.delete(name),
                lambda: stranger.get(name),
            ):
                with pytest.raises(Denied):
                    attempt()
        assert owner.get(name, quorum=True) == b"mine"


OPS = (Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW, Op.GET, Op.QUORUM_GET, Op.MEMBERS)
WRITE_OPS = (Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW)


def refused_requests(op: Op, name: str) -> Iterator[tuple[str, bytes]]:
    """Requests of clients that may not do this, and the reason of each."""
    body, now = tokens.body_of_put(b"theirs"), tokens.now_us()
    plain = Message(op=op, key=hash_key(name), request_id=64, body=body).pack()
    yield "none", bytes(plain)
    # Less than a proof, and one byte of it changed.
    good = tokens.proven(tokens.token(), op, name, body, now)
    yield "mac", bytes(Message(op=op, key=hash_key(name), request_id=64, flags=Flag.PROVEN, body=body).pack())
    yield "mac", good[:-1] + bytes([good[-1] ^ 1])
    # Another epoch, and rights or a holder that its maker wrote into it.
    yield "mac", tokens.proven(tokens.token(epoch=7), op, name, body, now)
    yield "mac", tokens.proven(tokens.token(secret="a secret of some other cluster"), op, name, body, now)
    weak = tokens.token(rights=Right(0), holder="weak")
    for claims in ({}, {"holder": "weak"}, {"scope": "billing"}):
        yield "mac", tokens.proven(Token(tokens.grant(**claims), weak.key), op, name, body, now)
    yield "mac", tokens.proven(open_token("closed"), op, name, body, now)
    yield "expired", tokens.proven(tokens.token(expiry=1), op, name, body, now)
    yield "revoked", tokens.proven(tokens.token(holder="gone"), op, name, body, now)
    yield "right", tokens.proven(weak, op, name, body, now)
    yield "scope", tokens.proven_for(tokens.token(scope="billing"), op, name, body, now, EVERY_KEY)
    yield "seq", tokens.proven(tokens.token(), op, name, body, 0)
    if op not in WRITE_OPS:
        yield "seq", tokens.proven(tokens.token(), op, name, body, now - 70_000_000)
        yield "seq", tokens.proven(tokens.token(), op, name, body, now + 70_000_000)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_each_refusal_has_its_reason_and_changes_nothing(stage: Stage, op: Op) -> None:
    name, kind = f"refused {stage.version} {op.name}", "writes" if op in WRITE_OPS else "reads"
    family = socket.AF_INET if stage.version == 4 else socket.AF_INET6
    with (
        stage.host.enter(),
        stage.client(tokens.token()) as owner,
        socket.socket(family, socket.SOCK_DGRAM) as sock,
    ):
        version, members = owner.put(name, b"mine"), owner.members(name)
        sock.settimeout(10)
        before, expected = stage.reasons(), Counter[str]()
        for number, (reason, data) in enumerate(refused_requests(op, name)):
            message = bytearray(data)
            message[FIELD["request_id"]] = (number + 1 << 8).to_bytes(8, "big")
            sock.sendto(message, (stage.address(stage.cluster.nodes[number % 3]).host, PORT))
            answer = parse(sock.recv(2048))
            assert answer.request_id == number + 1 << 8, reason
            is_off = reason == "seq" and op not in WRITE_OPS
            assert answer.status is (Status.BAD_VERSION if is_off else Status.DENIED), reason
            # No more than the time, by which a client corrects its clock.
            assert len(answer.body) == (RECORD_LEN if is_off else 0)
            expected[f"{kind} {reason}"] += 1
        assert stage.reasons() - before == expected
        assert (owner.get(name, quorum=True), owner.get_record(name).version) == (b"mine", version)
        assert owner.members(name) == members


def test_a_captured_write_changes_nothing_after_a_newer_one(stage: Stage) -> None:
    name, made = f"captured {stage.version}", tokens.token(scope="billing")
    captured = tokens.proven(made, Op.PUT, name, tokens.body_of_put(b"old"), tokens.now_us())
    family = socket.AF_INET if stage.version == 4 else socket.AF_INET6
    with stage.host.enter(), stage.client(made) as owner, socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)

        def replay() -> None:
            for node in stage.cluster.nodes:
                target = stage.address(node)
                sock.sendto(captured, (target.host, PORT))
                # A node may also leave the copy of a request unanswered.
                with suppress(TimeoutError):
                    sock.recv(2048)

        replay()
        assert owner.get(name, quorum=True) == b"old"
        version = owner.put(name, b"new")
        replay()
        assert (owner.get(name, quorum=True), owner.get_record(name).version) == (b"new", version)
        owner.delete(name)
        replay()
        with pytest.raises(NotFound):
            owner.get(name, quorum=True)


MAGIC_BYTES = MAGIC.to_bytes(4, "big")


@contextmanager
def captured(host: Host) -> Iterator[list[bytes]]:
    """The clients' requests that leave the host meanwhile, as who listens has them."""
    found: list[bytes] = []
    with host.enter():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with heard:
        heard.bind(("eth0", 0))
        yield found
        heard.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                frame = heard.recv(4096)
                data = frame[frame.find(MAGIC_BYTES) :] if MAGIC_BYTES in frame else b""
                if len(data) >= HEADER_LEN and not data[OFFSET["flags"]] & Flag.REPLY:
                    found.append(data)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_no_captured_request_of_any_kind_undoes_what_came_later(stage: Stage, soft: bool) -> None:
    name, made = f"replayed {stage.version} {soft}", tokens.token(scope="billing")
    family = socket.AF_INET if stage.version == 4 else socket.AF_INET6
    with stage.host.enter(), stage.client(made) as owner, socket.socket(family, socket.SOCK_DGRAM) as sock:
        with captured(stage.host) as old:
            owner.put(name, b"old")
            owner.get(name, quorum=True)
            assert next(owner.watch(name)).value == b"old"
            owner.delete(name)
            owner.announce_once(name, b"old", 60, member=b"m", soft=soft)
            owner.announce_once(name, b"left", 60, member=b"other", soft=soft)
            owner.members(name)
            owner.withdraw(name, member=b"other")
            owner.withdraw(name, member=b"m")
        assert {Op(data[OFFSET["op"]]) for data in old} >= {
            Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW, Op.QUORUM_GET, Op.WATCH, Op.MEMBERS,
        }  # fmt: skip

        def replay() -> None:
            for number, data in enumerate(old * 2):
                again = bytearray(data)
                # Another number each time: the ID is no part of the proof, so a listener may choose it.
                again[FIELD["request_id"]] = (time.monotonic_ns() + number).to_bytes(8, "big")
                for node in stage.cluster.nodes:
                    sock.sendto(again, (stage.address(node).host, PORT))
            # All of it is treated: a request behind it has its answer.
            for node in stage.cluster.nodes:
                with stage.client(made) as last, suppress(NotFound):
                    last.get(f"behind {node.name}")

        version = owner.put(name, b"new")
        owner.announce_once(name, b"new", 60, member=b"m", soft=soft)
        replay()
        assert (owner.get(name, quorum=True), owner.get_record(name).version) == (b"new", version)
        assert [each.payload for each in owner.members(name, quorum=True)] == [b"new"]
        owner.delete(name)
        owner.withdraw(name, member=b"m")
        replay()
        with pytest.raises(NotFound):
            owner.get(name, quorum=True)
        assert owner.members(name, quorum=True) == []


def test_the_datapath_forwarded_proven_requests(stage: Stage) -> None:
    """They did not all end at their entry node."""
    with stage.host.enter(), stage.client(tokens.token()) as owner:
        owner.put_many({f"many {stage.version} {number}": b"v" for number in range(60)})
        found = owner.get_many(f"many {stage.version} {number}" for number in range(60))
        assert len(found) == 60
    packets = [node.stats()["packets"]["all"] for node in stage.cluster.nodes]
    assert sum(each["ENTERED"] for each in packets) > 0


WAYS = [(kind, version) for kind in ("socket", "nfqueue", "ebpf") for version in (4, 6)]


@contextmanager
def made(tmp_path: Path, kind: str, version: int, **access: object) -> Iterator[Stage]:
    """A cluster with this access policy, for one test alone, with one IP version."""
    with Lab(f"t-tok-{os.getpid() % 1000}") as lab:
        family = {f"ipv{version}": f"{CLIENT[version]}/{24 if version == 4 else 64}"}
        host = lab.host("client", **family)
        places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
        if kind == "ebpf":
            lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=kind, settings=tokens.settings(**access)) as cluster:
            yield Stage(cluster, host, version)


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_open_becomes_token_under_traffic(tmp_path: Path, kind: str, version: int) -> None:
    with made(tmp_path, kind, version, writes="open") as on:
        open_becomes_token(on.cluster, on.client_inside)


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_both_secrets_change_under_traffic(tmp_path: Path, kind: str, version: int) -> None:
    with made(tmp_path, kind, version, reads="token") as on:
        change_both_secrets(on.cluster, on.client_inside, tmp_path)
