"""What a switch of the datapath does when a part of it cannot start, and what the status says of a path that nobody checks."""

import threading
from types import SimpleNamespace

import pytest
from chain import IDS, configure

from kdht._routing import Core
from kdht.daemon.datapaths import Datapaths
from kdht.daemon.path_checker import PathChecker
from kdht.datapath.departures import Departed
from kdht.datapath.publish import Publisher
from kdht.errors import DatapathError
from kdht.wire import Address

OWN = Address.of("127.0.0.1", 5348)


class FakePath:
    """A fast path that runs between start and stop."""

    name = "nfqueue"

    def __init__(self) -> None:
        self.runs = False

    def start(self) -> None:
        self.runs = True

    def stop(self) -> None:
        self.runs = False

    def status(self) -> dict[str, object]:
        return {"state": "up", "why": "", "interfaces": []}

    def departed(self) -> Departed:
        return Departed(0, 0)

    def host_changes(self) -> int:
        return 0


@pytest.fixture
def paths() -> list[FakePath]:
    return []


@pytest.fixture
def switched(paths, monkeypatch):
    core = Core()
    configure(core, IDS[0], OWN)
    settings = SimpleNamespace(
        usual=lambda ipv4: OWN if ipv4 else None,
        config=SimpleNamespace(datapath=SimpleNamespace(ebpf_keep=False)),
    )
    found = Datapaths(settings, Publisher(core), IDS[0], lambda: True, None)

    def make():
        paths.append(FakePath())
        return paths[-1]

    for kind in ("nfqueue", "ebpf"):
        monkeypatch.setitem(found._makers, kind, make)
    yield found
    found.stop()


def without_checks(monkeypatch):
    real = threading.Thread.start

    def start(thread):
        if thread.name == "kdht-path-checker":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_path_that_cannot_be_checked_is_not_taken(switched, paths, monkeypatch):
    with monkeypatch.context() as patch:
        without_checks(patch)
        with pytest.raises(DatapathError, match="can't start new thread"):
            switched.switch("nfqueue")
    assert (switched.kind, switched.running()) == ("socket", [])
    assert not paths[0].runs
    switched.switch("nfqueue")
    assert paths[1].runs


def test_the_old_path_stays_where_the_new_one_cannot_be_checked(switched, paths, monkeypatch):
    switched.switch("nfqueue")
    with monkeypatch.context() as patch:
        without_checks(patch)
        with pytest.raises(DatapathError, match="can't start new thread"):
            switched.switch("ebpf")
    assert switched.running() == [paths[0]]
    assert [path.runs for path in paths] == [True, False]
    assert switched._checker is not None


def test_a_path_that_nobody_can_check_is_degraded(switched, paths, monkeypatch):
    switched.switch("nfqueue")
    assert switched.status_of(paths[0])["state"] == "up"
    monkeypatch.setattr(PathChecker, "trouble", "the check of the fast path failed: no descriptor")
    told = switched.status_of(paths[0])
    assert (told["state"], told["why"]) == ("degraded", "the check of the fast path failed: no descriptor")
    assert told["checks"]["good"] == 0
