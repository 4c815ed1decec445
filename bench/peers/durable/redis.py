"""Redis, a primary and two replicas: each syncs its log after each turn of its loop, and WAIT 1 confirms with one replica's sync."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import Timing
from bench.peers.counting import cpu_seconds
from bench.peers.durable.base import HOME, NODES, START, ask_tcp, found, free_ports, listens, started
from kdht.lab.wait import wait_until

# A client of Redis has its answers before the replica's sync without it. 5 s, and then the write counts as failed.
WAIT = b"WAIT", b"1", b"5000"


class Running:
    """A Store."""

    def __init__(self, values: Sequence[bytes], pids: Sequence[int], port: int) -> None:
        self._values, self._pids, self._port = values, pids, port

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pids)

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        return self.write([command(b"SET", b"key-%016d" % n, self._values[n]) for n in numbers], outstanding)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing | None:
        return None  # a primary that was replaced without knowing it would give an old value

    def write(self, commands: Sequence[bytes], outstanding: int) -> Timing:
        """Each command and WAIT 1, in one packet; one connection for each that is under way."""
        wait = command(*WAIT)
        return ask_tcp("resp2", [self._port], [each + wait for each in commands], [], outstanding)

    def read(
        self, commands: Sequence[bytes], answers: Sequence[bytes], outstanding: int, count: int
    ) -> Timing:
        return ask_tcp("resp1", [self._port], commands, answers, outstanding, count=count)

    def call(self, request: bytes) -> bytes:
        """The first bytes of the reply."""
        with socket.create_connection((HOME, self._port)) as sock:
            sock.sendall(request)
            return sock.recv(1 << 16)


@dataclass(frozen=True)
class Redis:
    """A Durable."""

    name: str = "Redis"
    notes: str = "Debian's 7.0, appendonly and appendfsync always on all three; SET and WAIT 1 in one packet, a connection each."

    def missing(self) -> str | None:
        return None if found("redis-server") else "redis-server is not installed"

    @contextmanager
    def store(self, values: Sequence[bytes], directory: Path) -> Iterator[Running]:
        with cluster(directory) as (pids, ports):
            yield Running(values, pids, ports[0])


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[list[int], list[int]]]:
    """A primary and two replicas in step with it: their processes and ports."""
    ports = free_ports(NODES)
    binary = found("redis-server") or "redis-server"
    with ExitStack() as stack:
        pids = []
        for n, port in enumerate(ports):
            home = directory / f"redis{n}"
            home.mkdir()
            settings = {"bind": HOME, "port": port, "dir": home, "save": "", "appendonly": "yes"}
            settings |= {"appendfsync": "always", "daemonize": "no"}
            if n:
                settings["replicaof"] = f"{HOME} {ports[0]}"
            options = [part for name, value in settings.items() for part in (f"--{name}", *_words(value))]
            pids.append(stack.enter_context(started([binary, *options], directory / f"redis{n}.log")).pid)
            wait_until(lambda port=port: listens(port), "Redis to listen", START)  # type: ignore[misc]
        running = Running((), pids, ports[0])
        in_step = b"connected_slaves:2\r\n"
        wait_until(
            lambda: (
                (said := running.call(command(b"INFO", b"replication"))).count(b"state=online") == 2
                and in_step in said
            ),
            "Redis' replicas to be in step",
            START,
        )
        yield pids, ports


def _words(value: object) -> list[str]:
    return str(value).split(" ")
