"""kdhtd on a disk that is read-only, and on one that fills up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import DevNode, free_port

from kdht import Client
from kdht.errors import RequestError

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


def test_a_disk_that_fills_up(tmp_path, listen):
    """Writes are refused, reads go on, the operator is told, the end is clean, and nothing confirmed is lost."""
    with mounted(tmp_path / "disk", "size=2m") as disk:
        node = DevNode(disk / "n1", listen).wait_ready()
        confirmed: dict[str, bytes] = {}
        try:
            with Client(listen) as client:
                with pytest.raises(RequestError) as caught:
                    fill(client, confirmed)
                assert caught.value.status == "STORAGE_FAILED"
                assert confirmed
                assert all(client.get(key) == value for key, value in list(confirmed.items())[:50])
                assert any("writes failed" in warning for warning in node.call("status")["warnings"])
            code, said = node.end()
            assert code == 0, said
            assert "Traceback" not in said
            # With room again, all that was confirmed is there.
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
            node.start()
            node.wait_ready()
            with Client(listen) as client:
                assert all(client.get(key) == value for key, value in confirmed.items())
                client.put("after", b"1")
            assert node.end()[0] == 0
        finally:
            node.close()
