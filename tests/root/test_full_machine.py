"""A host without room in /run, or without descriptors or threads: the threads that keep a datapath alive survive it."""

import gc
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from chain import IDS
from nfq import Node
from test_ebpf_datapath import datapath

from kdht._routing import Core
from kdht.datapath.ebpf import datapath as ebpf
from kdht.datapath.ebpf.xdp_links import BPFFS
from kdht.datapath.host import settings
from kdht.datapath.host.netlink import Queue
from kdht.datapath.nfqueue import keeper
from kdht.errors import DatapathError
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root


@contextmanager
def full_directory(path: Path) -> Iterator[None]:
    """Nothing more can be written there."""
    fill = path / "fill"
    with fill.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    yield
    fill.unlink()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "TICK_S", 0.1)
    monkeypatch.setattr(ebpf, "TICK", 0.1)


def rounds_of(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each call of a method from now on."""
    seen: list[None] = []
    real = getattr(owner, name)

    def counted(*arguments: object) -> object:
        seen.append(None)
        return real(*arguments)

    monkeypatch.setattr(owner, name, counted)
    return seen


def the_others_node_ended(runtime: Path) -> None:
    """A node that held the same sysctls has died: the next look has something to write."""
    (path,) = runtime.glob("**/sysctl-*.json")
    saved = path.read_text()
    path.write_text(saved.replace('"holders":{', '"holders":{"4194303.1.0":[],'))


def test_a_full_run_leaves_the_keeper_of_the_queue_alive(lab: Lab, runtime: Path) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    node = Node(host, IDS[0], ["10.41.0.1"], runtime)
    with node.running():
        the_others_node_ended(runtime)
        with full_directory(runtime):
            wait_until(lambda: node.status()["state"] == "degraded", "the failure to be told")
            assert "No space left on device" in node.status()["why"]
            first = node.status()["worker"]
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: node.status()["worker"] not in (None, first), "another worker")
        wait_until(lambda: node.status()["state"] == "up", "the end of the failure")


def test_a_full_run_leaves_the_publisher_of_ebpf_alive(lab: Lab, runtime: Path, monkeypatch) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    host.run(["ip", "link", "add", "d0", "type", "bridge"])
    host.run(["ip", "link", "set", "d0", "up"])
    host.add_address("d0", "10.9.9.1/24")
    with datapath(host, runtime, "10.9.9.1") as path:
        the_others_node_ended(runtime)
        with full_directory(runtime):
            wait_until(lambda: path.status()["state"] == "degraded", "the failure to be told")
            published = rounds_of(path, "_publish_state", monkeypatch)
            path.config_changed()
            wait_until(lambda: published, "keys to be published")
        wait_until(lambda: path.status()["state"] == "up", "the end of the failure")


def test_without_descriptors_the_keeper_waits_for_some(lab: Lab, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeper, "LAST_PAUSE", 0.2)
    host = lab.host("node", ipv4="10.41.0.1/24")
    node = Node(host, IDS[0], ["10.41.0.1"], tmp_path)
    with node.running():
        keeps = node.datapath._keeper
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            os.kill(keeps.pid, signal.SIGKILL)
            wait_until(lambda: "Too many open files" in keeps.why, "the failure to be told")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        wait_until(lambda: node.status()["state"] == "up", "another worker")


def test_a_worker_that_says_nothing_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(keeper, "START_TIMEOUT", 0.5)
    monkeypatch.setattr(keeper, "STOP_TIMEOUT", 0.2)
    monkeypatch.setattr(keeper.children, "command", lambda *_: ["sleep", "20"])
    began = time.monotonic()
    kept = keeper.Keeper(Core(), Queue(1, 1, by_cpu=False), 16, 0)
    with pytest.raises(DatapathError, match="does not start"):
        kept.start()
    assert time.monotonic() - began < 10


def test_a_map_that_refuses_an_element_is_filled_again(lab: Lab, tmp_path: Path, monkeypatch) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    with datapath(host, tmp_path, "10.41.0.1") as path:
        real, refused = path._publish_bucket, [OSError(12, "Cannot allocate memory")]

        def publish(index: int) -> None:
            if refused:
                raise refused.pop()
            real(index)

        monkeypatch.setattr(path, "_publish_bucket", publish)
        everything = rounds_of(path, "_publish_all", monkeypatch)
        path.bucket_changed(7)
        wait_until(lambda: everything, "all buckets to be published")
        wait_until(lambda: path.status()["state"] == "up", "the end of the failure")


def without_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The system has no thread left when this one is to start."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def descriptors() -> set[tuple[str, str]]:
    """The open ones, each with what it is."""
    gc.collect()  # the frames of a traceback hold what they had
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add((each, os.readlink(f"/proc/self/fd/{each}")))
    return found


def found(host: Host) -> tuple[str, str, list[str]]:
    tables = host.run(["nft", "list", "tables"]).stdout
    return tables, host.sysctl("net/ipv4/conf/eth0/forwarding"), os.listdir(BPFFS)


@pytest.mark.parametrize("name", ["kdht-keeper", "kdht-watch", "kdht-socket"])
def test_without_threads_nfqueue_does_not_start_and_leaves_nothing(
    lab: Lab, tmp_path: Path, monkeypatch, name: str
) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    node = Node(host, IDS[0], ["10.41.0.1"], tmp_path)
    before, open_before = found(host), descriptors()
    with monkeypatch.context() as patch:
        without_thread(patch, name)
        with pytest.raises(DatapathError, match="can't start new thread"), node.running():
            pass
    wait_until(lambda: descriptors() <= open_before, "the descriptors to be closed")
    assert found(host) == before
    with node.running():
        assert node.status()["state"] == "up"


@pytest.mark.parametrize("name", ["kdht-ebpf", "kdht-watch"])
def test_without_threads_ebpf_does_not_start_and_leaves_nothing(
    lab: Lab, tmp_path: Path, monkeypatch, name: str
) -> None:
    host = lab.host("node", ipv4="10.41.0.1/24")
    before, open_before = found(host), descriptors()
    with monkeypatch.context() as patch:
        without_thread(patch, name)
        with (
            pytest.raises(DatapathError, match="can't start new thread"),
            datapath(host, tmp_path, "10.41.0.1"),
        ):
            pass
    wait_until(lambda: descriptors() <= open_before, "the descriptors to be closed")
    assert found(host) == before
