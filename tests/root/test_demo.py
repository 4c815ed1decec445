"""`make demo` as it is, but smaller: that it proves its claims, that it can fail, that nothing is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from paths import ROOT

from demo.stage import PREFIX
from kdht.datapath.host.sysctl import RUNTIME_DIR
from kdht.lab import namespaces
from kdht.lab.netns import Host
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.cluster

SMALLER = ["--nodes", "4", "--limit", "60"]


def command(datapath: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "demo", "--datapath", datapath, *SMALLER, *more]


def run(datapath: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(datapath, *more), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


def failed(result: dict[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    return [check for check in result["checks"] if not check["holds"]]


@pytest.mark.root
@pytest.mark.parametrize("family", [[], ["--ipv6"]], ids=["ipv4", "ipv6"])
def test_the_queue_path_is_proved(family: list[str]) -> None:
    done = run("nfqueue", "--json", *family)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert failed(result) == []
    assert len(result["nodes"]) == 4
    assert all(node["nft"]["clients"] > 0 for node in result["nodes"])
    assert sum(node["records"] for node in result["nodes"]) == 60 * 3
    assert namespaces.existing(PREFIX) == []


@pytest.mark.root
@pytest.mark.parametrize("family", [[], ["--ipv6"]], ids=["ipv4", "ipv6"])
def test_requests_go_through_xdp(family: list[str]) -> None:
    done = run("ebpf", "--json", *family)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert failed(result) == []
    assert sum(node["program"]["RELAYED"] for node in result["nodes"]) > 0
    assert sum(node["records"] for node in result["nodes"]) == 60 * 3
    assert namespaces.existing(PREFIX) == []


def test_over_loopback_without_root() -> None:
    done = run("socket", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert failed(result) == []
    assert result["requests"]["put"]["done"] == 60


def test_the_tables_are_drawn() -> None:
    done = run("socket")
    assert done.returncode == 0, done.stderr
    for title in ("Requests", "share of the keys", "The way of some keys", "Hops from", "What was shown"):
        assert title in done.stdout


LOSES_ONE = """
from demo import __main__ as demo, traffic
write = traffic.write
def write_and_lose(stage, entries, advance):
    result = write(stage, entries, advance)
    with traffic.clients_of(stage) as clients:
        clients[0].delete(entries[6].name)
    return result
traffic.write = write_and_lose
demo.main()
"""


def test_one_lost_value_is_found_and_ends_it_non_zero() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSES_ONE, *command("socket", "--json")[3:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    claims = {check["claim"] for check in failed(json.loads(done.stdout))}
    assert claims == {
        "get through another node: all right",
        "get in ten lines: all right",
        "every value has all its replicas",
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--packages", "/nonexistent"], "demo: /nonexistent: No such file or directory: the data set"),
        (["--packages", "/dev/null"], "demo: /dev/null: names no installed package"),
        (["--ipv6"], "demo: --ipv6 needs the nfqueue or ebpf datapath"),
        (["--nodes", "1"], "demo: Invalid value for '--nodes'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str) -> None:
    done = run("socket", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def daemons(directory: Path) -> list[str]:
    """Process numbers of the daemons whose files are under the directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if b"kdht.daemon.main" in command and bytes(directory) in command:
                found.append(process.name)
    return found


def traffic() -> bool:
    """Whether clients' packets arrive at the first node of a demonstration in namespaces."""
    return Host("n1", f"{PREFIX}.n1").counters().get("clients", 0) > 20


@contextmanager
def running(datapath: str, directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """A demonstration whose daemons run, with its files under `directory` and the whole data set before it."""
    with subprocess.Popen(
        [*command(datapath), "--limit", "100000"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            wait_until(lambda: len(daemons(directory)) == 4 or program.poll() is not None, "four daemons", 60)
            yield program
        finally:
            program.terminate()


def assert_nothing_left(program: "subprocess.Popen[str]", code: int, directory: Path) -> None:
    _, said = program.communicate(timeout=60)
    assert program.returncode == code, said
    assert "Traceback" not in said
    assert daemons(directory) == []
    assert namespaces.existing(f"{PREFIX}.") == []
    assert list(directory.iterdir()) == []


def runtime_files() -> list[Path] | None:
    return sorted(RUNTIME_DIR.iterdir()) if RUNTIME_DIR.exists() else None


@pytest.mark.root
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_amid_traffic_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    before = runtime_files()
    with running("nfqueue", tmp_path) as program:
        wait_until(traffic, "traffic", 60)
        program.send_signal(number)
        assert_nothing_left(program, code, tmp_path)
    assert runtime_files() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_on_loopback(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with running("socket", tmp_path) as program:
        program.send_signal(number)
        assert_nothing_left(program, code, tmp_path)
