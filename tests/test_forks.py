"""A program started by fork is like one that is executed: what it is given, where it runs, how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from daemons import KDHTCTL, KDHTD, DevNode, free_port
from paths import ROOT

from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

EXECUTED = {**os.environ, forks.SWITCH: "0"}


@pytest.fixture
def node(tmp_path: Path):
    node = DevNode(tmp_path / "n", f"127.0.0.1:{free_port('127.0.0.1')}")
    yield node.wait_ready()
    node.close()


def is_forked(process: subprocess.Popen) -> bool:
    return b"fork_server" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_daemons_are_forked_and_end_by_signals(node: DevNode) -> None:
    assert is_forked(node.process)
    assert node.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        node.process.wait(0.01)
    code, said = node.end()
    assert code == 0
    assert "stopped" in said
    node.start()
    node.wait_ready()
    node.process.kill()
    assert node.process.wait(30) == -signal.SIGKILL
    node.said()


def test_a_prefix_another_environment_or_folder_is_executed(tmp_path: Path) -> None:
    (tmp_path / "kdht").mkdir()
    for options in (
        {"env": EXECUTED},
        {"env": {**os.environ, "PYTHONHASHSEED": "1"}},
        {"preexec_fn": os.getpid},
        {"cwd": tmp_path},
    ):
        with subprocess.Popen([*KDHTCTL, "put", "k", "-"], stdin=subprocess.PIPE, **options) as process:
            assert not is_forked(process)
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["nonsense"],
        ["status", "--socket", "/nowhere"],
        ["config", "show", "--json"],
    ],
)
def test_it_says_and_ends_as_the_executed_one(arguments: list[str], tmp_path: Path) -> None:
    def ended(env: dict[str, str]) -> tuple[int, bytes, bytes]:
        done = subprocess.run([*KDHTCTL, *arguments], env=env, cwd=tmp_path, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert ended(EXECUTED) == ended({**os.environ})


# readline puts COLUMNS and LINES into the environment behind Python's back.
PROBE = """
import json, os, sys

def stream(each):
    kinds = type(each.buffer).__name__, each.line_buffering, each.write_through
    return each.name, each.mode, each.encoding, each.errors, *kinds

def main():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps({
        "arguments": [sys.argv, sys.orig_argv[1:], sys.path[0], os.getcwd()],
        **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in ("net", "mnt")],
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "given": sys.stdin.read(),
        **{f"stream {n}": stream(each) for n, each in enumerate((sys.stdin, sys.stdout, sys.stderr))},
        "status": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "CapEff", "CapAmb")},
    }))

if __name__ == "__main__":
    main()
"""


@pytest.mark.root
def test_a_server_outlives_the_host_that_first_asks_for_it(tmp_path: Path) -> None:
    forks.end()
    for _ in range(2):
        with Lab("t-forks") as lab:
            assert lab.host("h").run([*KDHTD, "--version"]).returncode == 0


@pytest.mark.root
def test_it_finds_what_the_executed_one_finds(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that tells of its process, in another namespace: forked and executed, all of it is equal."""
    (tmp_path / "probe_of_forks.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(forks, "MODULES", ("probe_of_forks",))
    host = lab.host("h")

    def told(session: bool) -> dict[str, object]:
        command = [sys.executable, "-m", "probe_of_forks", "one", "-2"]
        with host.enter():
            done = subprocess.run(
                command,
                input="given",
                text=True,
                stdout=subprocess.PIPE,
                cwd=tmp_path,
                start_new_session=session,
                check=True,
            )
        return json.loads(done.stdout)

    forked = [told(False), told(True)]
    forks.end()
    monkeypatch.setattr(forks, "MODULES", ())
    executed = [told(False), told(True)]
    for one, other in zip(forked, executed, strict=True):
        assert {
            name: (one.get(name), other.get(name))
            for name in {*one, *other}
            if one.get(name) != other.get(name)
        } == {}


def test_many_at_once(tmp_path: Path) -> None:
    running = [subprocess.Popen([*KDHTD, "--version"], stdout=subprocess.PIPE, cwd=ROOT) for _ in range(20)]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert [process.returncode for process in running] == [0] * 20


def test_a_start_that_nobody_waits_for_hinders_no_other() -> None:
    abandoned = subprocess.Popen([*KDHTD, "--version"], stdout=subprocess.DEVNULL)
    os.close(abandoned._ended)
    wait_until(lambda: not Path(f"/proc/{abandoned.pid}").exists(), "its end")
    abandoned.returncode = 0
    assert subprocess.run([*KDHTD, "--version"], stdout=subprocess.DEVNULL, check=False).returncode == 0
