"""Nodes for the tests of the web page: the first has the page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from daemons import KDHTCTL, DevNode, free_port, run

from kdht.lab.wait import wait_until


@contextmanager
def web_nodes(home: Path, hosts: Sequence[str], *options: str) -> Iterator[list[DevNode]]:
    """One at each address, all ready, with the key "greeting". `options`: those of the first."""
    port = free_port(*hosts)
    first = f"{hosts[0]}:{port}"
    started = [
        DevNode(home / host, f"{host}:{port}", *(options if host == hosts[0] else ("--bootstrap", first)))
        for host in hosts
    ]
    try:
        for node in started:
            node.wait_ready(len(hosts) - 1)
        wait_until(lambda: all(node.call("status")["ready"] for node in started), "all to be ready")
        assert run([*KDHTCTL, "put", "greeting", "hello", "--node", first]).returncode == 0
        yield started
    finally:
        for node in started:
            node.close()
