"""What every test gets: the rules for tests that need root or start daemons, the laboratory, and the check for leftovers."""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from types import ModuleType

import forks
import order
import pytest
from browser import missing
from bytecode import drop_bytecode_of_temporary_files, keep_bytecode
from ci import IN_CI, lacks
from daemons import KDHTCTL, KDHTD, DevNode
from installed import make_wheels
from machines import Machine
from mainline import absent
from paths import ROOT
from pyroute2 import netns
from worlds import enter_own_world

from kdht.faults import Faults
from kdht.lab.cluster import Cluster
from kdht.lab.netns import Lab

RUN_MARK = f"KDHT_TEST_RUN={os.getpid()}"
"""In the environment of every process that the tests start, directly or not."""


BYTECODE = ROOT / "build/bytecode"

STARTS_DAEMONS = (DevNode, KDHTD, KDHTCTL, Cluster, Machine, make_wheels)
"""A file that imports one of these starts processes of kdht: its tests are marked `cluster`."""


@pytest.fixture(autouse=True)
def no_fault_is_hidden(request: pytest.FixtureRequest) -> Iterator[None]:
    """A part of kdht that raised where its caller goes on all the same. Tests of that are marked `faults`."""
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    logger = logging.getLogger(Faults.__module__)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    if told and request.node.get_closest_marker("faults") is None:
        pytest.fail("\n".join(f"{each.__dict__['error']} at {each.__dict__['at']}" for each in told))


@pytest.hookimpl(tryfirst=True)  # before the folder of temporary files is made
def pytest_configure(config: pytest.Config) -> None:
    """A process of a parallel run gets a world of its own, and a short path for sockets in its temporary files.

    A shell's background job ignores SIGINT, and so would everything that the tests start and interrupt.
    """
    keep_bytecode(BYTECODE)
    if hasattr(config, "workerinput"):
        config.option.basetemp = Path(tempfile.gettempdir()) / f"kdht-tests-{os.getpid()}"
        if os.geteuid() == 0:
            enter_own_world()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    forks.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    """A process of a parallel run takes its temporary files with it."""
    if hasattr(config, "workerinput"):
        shutil.rmtree(config.option.basetemp, ignore_errors=True)
    else:
        drop_bytecode_of_temporary_files(BYTECODE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start daemons or programs are marked, so that `make check` can leave them out. Long files come first."""
    # By identity, for lists among them do not compare with all that a module may hold. Once a module: some have a
    # thousand tests.
    wanted = {id(each) for each in STARTS_DAEMONS}
    starts: dict[ModuleType, bool] = {}
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if item.module not in starts:
            starts[item.module] = any(id(value) in wanted for value in vars(item.module).values())
        if starts[item.module]:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: order.place(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs root or other programs is skipped where there is none; in CI that would hide it, so it is a failure."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        lacks("needs root")
    if item.get_closest_marker("browser") and (programs := missing()):
        lacks(f"needs {' and '.join(programs)} (Debian: apt-get install chromium chromium-driver)")
    if item.get_closest_marker("others") and (programs := absent()):
        lacks(f"needs {' and '.join(programs)} (apt-get install nodejs; pip install --group dev)")


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty laboratory, named after the test's module."""
    with Lab(f"t-{request.path.stem.removeprefix('test_').replace('_', '-')}") as lab:
        yield lab


# --- Leftovers -----------------------------------------------------------------------


def _namespaces() -> set[str]:
    return set(netns.listnetns())


def _said_by(*command: str) -> set[str]:
    """The lines of a tool's listing; none without root or without the tool."""
    if os.geteuid() != 0 or not which(command[0]):
        return set()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.splitlines())


def _processes() -> set[str]:
    """Processes with this run's mark, this one excepted."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = RUN_MARK.encode() in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marked and int(process.name) != os.getpid():
            found.add(f"{process.name} {command}")
    return found


OF_THE_MACHINE: dict[str, Callable[[], set[str]]] = {
    "BPF programs": lambda: _said_by("bpftool", "prog", "list"),
    "BPF links": lambda: _said_by("bpftool", "link", "list"),
}
"""Other processes of a parallel run have theirs in these, too."""
OF_A_WORLD: dict[str, Callable[[], set[str]]] = {
    "network namespaces": _namespaces,
    "nft tables": lambda: _said_by("nft", "list", "tables"),
    "network interfaces": lambda: set(os.listdir("/sys/class/net")),
    "processes": _processes,
}


class Leftovers:
    """What is on this machine that was not there when the run began.

    Outside CI others may work on the machine meanwhile, so only processes can be blamed on the run.
    """

    def __init__(self, listings: dict[str, Callable[[], set[str]]]) -> None:
        self._listings = listings
        self._before = {what: listing() for what, listing in listings.items()}

    def blamed(self) -> str:
        """In words; empty if there is nothing."""
        left = {what: listing() - self._before[what] for what, listing in self._listings.items()}
        found = [
            f"{what}: {', '.join(sorted(things))}"
            for what, things in left.items()
            if things and (IN_CI or what == "processes")
        ]
        return "left behind: " + "; ".join(found) if found else ""


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail the run if it ends with anything left over; in a parallel run, each process looks at its own world."""
    name, _, value = RUN_MARK.partition("=")
    os.environ[name] = value
    left = Leftovers(OF_A_WORLD if is_parallel(pytestconfig) else OF_A_WORLD | OF_THE_MACHINE)
    yield
    forks.end()
    if blamed := left.blamed():
        pytest.fail(blamed)


def is_parallel(config: pytest.Config) -> bool:
    """Whether this is a process of a parallel run, or the one that hands out the tests."""
    return hasattr(config, "workerinput") or config.getoption("dist", "no") != "no"


def pytest_sessionstart(session: pytest.Session) -> None:
    """In a parallel run, the process that hands out the tests watches what all worlds share."""
    if is_parallel(session.config) and not hasattr(session.config, "workerinput"):
        session.config.stash[MACHINE] = Leftovers(OF_THE_MACHINE)


def pytest_sessionfinish(session: pytest.Session) -> None:
    machine = session.config.stash.get(MACHINE, None)
    if machine is not None and (blamed := machine.blamed()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line(blamed, red=True)


MACHINE = pytest.StashKey[Leftovers]()
