"""PostgreSQL, a primary and two standbys with ANY 1 of them: a commit waits for its own sync and for that of one standby."""

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.asking import TIMEOUT
from bench.peers.base import Timing, timing
from bench.peers.counting import tree_cpu_seconds
from bench.peers.durable.base import HOME, NODES, START, found, free_ports, started
from bench.peers.missing import PeerMissing
from kdht.lab.wait import wait_until

BINARIES = "/usr/lib/postgresql/15/bin"
USER = "postgres"
TABLE = "CREATE TABLE records (key bigint PRIMARY KEY, value bytea NOT NULL)"
SCRIPT = """\\set key random(1, {most})
INSERT INTO records VALUES (:key, decode(:value, 'hex')) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
"""
SETTINGS = (
    "fsync = on",
    "synchronous_commit = on",
    f"synchronous_standby_names = 'ANY 1 ({', '.join(f's{n}' for n in range(1, NODES))})'",
    "max_connections = 200",
    "unix_socket_directories = ''",
    f"listen_addresses = '{HOME}'",
    "wal_level = replica",
    "logging_collector = off",
)


class Running:
    """A Store. pgbench makes the keys itself, as many different ones as there are values."""

    def __init__(self, values: Sequence[bytes], pids: Sequence[int], port: int, directory: Path) -> None:
        self._values, self._pids, self._port, self._directory = values, pids, port, directory

    def cpu_seconds(self) -> float:
        return tree_cpu_seconds(self._pids)

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        each = max(len(numbers) // outstanding, 1)
        logs = self._directory / "pgbench"
        logs.mkdir()
        script = self._directory / "put.sql"
        script.write_text(SCRIPT.format(most=len(self._values)))
        # The same value for all: pgbench has no list of them. It is as long, and no page of a log is compressed.
        options = ["-n", "-M", "prepared", "-c", outstanding, "-t", each, "-f", script, "-l"]
        options += ["--log-prefix", logs / "log", "-D", f"value={self._values[0].hex()}"]
        seconds = _seconds(_run("pgbench", *options, "-h", HOME, "-p", self._port, "-U", USER, "postgres"))
        taken = [
            int(line.split()[2]) / 1e6 for log in logs.iterdir() for line in log.read_text().splitlines()
        ]
        for log in logs.iterdir():
            log.unlink()
        logs.rmdir()
        return timing(taken, each * outstanding - len(taken), seconds)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing | None:
        return None  # a primary that was replaced without knowing it would give an old value


@dataclass(frozen=True)
class Postgres:
    """A Durable."""

    name: str = "PostgreSQL"
    notes: str = (
        "Debian's 15, synchronous_standby_names = 'ANY 1 (s1, s2)', synchronous_commit on; INSERT ... ON CONFLICT by pgbench -M "
        "prepared, a connection each."
    )

    def missing(self) -> str | None:
        if not found("postgres", BINARIES):
            return "postgresql-15 is not installed"
        return None if os.geteuid() == 0 else "as root alone, because its files are another user's"

    @contextmanager
    def store(self, values: Sequence[bytes], directory: Path) -> Iterator[Running]:
        with cluster(directory) as (pids, port):
            yield Running(values, pids, port, directory)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[list[int], int]]:
    """A primary and two standbys that follow it: their first processes, and the primary's port."""
    ports = free_ports(NODES)
    directory.chmod(0o755)
    homes = [directory / f"postgres{n}" for n in range(NODES)]
    user = pwd.getpwnam(USER)
    for home in homes:
        home.mkdir(mode=0o700)
        os.chown(home, user.pw_uid, user.pw_gid)
    _run("initdb", "-D", homes[0], "-A", "trust", "-U", USER, "--no-sync")
    _configure(homes[0], *SETTINGS)
    with ExitStack() as stack:
        pids = []
        for n, (home, port) in enumerate(zip(homes, ports, strict=True)):
            if n:
                follow = f"host={HOME} port={ports[0]} user={USER} application_name=s{n}"
                _run("pg_basebackup", "-D", home, "-R", "-d", follow, "--no-sync")
            command = [*_as_user("postgres"), "-D", home, "-p", port]
            pids.append(stack.enter_context(started(command, directory / f"postgres{n}.log")).pid)
            wait_until(lambda port=port: _is_ready(port), "PostgreSQL to take connections", START)  # type: ignore[misc]
        wait_until(
            lambda: (
                _ask(ports[0], "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "2"
            ),
            "PostgreSQL's standbys to be in step",
            START,
        )
        _ask(ports[0], TABLE)
        yield pids, ports[0]


def _configure(home: Path, *lines: str) -> None:
    with (home / "postgresql.conf").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def _as_user(binary: str) -> list[str]:
    path = found(binary, BINARIES)
    if path is None:
        raise PeerMissing(f"{binary} is not installed")
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", path]


def _run(binary: str, *arguments: object) -> str:
    """Its output. pgbench runs as root, and writes its log where it is told to."""
    prefix = [found(binary, BINARIES) or binary] if binary == "pgbench" else _as_user(binary)
    done = subprocess.run(
        [*prefix, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd="/"
    )
    if done.returncode:
        raise PeerMissing(f"{binary}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _ask(port: int, sql: str) -> str:
    # Until the standbys are there a commit would wait for them.
    local = f"SET synchronous_commit = local; {sql}"
    return _run("psql", "-h", HOME, "-p", port, "-U", USER, "-qAtc", local, "postgres").strip()


def _is_ready(port: int) -> bool:
    try:
        _run("pg_isready", "-h", HOME, "-p", port, "-q")
    except PeerMissing:
        return False
    return True


def _seconds(said: str) -> float:
    """The time of a run of pgbench, without that for connections."""
    (line,) = (line for line in said.splitlines() if line.startswith("tps = "))
    (done,) = (
        line for line in said.splitlines() if line.startswith("number of transactions actually processed")
    )
    return int(done.split(":")[1].split("/")[0]) / float(line.split()[2])
