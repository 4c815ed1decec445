"""A node with the HTTP face, and who asks it with Python's own HTTP client."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from daemons import DevNode, free_port

from kdht.lab.wait import wait_until

PATIENCE = 60.0


class HttpNode(DevNode):
    """A node whose face is at `url`."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def face(self) -> Mapping[str, Any]:
        """What kdhtd knows of it."""
        (found,) = self.call("status")["faces"]
        return found


@contextmanager
def http_node(home: Path, host: str, http: str = "", tables: str = "") -> Iterator[HttpNode]:
    """A cluster of one with the HTTP face. `http`: more lines of that table; `tables`: more of the configuration."""
    home.mkdir(exist_ok=True)
    port, own = free_port(host), free_port(host)
    path = home / "kdhtd.toml"
    path.write_text(
        f"""
        [node]
        listen = ["{host}:{own}"]
        data_dir = "{home}/data"
        [replication]
        replicas = 1
        [datapath]
        kind = "socket"
        [control]
        socket = "{home}/control.sock"
        [[key]]
        secret = "a secret of the tests of faces"
        [http]
        listen = ["{host}:{port}"]
        {http}
        {tables}
        """
    )
    path.chmod(0o600)
    node = HttpNode(home, f"{host}:{own}", config=path)
    node.host, node.port = host, port
    try:
        node.wait_ready()
        wait_until(lambda: node.face()["up"] and node.call("status")["ready"], "the face")
        yield node
    finally:
        node.close()


class Said(NamedTuple):
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """A problem's."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["detail"]
        return problem["code"]


class Caller:
    """One kept connection."""

    def __init__(self, host: str, port: int) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Said:
        """Names of headers with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        answer = self.connection.getresponse()
        return Said(answer.status, answer.headers, answer.read())

    def close(self) -> None:
        self.connection.close()


@contextmanager
def caller(node: HttpNode) -> Iterator[Caller]:
    made = Caller(node.host, node.port)
    try:
        yield made
    finally:
        made.close()
