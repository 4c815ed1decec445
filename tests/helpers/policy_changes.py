"""Policies and secrets of a whole cluster that change while clients write: no write may fail."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import pytest
import tokens
from daemons import KDHTCTL, run

from kdht.client import Client
from kdht.errors import Denied, RequestError
from kdht.lab.cluster import Cluster
from kdht.lab.wait import wait_until
from kdht.wire.rights import Token

PAUSE_S = 0.005
"""Of a writer between two writes: the nodes shall serve, not be busy all the time."""

ClientOf: TypeAlias = Callable[[Token | None], AbstractContextManager[Client]]
"""A client with this token, made in the thread that uses it."""


def change(cluster: Cluster, edit: Callable[[str], str]) -> None:
    """Another configuration, by SIGHUP, on one node after the other."""
    for node in cluster.nodes:
        before = node.config.read_text()
        after = edit(before)
        assert after != before
        node.config.write_text(after)
        assert node.call("reload")["waiting"] == []


class Writers:
    """Clients that write all the time, each a key of its own; `failed` has what went wrong."""

    def __init__(self, client_of: ClientOf, made: list[Token]) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(client_of, number, each))
            for number, each in enumerate(made)
        ]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _write(self, client_of: ClientOf, number: int, made: Token) -> None:
        with client_of(made) as kdht:
            while not self._ending.is_set():
                value = os.urandom(8)
                try:
                    kdht.put(f"writer {number}", value)
                    if kdht.get(f"writer {number}") != value:
                        self.failed.append("another value")
                except RequestError as error:
                    self.failed.append(str(error))
                self.done += 1
                self._ending.wait(PAUSE_S)

    def some_more(self, count: int = 20) -> None:
        before = self.done
        wait_until(lambda: self.done >= before + count, "more writes")


def open_becomes_token(cluster: Cluster, client_of: ClientOf) -> None:
    """A cluster with `writes = "open"` counts who would be denied, then denies."""
    with client_of(None) as old:
        old.put("old", b"1")
        with Writers(client_of, [tokens.token(), tokens.token(scope="billing")]) as writers:
            writers.some_more()
            change(cluster, lambda text: text.replace('writes = "open"', 'writes = "count"'))
            old.put("old", b"2")
            writers.some_more()
            counted = sum(node.stats()["would_deny"]["writes none"] for node in cluster.nodes)
            assert 1 <= counted <= 3  # a try that was slow is made again, and counted again
            change(cluster, lambda text: text.replace('writes = "count"', 'writes = "token"'))
            with pytest.raises(Denied):
                old.put("old", b"3")
            writers.some_more()
        assert (writers.failed, old.get("old")) == ([], b"2")


def change_both_secrets(cluster: Cluster, client_of: ClientOf, directory: Path) -> None:
    """The cluster's and the tokens': new ones are accepted, then used, then the old ones go. The policy is `token` for all."""
    new_secret = "another access secret of the tests"
    made_anew = tokens.token(secret=new_secret, epoch=1)
    for kind, secret in (("access", new_secret), ("cluster", "another secret of the cluster")):
        (directory / kind).write_text(secret)
        (directory / kind).chmod(0o600)

    def rotate(stage: str, kind: str) -> None:
        for node in cluster.nodes:
            more = ["--file", directory / kind] if stage == "accept" else []
            more += ["--access"] if kind == "access" else []
            ends = ["--config", node.config, "--socket", node.control]
            done = run([*KDHTCTL, "key", "rotate", "--stage", stage, *more, *ends])
            assert done.returncode == 0, done.stderr

    with client_of(made_anew) as later, pytest.raises(Denied):
        later.put("later", b"1")
    with Writers(client_of, [tokens.token()]) as writers:
        for kind in ("access", "cluster"):
            for stage in ("accept", "sign"):
                rotate(stage, kind)
                writers.some_more(5)
        rotate("retire", "cluster")
        writers.some_more(5)
    with Writers(client_of, [made_anew]) as newer:
        rotate("retire", "access")
        newer.some_more(5)
    assert (writers.failed, newer.failed) == ([], [])
    assert cluster.nodes[0].status()["access"]["epochs"] == [1]
    with client_of(tokens.token()) as old, pytest.raises(Denied):
        old.put("old", b"1")
