"""Upkeep: a thread's rounds go on after any failure, and the failure is told once a minute."""

import logging
import subprocess

import pytest

from kdht.datapath import upkeep
from kdht.datapath.host import children, ruleset
from kdht.datapath.upkeep import Upkeep
from kdht.errors import DatapathError

FAILURES = [OSError(28, "No space left on device"), DatapathError("nft"), RuntimeError("can't start new thread"),
            MemoryError(), KeyError("a bug")]  # fmt: skip


def failing(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_no_failure_ends_the_rounds(error, caplog):
    rounds = Upkeep(logging.getLogger("kdht.test"), "the work")
    assert not rounds.attempt(failing(error))
    assert rounds.why.startswith("the work failed: ")
    assert rounds.attempt(lambda: None)
    assert rounds.why == ""


def test_the_same_failure_is_logged_once_a_minute(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: now[0])
    rounds = Upkeep(logging.getLogger("kdht.test"), "the work")
    for _ in range(100):
        rounds.attempt(failing(OSError(28, "No space left on device")))
    assert len(caplog.records) == 1
    rounds.attempt(failing(OSError(24, "Too many open files")))
    assert len(caplog.records) == 2, "another failure is news"
    now[0] += upkeep.QUIET
    rounds.attempt(failing(OSError(24, "Too many open files")))
    assert len(caplog.records) == 3


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), MemoryError(),
                                   OSError(24, "Too many open files")], ids=repr)  # fmt: skip
def test_a_refused_fork_is_an_error_of_the_datapath(error, monkeypatch):
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, lambda *args, **options: failing(error)())
    with pytest.raises(DatapathError, match=r"cannot start \S*nft: "):
        ruleset.run_nft("nft", ["list"])
    with pytest.raises(DatapathError, match="cannot start a part of kdht: "):
        children.started(children.command("kdht.datapath.host.netlink_worker"))
