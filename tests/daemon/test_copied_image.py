"""Two nodes with one ID, from a copied data directory: the younger serves nothing, and whoever hears of both says so."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from daemons import KDHTCTL, DevNode, free_port, run

from kdht import Client
from kdht.errors import RequestError
from kdht.lab.wait import wait_until

KEYS = [f"key {number}" for number in range(12)]


class Copied(NamedTuple):
    first: DevNode
    original: DevNode
    copy: DevNode


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    """A node and its copy, which enters through another node and does not know the original's address."""
    first, original, copy = (f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(3))
    with ExitStack() as stack:

        def node(name: str, listen: str, *arguments: str) -> DevNode:
            started = DevNode(tmp_path / name, listen, *arguments)
            stack.callback(started.close)
            return started

        nodes = [
            node("first", first).wait_ready(),
            node("original", original, "--bootstrap", first).wait_ready(1),
        ]
        with Client([first, original]) as client:
            client.put_many(dict.fromkeys(KEYS, b"old"))
            nodes[1].end()
            shutil.copytree(
                tmp_path / "original", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock", "lock")
            )
            (tmp_path / "copy/contacts").unlink()
            nodes[1].start()
            nodes[1].wait_ready(1)
            client.put_many(dict.fromkeys(KEYS, b"new"))
        yield Copied(*nodes, node("copy", copy, "--bootstrap", first))


def status_of(node: DevNode) -> dict:
    return node.call("status")


def test_the_younger_serves_nothing_and_says_what_to_do(copied: Copied) -> None:
    wait_until(copied.copy.serves, "the copy to run")
    wait_until(lambda: status_of(copied.copy)["yields_to_twin"], "the copy to yield")
    status = status_of(copied.copy)
    assert not status["ready"]
    assert "own ID" in status["waiting_for"]
    assert (
        f"an older node at {copied.original.listen} has this node's ID: stop this one"
        in status["not_writable"]
    )
    assert status_of(copied.original)["ready"]
    found = []
    with Client(copied.copy.listen, learn=False, timeout=0.5, attempts=2) as client:
        for key in KEYS:
            try:
                found.append(client.get(key))
            except RequestError:
                continue
    assert b"old" not in found
    doctor = run([*KDHTCTL, "doctor", "--socket", copied.copy.control])
    assert doctor.returncode != 0
    assert "has this node's ID" in " ".join(doctor.stdout.split())


def test_the_cluster_is_warned(copied: Copied) -> None:
    for node, text in (
        (copied.first, "have one ID"),
        (copied.original, "has this node's ID and serves nothing"),
    ):
        wait_until(
            lambda node=node, text=text: any(text in warning for warning in status_of(node)["warnings"]),
            f"the warning: {text}",
        )
        (pair,) = status_of(node)["twins"]
        assert set(pair["addresses"]) == {copied.original.listen, copied.copy.listen}
    done = run([*KDHTCTL, "cluster", "--settle", "0", "--socket", copied.first.control])
    assert done.returncode == 8
    assert "one of them was copied: stop the copy" in done.stderr
