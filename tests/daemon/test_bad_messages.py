"""Bad messages to a real daemon on its sockets: counted by reason, never answered or forwarded, and it serves on.

client -> one -> other: two `--dev` nodes on loopback, whose secret is known.
"""

import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from bad_messages import NAMES, bad_messages
from builders import request
from daemons import DevNode, free_port

from kdht.config import dev
from kdht.lab.wait import wait_until
from kdht.wire import Address, keys, parse
from kdht.wire._shared import Status

KEY = keys.derive(0, dev.SECRET.encode())
GOOD = 0x600D


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    hosts = ("127.0.0.1", "127.0.0.2")
    home, port = tmp_path_factory.mktemp("nodes"), free_port(*hosts)
    started = [DevNode(home / "one", f"{hosts[0]}:{port}")]
    try:
        started[0].wait_ready()
        started.append(DevNode(home / "other", f"{hosts[1]}:{port}", "--bootstrap", started[0].listen))
        yield [node.wait_ready(contacts=1) for node in started]
    finally:
        for node in started:
            node.close()


def counted(node: DevNode) -> Counter[str]:
    """Messages by reason, those between the nodes left out."""
    reasons = Counter(node.call("stats")["packets"]["all"])
    del reasons["CONTROL"]
    return reasons


@pytest.fixture
def asker(nodes: list[DevNode]) -> Iterator[socket.socket]:
    host, _, port = nodes[0].listen.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((host, int(port)))
        yield sock


@pytest.mark.parametrize("what", NAMES)
def test_a_message(nodes: list[DevNode], asker: socket.socket, what: str) -> None:
    """A good request for the other's key follows: its answer is the first that comes back, and it alone went on."""
    key = bytes.fromhex(nodes[1].call("status")["node_id"])
    own = Address.of(*asker.getpeername())
    message, reason = bad_messages((KEY.epoch, KEY.tag), own, key, int(time.time()))[what]
    before = [counted(node) for node in nodes]
    asker.send(message)
    wait_until(lambda: counted(nodes[0]) != before[0], "the verdict")
    assert counted(nodes[0]) - before[0] == Counter({reason: 1})
    asker.send(request(key=key, request_id=GOOD))
    answer = parse(asker.recv(2048))
    assert (answer.request_id, answer.status) == (GOOD, Status.NOT_FOUND)
    assert counted(nodes[1]) - before[1] == Counter({"OWNER": 1})
