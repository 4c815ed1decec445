"""kdhtd on a disk that is read-only, and on one that fills up."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import KDHTCTL, DevNode, free_port, run

from kdht import Client
from kdht.errors import RequestError
from kdht.lab.wait import wait_until
from kdht.wire import Record, hash_key, pack_request
from kdht.wire._shared import TRY_BITS, Op

pytestmark = pytest.mark.root


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A file system in memory at `path`, unmounted at the end."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kdht-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def listen() -> str:
    return f"127.0.0.1:{free_port('127.0.0.1')}"


def test_a_read_only_data_directory(tmp_path, listen):
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        node = DevNode(disk / "n1", listen, "--control", str(tmp_path / "c"))
        code, said = node.process.wait(30), node.said()
    assert code == 3
    assert said.count("\n") == 1, said
    assert "Read-only file system" in said


def fill(client: Client, confirmed: dict[str, bytes]) -> None:
    """Put values until the disk is full; those that were confirmed are in `confirmed`."""
    for n in range(4000):
        value = bytes([n % 256]) * 1000
        client.put(f"k{n}", value)
        confirmed[f"k{n}"] = value


CONFIG = """
[node]
listen = ["{listen}"]
data_dir = "{home}"
id = "random"
[[key]]
secret = "a secret of the tests"
[datapath]
kind = "socket"
[replication]
write = "one"
[control]
socket = "{home}/control.sock"
[access]
writes = "open"
[storage]
"""


def configured(disk: Path, listen: str, *storage: str) -> DevNode:
    """A node with its data on that disk; `storage`: lines of that table."""
    home, config = disk / "n1", disk.parent / "config.toml"
    config.write_text("\n".join([CONFIG.format(listen=listen, home=home), *storage]))
    config.chmod(0o600)
    return DevNode(home, listen, config=config).wait_ready()


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def keep_trying(client: Client) -> None:
    """Until a write is confirmed."""

    def written() -> bool:
        try:
            client.put("after", b"1")
        except RequestError:
            return False
        return True

    wait_until(written, "writes to be accepted again", 30)


def test_a_full_disk_takes_writes_again_once_there_is_room(tmp_path, listen):
    """LevelDB fails in the middle of a write. Reads go on, the node is not ready, and nothing confirmed is lost."""
    with mounted(tmp_path / "disk", "size=2m") as disk:
        node = configured(disk, listen, "min_free = 0")
        confirmed: dict[str, bytes] = {}
        try:
            with Client(listen) as client:
                with pytest.raises(RequestError) as caught:
                    fill(client, confirmed)
                assert caught.value.status == "STORAGE_FAILED"
                assert confirmed
                wait_until(lambda: node.call("status")["waiting_for"] == ["disk"], "it to be no longer ready")
                assert "writes again" in node.call("status")["not_writable"]
                assert all(client.get(key) == value for key, value in list(confirmed.items())[:50])
                grow(disk, "16m")
                keep_trying(client)
                wait_until(lambda: node.call("status")["ready"], "it to be ready again")
                assert all(client.get(key) == value for key, value in confirmed.items())
            code, said = node.end()
            assert code == 0, said
            assert "Traceback" not in said
            assert "the disk takes writes again" in said
            node.start()
            node.wait_ready()
            with Client(listen) as client:
                assert all(client.get(key) == value for key, value in confirmed.items())
                assert client.get("after") == b"1"
            assert node.end()[0] == 0
        finally:
            node.close()


def forged_puts(listen: str, first: int, count: int) -> None:
    """PUTs that nobody waits for, as an outsider sends them."""
    host, _, port = listen.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, int(port)))
        for number in range(first, first + count):
            key = hash_key(f"forged {number}")
            sock.send(
                pack_request(Op.PUT, key, number << TRY_BITS | 1, Record(value=os.urandom(1100)).pack())
            )
            if number % 50 == 0:
                time.sleep(0.02)


def test_forged_puts_fill_no_disk_to_its_end(tmp_path, listen):
    """40 MiB: clients are refused long before LevelDB fails. Reads and deletions go on, and writes once there is room."""
    with mounted(tmp_path / "disk", "size=40m") as disk:
        node = configured(disk, listen)
        try:
            with Client(listen) as client:
                client.put("a", b"1")
                sent = 0
                while node.call("stats")["storage"]["full"] < 3000 and sent < 60_000:
                    forged_puts(listen, sent, 1000)
                    sent += 1000
                with pytest.raises(RequestError) as caught:
                    client.put("b", b"2")
                assert caught.value.status == "FULL"
                assert client.get("a") == b"1"
                client.delete("a")
                storage = node.call("stats")["storage"]
                assert (storage["failed"], storage["disk_failed"]) == (0, False)
                assert storage["free_bytes"] > 8 << 20
                status = node.call("status")
                assert status["ready"]
                assert not status["writable"]
                assert "no room" in status["not_writable"]
                grow(disk, "140m")
                keep_trying(client)
                assert node.call("status")["writable"]
            code, said = node.end()
            assert (code, "Traceback" in said) == (0, False), said
        finally:
            node.close()


def test_quotas_and_the_longest_ttl(tmp_path, listen):
    (tmp_path / "disk").mkdir()
    node = configured(
        tmp_path / "disk", listen, "quota_records = 10", "writer_quota_records = 5", "max_ttl = 60"
    )
    try:
        with Client(listen, attempts=2) as client:
            for ttl in (None, 61):
                with pytest.raises(RequestError) as caught:
                    client.put("forever", b"x", ttl=ttl)
                assert caught.value.status == "FULL"
            for number in range(5):
                client.put(f"k{number}", b"x", ttl=60)
            with pytest.raises(RequestError) as caught:
                client.put("k5", b"x", ttl=60)
            assert caught.value.status == "FULL"
            client.delete("k0")
            client.put("k5", b"x", ttl=60)
        done = run([*KDHTCTL, "put", "k6", "x", "--ttl", "60", "--node", listen])
        assert (done.returncode, done.stderr.count("\n")) == (6, 1)
        assert "no room" in done.stderr
    finally:
        node.close()
