"""The tracker with unmodified clients, each a process of its own on a host of its own, with default settings.

    n1 n2 n3: nodes with trackers; n1 is killed         a host each: libtorrent (2), aria2, Transmission; two of IPv6 alone
      |  |  |                                             |  |  |  |  |  |
    --+--+--+------------------- br0 ---------------------+--+--+--+--+--+--

The torrent is a private one, so clients must not look for peers elsewhere: not in a DHT, not by multicast, not from each other.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from ci import lacks

from kdht.client import Client
from kdht.faces.tracker.swarms import set_of
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire.bencode import encode

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 6969
PIECE = 1 << 15
DATA = hashlib.shake_128(b"a file to share").digest(300_000)
PATIENCE = 150.0
"""Seconds. Transmission naps for some 15 s before its first announce."""
LIBTORRENT = """
import sys, time, libtorrent
torrent, folder = sys.argv[1:]
session = libtorrent.session()
params = libtorrent.add_torrent_params()
params.ti, params.save_path = libtorrent.torrent_info(torrent), folder
session.add_torrent(params)
while True:
    time.sleep(60)
"""


def torrent(*trackers: str) -> bytes:
    """A private torrent of DATA, with a tier for each tracker, to be asked in this order."""
    pieces = b"".join(hashlib.sha1(DATA[at : at + PIECE]).digest() for at in range(0, len(DATA), PIECE))
    urls = [f"udp://{at}:{PORT}/announce".encode() for at in trackers]
    info = {b"length": len(DATA), b"name": b"file", b"piece length": PIECE, b"pieces": pieces, b"private": 1}
    return encode({b"announce": urls[0], b"announce-list": [[url] for url in urls], b"info": info})


def info_hash() -> bytes:
    whole = torrent("10.0.0.1")
    return hashlib.sha1(whole[whole.index(b"4:info") + 6 : -1]).digest()


class Peer:
    """A client on a host of its own, downloading to a directory of its own."""

    def __init__(self, lab: Lab, home: Path, name: str, number: int, *, ipv6: bool = False) -> None:
        address = {"ipv6": f"fd53:48::{number:x}/64"} if ipv6 else {"ipv4": f"10.53.48.{number}/24"}
        self.host: Host = lab.host(name, **address)
        self.home = home / name
        self.home.mkdir()
        self.file = self.home / "file"
        self.log = home / f"{name}.log"

    def start(self, kind: str, torrent: bytes) -> "Peer":
        path = self.home / "torrent"
        path.write_bytes(torrent)
        commands = {
            "libtorrent": [sys.executable, "-c", LIBTORRENT, path, self.home],
            "aria2": ["aria2c", "--dir", self.home, path],
            "transmission": [
                "transmission-cli",
                "--config-dir",
                self.home / "settings",
                "--download-dir",
                self.home,
                path,
            ],
        }
        command: Sequence[Any] = commands[kind]
        with self.log.open("wb") as log:
            self.host.popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self.home), "XDG_CACHE_HOME": str(self.home)},
            )
        return self

    def has_all(self) -> bool:
        return self.file.exists() and self.file.read_bytes() == DATA

    def tail(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")[-600:]


@pytest.fixture
def cluster(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    wanted = {
        "aria2": which("aria2c"),
        "transmission-cli": which("transmission-cli"),
        "libtorrent": find_spec("libtorrent"),
    }
    if missing := [name for name, found in wanted.items() if not found]:
        lacks(f"needs {', '.join(missing)}")
    places = places_in(lab, 3, ipv6=True)
    settings = {"tracker": {"listen": [f"0.0.0.0:{PORT}", f"[::]:{PORT}"]}}
    with Cluster(places, tmp_path, datapath="socket", settings=settings) as cluster:
        for node in cluster.nodes:
            wait_until(lambda node=node: node.status()["faces"][0]["up"], "its tracker")
        yield cluster


def test_clients_download_from_each_other_while_a_tracker_is_killed(
    lab: Lab, tmp_path: Path, cluster: Cluster
) -> None:
    first, second, third = (node.address.host for node in cluster.nodes)
    seed, one, two, three = (
        Peer(lab, tmp_path, name, number)
        for number, name in enumerate(("seed", "libtorrent", "aria2", "transmission"), start=101)
    )
    six = [
        Peer(lab, tmp_path, name, number, ipv6=True)
        for number, name in enumerate(("seed6", "leech6"), start=105)
    ]
    for peer in (seed, six[0]):
        peer.file.write_bytes(DATA)
    # The seed knows one tracker, so it is by that one that all others find it.
    seed.start("libtorrent", torrent(first))
    three.start("transmission", torrent(second, first))
    six[0].start("libtorrent", torrent(f"[{cluster.nodes[0].place.addresses[1].host}]"))
    six[1].start("libtorrent", torrent(*(f"[{node.place.addresses[1].host}]" for node in cluster.nodes[1:])))
    with cluster.nodes[1].host.enter(), Client(str(cluster.nodes[1].address)) as client:
        for name in (set_of(info_hash(), is_ipv4=is_ipv4) for is_ipv4 in (True, False)):
            wait_until(lambda name=name: client.members(name), "the seed in its set", PATIENCE)
    cluster.nodes[0].kill()
    one.start("libtorrent", torrent(first, third))
    two.start("aria2", torrent(first, second))
    for peer in (one, two, three, six[1]):
        try:
            wait_until(peer.has_all, f"{peer.host.name} to have the file", PATIENCE)
        except Exception as error:
            pytest.fail(f"{error}: {peer.tail()}")
    counters = [node.status()["faces"][0]["counters"] for node in cluster.nodes[1:]]
    assert all(each["announce"] for each in counters)
