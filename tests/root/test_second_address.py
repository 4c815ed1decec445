"""Addresses beside the advertised one: a wildcard node answers at all of them, and one behind translation says so.

client 10.53.48.99, 10.78.0.99 --- br0 --- n1, n2, n3: 10.53.48.N, fd53:48::N, and also 10.78.0.N, fd78::N
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import KDHTD
from paths import ROOT

from kdht import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.wire import FIELD, hash_key, pack_request
from kdht.wire._shared import MAX_BODY, PORT, Op

pytestmark = pytest.mark.root

NAMES = [f"name {number}" for number in range(30)]
SECOND = {4: "10.78.0.{}", 6: "fd78::{}"}
WILDCARD = {4: "0.0.0.0", 6: "::"}


def answered(host: Host, node: str, names: list[str]) -> int:
    """How many of single GETs, none of them repeated, are answered from the address that was asked."""
    family = socket.AF_INET6 if ":" in node else socket.AF_INET
    with host.enter():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    numbers = set()
    with sock:
        sock.settimeout(1)
        for number, name in enumerate(names, start=1):
            sock.sendto(pack_request(Op.GET, hash_key(name), number, max_reply=MAX_BODY), (node, PORT))
            data, source = sock.recvfrom(2048)
            assert source[0] == node
            numbers.add(int.from_bytes(data[FIELD["request_id"]], "big"))
    return len(numbers)


@contextmanager
def wildcard_nodes(lab: Lab, home: Path, datapath: str, version: int) -> Iterator[tuple[Cluster, Host]]:
    places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
    client = lab.host("client", ipv4="10.53.48.99/24", ipv6="fd53:48::99/64")
    bits = 24 if version == 4 else 64
    for number, host in ((1, places[0].host), (2, places[1].host), (3, places[2].host), (99, client)):
        assert host is not None
        host.add_address("eth0", f"{SECOND[version].format(number)}/{bits}")
    lab.let_xdp_send()
    cluster = Cluster(places, home, datapath=datapath, settings={"node": {"cookies": False}})
    for node in cluster.nodes:
        text = re.sub("listen = .*", f'listen = ["{WILDCARD[version]}"]', node.config.read_text(), count=1)
        advertised = f'[node]\nadvertise = ["{node.address.host}"]'
        node.config.write_text(text.replace("[node]", advertised, 1))
    with cluster:
        yield cluster, client


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("datapath", ["socket", "nfqueue", "ebpf"])
def test_a_wildcard_node_answers_at_its_second_address(
    lab: Lab, tmp_path: Path, datapath: str, version: int
) -> None:
    with wildcard_nodes(lab, tmp_path, datapath, version) as (cluster, client):
        with client.enter(), Client(str(cluster.nodes[0].address)) as user:
            for name in NAMES:
                user.put(name, name.encode())
        assert answered(client, cluster.nodes[0].address.host, NAMES) == len(NAMES)
        assert answered(client, SECOND[version].format(1), NAMES) == len(NAMES)


def node_at(home: Path, advertised: str, extra: str = "") -> Path:
    path = home / "kdhtd.toml"
    path.write_text(
        f'[node]\nlisten = ["0.0.0.0"]\nadvertise = ["{advertised}"]\ndata_dir = "{home}/data"\n{extra}\n'
        f'[[key]]\nsecret = "sixteen bytes or more"\n[access]\nwrites = "open"\n[control]\nsocket = "{home}/c.sock"\n'
        '[datapath]\nkind = "socket"\n'
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("more", [["--check"], []], ids=["check", "start"])
def test_an_advertised_address_behind_translation_is_refused(
    lab: Lab, tmp_path: Path, more: list[str]
) -> None:
    host = lab.host("node", ipv4="10.53.48.1/24")
    done = host.run([*KDHTD, *more, "--config", str(node_at(tmp_path, "192.0.2.7"))], check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "node.advertise has 192.0.2.7, which no interface of this host has" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_advertised_address_that_comes_later_is_for_freebind(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("node", ipv4="10.53.48.1/24")
    host.add_address("eth0", "10.78.0.1/24")
    config = node_at(tmp_path, "192.0.2.7", "freebind = true")
    done = host.run([*KDHTD, "--check", "--config", str(config)], check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "clients may also ask 10.53.48.1, 10.78.0.1" in done.stdout
