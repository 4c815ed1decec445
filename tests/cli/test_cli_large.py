"""`kdhtctl put --file` and `get --output` of large values: pipes, progress, a full disk, Ctrl-C. Nothing half stays."""

import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctl import Ctl, complained, good
from daemons import KDHTCTL, DevNode, free_port
from terminals import in_terminal

from kdht.cli.main import command as kdhtctl
from kdht.errors import RequestError

VALUE = random.Random(5).randbytes(3 << 20)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    directory = tmp_path_factory.mktemp("node") / "n1"
    running = DevNode(directory, f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    source = directory.parent / "value"
    source.write_bytes(VALUE)
    good(Ctl(running.control)("put", "film", "--file", source))
    yield running
    running.close()


def test_a_large_value_goes_through_pipes(node: DevNode) -> None:
    """Which neither say how long they are nor go back."""
    ctl = Ctl(node.control)
    assert b"stored 3,145,728 bytes" in good(ctl("put", "piped", "-", input=VALUE))
    assert good(ctl("get", "piped")) == VALUE


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_terminal_shows_the_progress(node: DevNode, tmp_path: Path, way: str) -> None:
    out = tmp_path / "out"
    out.write_bytes(VALUE)
    command = ["put", "shown", "--file", str(out)] if way == "put" else ["get", "film", "--output", str(out)]
    shown = in_terminal([*KDHTCTL, *command], 80, 24, {"KDHT_SOCKET": str(node.control)})
    assert ("storing" if way == "put" else "reading") in shown
    assert "100%" in shown
    assert out.read_bytes() == VALUE


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(node: DevNode, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [*KDHTCTL, "get", "film", "--output", str(out)],
        capture_output=True, timeout=60, check=False, preexec_fn=no_room,
        env={**os.environ, "KDHT_SOCKET": str(node.control)},
    )  # fmt: skip
    complained(done.returncode, done.stderr, 1, "File too large")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert out.read_bytes() == b"old"


def test_ctrl_c_while_it_is_read_leaves_the_old_file(node: DevNode, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    getting = Ctl(node.control).start("get", "film", "--output", out)
    while len(list(tmp_path.iterdir())) < 2 and getting.poll() is None:
        pass
    getting.send_signal(signal.SIGINT)
    _, said = getting.communicate(timeout=60)
    if getting.returncode:  # it may have been done before
        assert (getting.returncode, said.strip()) == (130, b"")
        assert out.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", [["dump", "keys"], ["watch", "film"]], ids=" ".join)
def test_a_value_beyond_the_memory_names_the_command_that_takes_it(
    node, tmp_path, monkeypatch, command
) -> None:
    monkeypatch.setattr("kdht.client.sync.MAX_IN_MEMORY", 1 << 20)
    monkeypatch.setattr("kdht.client.aio.MAX_IN_MEMORY", 1 << 20)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("film\n")
    with pytest.raises(
        RequestError, match=r"'film' has more than .*kdhtctl get --output writes it to a file"
    ):
        kdhtctl.main([*command, "--node", node.listen], standalone_mode=False)
