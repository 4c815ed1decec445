"""docs/operating.md followed word for word, by an operator who has three new machines and reads nothing else.

client   n1   n2   n3        each a machine with systemd as its process 1 (tests/helpers/machines.py), the client a plain host
  |      |    |    |         10.0.0.9, 10.0.0.1 to 10.0.0.3
--+------+----+----+-- br0

The blocks are typed in their order, into bash, on the hosts that they name. One kind of line is not typed but done by the
test: `scp`, for no ssh server runs there. Packages come from wheels, for there is no other network. The
machines begin with the firewall of many: drop what is not known. From when the cluster is up a client
writes and reads through all three nodes without a pause: no request of it may fail, and a quorum read must
bring what was written last. A plain read may lag behind where its owner was away (docs/design/reads.md); that is counted.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from installed import copy_sources, make, make_wheels
from machines import Machine
from operating import Block, blocks

from kdht import Client
from kdht.lab.netns import Host, Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800)]

ADDRESSES = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
UP = "kdhtctl cluster"
"""The first block with this line finds a cluster that serves."""
FIREWALL = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
    }
    chain forward { type filter hook forward priority filter; policy drop; }
    chain output { type filter hook output priority filter; policy accept; }
}
"""
COPY = re.compile(r"^scp -p (?P<file>\S+) root@(?P<address>[0-9.]+):(?P<target>\S+)\n", re.MULTILINE)


class Load:
    """A client that never rests: a value is written, and read again through whichever node is next."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._token = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.done = 0
        self.lagging = 0
        self.failures: list[str] = []

    def start(self, token: str) -> None:
        self._token = token
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with self._host.enter(), Client(list(ADDRESSES.values()), timeout=20, token=self._token) as client:
            while not self._ended.wait(0.01):
                key, value = f"load {self.done % 500}", f"{self.done}".encode()
                doing = "put"
                try:
                    client.put(key, value)
                    doing = "get"
                    self.lagging += client.get(key) != value
                    doing = "quorum get"
                    found = client.get(key, quorum=True)
                except Exception as error:
                    self.failures.append(f"{time.strftime('%H:%M:%S')} {doing} {key}: {error!r}")
                    continue
                if found != value:
                    self.failures.append(
                        f"{time.strftime('%H:%M:%S')} {key}: {found!r} in place of {value!r}"
                    )
                self.done += 1


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Machine], Load]]:
    """Three machines with the sources and a firewall, and the load, not started."""
    directory = tmp_path_factory.mktemp("operating")
    sources, wheels = copy_sources(directory / "kdht"), make_wheels(directory / "wheels")
    assert make(sources, wheels, "wheel").returncode == 0  # compiled once, where all three find it
    with Lab("t-operating") as lab, ExitStack() as stack:
        found = {}
        for name, address in ADDRESSES.items():
            host = lab.host(name, ipv4=f"{address}/24")
            host.nft(FIREWALL)
            machine = Machine(host, {sources: "/usr/src/kdht"}, wheels, directory / f"{name}.log")
            found[name] = stack.enter_context(machine)
        load = Load(lab.host("client", ipv4="10.0.0.9/24"))
        stack.callback(load.stop)
        yield found, load


def follow(block: Block, machines: dict[str, Machine]) -> None:
    """Type the block on its hosts; raises LabError with the line where a command failed."""
    for name in block.hosts:
        at = 0
        for copied in COPY.finditer(block.script):
            machines[name].run(block.script[at : copied.start()])
            at = copied.end()
            content = machines[name].run(f"cat {copied['file']}").stdout
            (target,) = (
                machines[host] for host, address in ADDRESSES.items() if address == copied["address"]
            )
            target.run(f"umask 077; printf '%s' '{content}' >{copied['target']}")
        machines[name].run(block.script[at:], timeout=600)


def journals(machines: dict[str, Machine]) -> str:
    """The end of what each machine logged."""
    return "".join(
        each.run("journalctl --lines 40 --no-pager", check=False).stdout for each in machines.values()
    )


def test_the_document_word_for_word(machines: tuple[dict[str, Machine], Load]) -> None:
    found, load = machines
    running = False
    for block in blocks():
        try:
            follow(block, found)
        except Exception as error:
            pytest.fail(f"docs/operating.md, line {block.line}: {error}\n{journals(found)}")
        if load.failures:
            pytest.fail(f"after the block in line {block.line}: {load.failures}\n{journals(found)}")
        if UP in block.script and not running:
            running = True
            load.start(found["n1"].run("kdhtctl token new --holder load").stdout.strip())
    load.stop()
    assert load.done > 100
    assert load.failures == []
    print(
        f"{load.done} values written and read meanwhile, none lost; {load.lagging} plain reads lagged behind"
    )
