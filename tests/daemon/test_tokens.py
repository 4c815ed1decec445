"""Tokens against real daemons: who may not is DENIED and changes nothing; policies and secrets change under traffic."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokens
from daemons import KDHTCTL, run
from paths import ROOT
from policy_changes import change_both_secrets, open_becomes_token

from kdht.client import AsyncClient, Client
from kdht.errors import Conflict, Denied, NotFound, ValueTooLarge
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.wire import Record, parse
from kdht.wire._shared import MAX_PROVEN_VALUE, Op, Right, Status
from kdht.wire.rights import Token, open_token

NODES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that ask writers and readers for tokens. Each test has keys of its own."""
    with made(tmp_path_factory.mktemp("t"), reads="token", open_scopes=["scratch"]) as cluster:
        yield cluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """The same for one test alone, which changes it."""
    with made(tmp_path, reads="token") as cluster:
        yield cluster


def denials(cluster: Cluster) -> Counter[str]:
    """By kind and reason."""
    counted: Counter[str] = Counter()
    for node in cluster.nodes:
        counted.update(node.stats()["denied"])
    return +counted


def made(directory: Path, **access: object) -> Cluster:
    return Cluster(
        places_on_loopback(NODES), directory, datapath="socket", settings=tokens.settings(**access)
    )


def client(cluster: Cluster, made: Token | None, **more: object) -> Client:
    given = made.text if made else ""
    return Client([str(node.address) for node in cluster.nodes], token=given, **more)


def access_now(node: LabNode) -> dict[str, object]:
    return node.status()["access"]


def test_a_token_reads_writes_watches_and_deletes(cluster):
    with client(cluster, tokens.token()) as kdht:
        version = kdht.put("a", b"1", 60)
        assert kdht.get_record("a") == Record(version, 60, 0, b"1") or kdht.get("a") == b"1"
        assert kdht.get("a", quorum=True) == b"1"
        assert kdht.put("a", b"2", if_version=version) > version
        with pytest.raises(Conflict):
            kdht.put("a", b"3", if_version=version)
        assert kdht.delete("a")
        with pytest.raises(NotFound):
            kdht.get("a")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "none"),
        (tokens.token(secret="a secret of some other cluster"), "mac"),
        (tokens.token(expiry=1), "expired"),
        (tokens.token(rights=Right.ANNOUNCE), "right"),
        (open_token("closed"), "mac"),
    ],
)
def test_who_may_not_is_denied_and_changes_nothing(cluster, made, reason):
    before = denials(cluster)
    with client(cluster, tokens.token()) as owner, client(cluster, made) as stranger:
        version = owner.put("a", b"mine")
        for attempt in (
            lambda: stranger.put("a", b"theirs"),
            lambda: stranger.put("a", b"theirs", if_version=version),
            lambda: stranger.delete("a"),
            lambda: stranger.put_large("a", b"theirs" * 1000),
            lambda: stranger.delete_large("a"),
            lambda: stranger.get("a"),
            lambda: stranger.get("a", quorum=True),
            lambda: next(stranger.watch("a")),
        ):
            with pytest.raises(Denied, match="token with the right"):
                attempt()
        assert owner.get_record("a").version == version
    new = denials(cluster) - before
    assert set(new) == {f"writes {reason}", f"reads {reason}"}


def test_a_scopes_token_has_keys_of_its_own_and_no_others(cluster):
    with client(cluster, tokens.token()) as admin, client(cluster, tokens.token(scope="billing")) as billing:
        admin.put("a", b"plain")
        billing.put("a", b"billed")
        assert (admin.get("a"), billing.get("a")) == (b"plain", b"billed")
        with client(cluster, tokens.token(), scope="billing") as both:
            assert both.get("a") == b"billed"
    before = denials(cluster)
    with client(cluster, tokens.token(scope="billing")) as outside:
        plain = outside._session.state.rights
        plain.scope = 0  # a client that does not keep to its scope
        with pytest.raises(Denied):
            outside.put("a", b"theirs")
    assert denials(cluster) - before == {"writes scope": 1}


def test_everybody_writes_in_an_open_scope(cluster):
    with client(cluster, open_token("scratch")) as anybody:
        anybody.put("a", b"1")
        assert anybody.get("a") == b"1"
        assert anybody.delete("a")


def send(node: LabNode, data: bytes) -> None:
    """A datagram whose sender wants no answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (node.address.host, node.address.port))


def asked(node: LabNode, data: bytes) -> Status:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((node.address.host, node.address.port))
        sock.send(data)
        return parse(sock.recv(2048)).status


def test_a_captured_write_replayed_after_a_newer_one_changes_nothing(cluster):
    made = tokens.token()
    captured = tokens.proven(made, Op.PUT, "a", tokens.body_of_put(b"old"), tokens.now_us())
    node = cluster.nodes[0]
    assert asked(node, captured) is Status.OK
    with client(cluster, made) as kdht:
        first = kdht.get_record("a")
        # The same write again is the same version.
        assert asked(node, captured) is Status.OK
        assert kdht.get_record("a") == first
        newer = kdht.put("a", b"new")
        for _ in range(3):
            for each in cluster.nodes:
                send(each, captured)
        assert asked(node, captured) in (Status.OK, Status.BAD_VERSION)
        assert (kdht.get("a", quorum=True), kdht.get_record("a").version) == (b"new", newer)
        assert kdht.delete("a")
        for each in cluster.nodes:
            send(each, captured)
        with pytest.raises(NotFound):
            kdht.get("a", quorum=True)


def test_a_proof_for_another_request_is_denied(cluster):
    made, before = tokens.token(), denials(cluster)
    good = bytearray(tokens.proven(made, Op.PUT, "a", tokens.body_of_put(b"v"), tokens.now_us()))
    other_value = bytes(good).replace(b"v" + made.grant.pack(), b"w" + made.grant.pack())
    other_key = tokens.proven(made, Op.PUT, "b", tokens.body_of_put(b"v"), tokens.now_us())
    as_other_key = other_key[:16] + bytes(good[16:36]) + other_key[36:]
    good[5] = Op.DELETE
    for forged in (other_value, as_other_key, bytes(good)):
        assert asked(cluster.nodes[0], forged) is Status.DENIED
    assert denials(cluster) - before == {"writes mac": 3}


def test_a_wrong_clock_is_corrected_by_a_node(cluster):
    with client(cluster, tokens.token()) as kdht:
        kdht.put("a", b"1")
        for seconds in (-3600, 3600):
            with client(cluster, tokens.token()) as off:
                off._session.state.clock._offset = seconds * 1_000_000
                assert off.get("a") == b"1"
                off._session.state.clock._offset = seconds * 1_000_000
                watch = off.watch("a")
                assert next(watch).value == b"1"
                watch.close()
                off._session.state.clock._offset = seconds * 1_000_000
                off.put("b", b"2")


def test_a_value_with_a_proof_has_1040_bytes(cluster):
    with client(cluster, tokens.token()) as kdht:
        assert kdht.max_value == MAX_PROVEN_VALUE == 1040
        kdht.put("a", bytes(1040))
        with pytest.raises(ValueTooLarge, match="at most 1040 bytes here, this one has 1041"):
            kdht.put("a", bytes(1041))
        with pytest.raises(ValueTooLarge, match="at most 1032 bytes here, this one has 1033"):
            kdht.put("a", bytes(1033), if_version=0)
        with pytest.raises(ValueTooLarge):
            kdht.put_many({"b": bytes(1041)})


def test_large_values_are_written_and_read_with_a_token(cluster):
    whole = os.urandom(50_000)
    with client(cluster, tokens.token(scope="billing")) as kdht:
        kdht.put_large("a", whole)
        kdht.put_large("a", whole[::-1])
        assert kdht.get_large("a") == whole[::-1]
        assert kdht.delete_large("a")
        with pytest.raises(NotFound):
            kdht.get_large("a")


def test_watches_end_with_their_token(cluster):
    end = int(time.time()) + 3
    with client(cluster, tokens.token(expiry=end)) as short, client(cluster, tokens.token()) as kdht:
        watch = short.watch("watched", lease=6)
        assert next(watch) is None
        kdht.put("watched", b"1")
        assert next(watch).value == b"1"
        with pytest.raises(Denied):
            next(watch)
        kdht.put("watched", b"2")


def test_a_revoked_holder_is_denied_and_its_watch_ends(own):
    with client(own, tokens.token(holder="ci-1")) as leaver, client(own, tokens.token()) as kdht:
        leaver.put("a", b"1")
        watch = leaver.watch("a", lease=60)
        assert next(watch).value == b"1"
        for node in own.nodes:
            ends = ["--config", node.config, "--socket", node.control, "--json"]
            done = run([*KDHTCTL, "token", "revoke", "ci-1", *ends])
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            assert (told["changed"], told["reloaded"]) == (True, True)
        with pytest.raises(Denied):
            leaver.put("a", b"2")
        with pytest.raises(Denied):
            leaver.get("a")
        assert sum(node.stats()["replication"]["watchers"] for node in own.nodes) == 0
        kdht.put("a", b"3")
        assert kdht.get("a") == b"3"
    assert denials(own) == {"writes revoked": 1, "reads revoked": 1}


def test_cached_records_are_checked_for_rights(cluster):
    """A record in the cache: with a token many times, without never."""
    with client(cluster, tokens.token()) as kdht, client(cluster, None) as stranger:
        kdht.put("a", b"1")
        for _ in range(20):
            assert kdht.get("a") == b"1"
            with pytest.raises(Denied):
                stranger.get("a")
    assert sum(node.stats()["datapaths"]["socket"]["cache_answers"] for node in cluster.nodes) >= 10


def test_self_certified_records_need_a_token_for_all_keys(cluster):
    """Their keys lie in no scope."""
    with client(cluster, tokens.token()) as kdht:
        key = kdht.put_immutable(b"for ever")
        assert kdht.get_immutable(key) == b"for ever"
    for made in (None, tokens.token(scope="billing")):
        with client(cluster, made) as stranger, pytest.raises(Denied):
            stranger.put_immutable(b"something else")


def test_the_documents_small_client_writes_with_a_token(cluster):
    text = (ROOT / "docs/protocol.md").read_text()
    code = re.search(r"<!-- token-put -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) < 40
    names: dict[str, Any] = {}
    exec(compile(code, "docs/protocol.md", "exec"), names)
    for made in (tokens.token(), tokens.token(scope="billing")):
        for node in cluster.nodes:
            version = names["put"](made.text, b"small", b"value", node.address.host, node.address.port)
            with client(cluster, made) as kdht:
                assert kdht.get_record("small") == Record(version, 0, 0, b"value")
    with pytest.raises(PermissionError):
        names["put"](tokens.token(expiry=1).text, b"small", b"x", node.address.host, node.address.port)


def test_open_becomes_count_becomes_token_under_traffic(tmp_path):
    with made(tmp_path, writes="open") as cluster:
        open_becomes_token(cluster, lambda made: client(cluster, made))


def test_both_secrets_are_changed_under_traffic(tmp_path):
    with made(tmp_path, reads="token") as cluster:
        change_both_secrets(cluster, lambda made: client(cluster, made), tmp_path)


def test_the_asyncio_client_has_a_token_too(cluster):
    asyncio.run(_asyncio_client(cluster))


async def _asyncio_client(cluster: Cluster) -> None:
    nodes = [str(node.address) for node in cluster.nodes]
    async with AsyncClient(nodes, token=tokens.token()) as kdht:
        await kdht.put("a", b"1")
        assert await kdht.get("a") == b"1"
        await kdht.put_large("l", bytes(5000))
        assert await kdht.get_large("l") == bytes(5000)
    async with AsyncClient(nodes, token="") as stranger:
        with pytest.raises(Denied):
            await stranger.put("a", b"2")


def ctl(
    cluster: Cluster, *arguments: object, token: str | None = None, **options: object
) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "KDHT_TOKEN"}
    env |= {"KDHT_TOKEN": token} if token else {}
    return run([*KDHTCTL, *map(str, arguments), "--node", str(cluster.nodes[0].address)], env=env, **options)


def test_kdhtctl_takes_a_token_from_the_environment_a_file_or_an_option(cluster, tmp_path):
    config = cluster.nodes[0].config
    made = run(
        [*KDHTCTL, "token", "new", "--config", config, "--scope", "billing", "--holder", "ci-1"]
    ).stdout.strip()
    file = tmp_path / "token"
    done = run([*KDHTCTL, "token", "new", "--config", config, "--scope", "billing", "--output", file])
    assert done.returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert ctl(cluster, "put", "a", "1", token=made).returncode == 0
    assert ctl(cluster, "get", "a", "--token", f"@{file}").stdout == "1"
    assert ctl(cluster, "get", "a", token=f"@{file}").stdout == "1"
    for command in (["put", "a", "2"], ["get", "a"], ["delete", "a"], ["watch", "a", "--count", "1"]):
        refused = ctl(cluster, *command)
        assert refused.returncode == 11
        assert re.fullmatch(r"kdhtctl: .*token with the right.*\n", refused.stderr)
    assert ctl(cluster, "delete", "a", token=made).returncode == 0


def test_kdhtctl_load_and_dump_and_bench_take_a_token(cluster, tmp_path):
    made = tokens.token().text
    (tmp_path / "in.jsonl").write_text(
        '{"key": "a", "value": "1"}\n' + json.dumps({"key": "b", "value": "x" * 1100}) + "\n"
    )
    assert ctl(cluster, "load", tmp_path / "in.jsonl").returncode == 11
    assert ctl(cluster, "load", tmp_path / "in.jsonl", token=made).returncode == 0
    (tmp_path / "keys").write_text("a\nb\n")
    assert ctl(cluster, "dump", tmp_path / "keys", "--output", tmp_path / "out.jsonl").returncode == 11
    done = ctl(
        cluster, "dump", tmp_path / "keys", "--output", tmp_path / "out.jsonl", "--restart", token=made
    )
    assert done.returncode == 0
    assert [json.loads(line)["key"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "a",
        "b",
    ]
    assert ctl(cluster, "bench", "--seconds", "0.3", token=made).returncode == 0


def test_token_check_says_what_a_node_would(cluster):
    config = cluster.nodes[0].config
    made = tokens.token(rights=Right.READ).text
    told = json.loads(run([*KDHTCTL, "token", "check", made, "a", "--config", config, "--json"]).stdout)
    assert told["may"] == {
        "read": "",
        "write": "right",
        "delete": "right",
        "watch": "right",
        "announce": "right",
    }
    stranger = tokens.token(secret="a secret of some other cluster").text
    done = run([*KDHTCTL, "token", "check", stranger, "a", "--config", config])
    assert done.returncode == 11
    assert "mac" in done.stderr


def test_status_tells_the_policy(cluster):
    assert access_now(cluster.nodes[0]) == {"writes": "token", "reads": "token", "epochs": [tokens.EPOCH]}


def test_an_open_node_that_others_reach_says_so_at_its_start(tmp_path):
    config = tmp_path / "kdhtd.toml"
    config.write_text(
        f'[node]\nlisten = ["192.0.2.1"]\ndata_dir = "{tmp_path}/data"\n[[key]]\nsecret = "0123456789abcdef"\n'
        f'[access]\nwrites = "open"\n[control]\nsocket = "{tmp_path}/control.sock"\n[datapath]\nkind = "socket"\n'
    )
    done = run([sys.executable, "-m", "kdht.daemon.main", "--check", "--config", config])
    assert "everybody who can send a datagram here can write and delete" in done.stderr
    found = json.loads(
        run([*KDHTCTL, "doctor", "--config", config, "--socket", tmp_path / "none", "--json"]).stdout
    )
    assert any("everybody who can send" in each["what"] for each in found["findings"])
    config.write_text(config.read_text().replace('[access]\nwrites = "open"\n', ""))
    done = run([sys.executable, "-m", "kdht.daemon.main", "--config", config])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "asks for tokens, and no [[access.key]]" in done.stderr


def test_sighup_with_a_bad_policy_changes_nothing(own):
    node = own.nodes[0]
    good = node.config.read_text()
    node.config.write_text(good.replace('writes = "token"', 'writes = "closed"'))
    os.kill(node.pid, signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded" in node.log.read_text(), "the refusal")
    assert access_now(node)["writes"] == "token"
