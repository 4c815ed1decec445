"""The recipes of contrib/routing: one address for clients, announced or held by nodes that are ready.

client 10.60.0.2 --- eth1 router eth0 10.53.48.254 --- br0 --- n1, n2, n3: 10.53.48.N, and 10.9.9.9 on lo
"""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest
from ci import lacks
from loss_load import loaded
from paths import ROOT

from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, Place, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire._shared import PORT

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

RECIPES = ROOT / "contrib/routing"
NODES = 3
SHARED = "10.9.9.9"
VIRTUAL = "10.53.48.200"
READY_AT = {"listen": "127.0.0.1:9548"}
FAILOVER_S = 3.0
KEYS = [f"key {number}" for number in range(20)]


def recipe(name: str, number: int, home: Path) -> Path:
    """The file for this node and this laboratory's addresses."""
    text = (
        (RECIPES / name).read_text().replace("10.0.0.1", f"10.53.48.{number}").replace("10.0.0.", "10.53.48.")
    )
    path = home / f"{number}-{name}"
    path.write_text(text)
    return path


def quiet(host: Host, home: Path, *command: str, **more: object) -> None:
    """A program that runs until the laboratory ends; what it says is in a file."""
    with (home / f"{host.name}-{Path(command[0]).name}.log").open("ab") as said:
        host.popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, **more)


def follow_ready(host: Host, home: Path, up: str, down: str) -> None:
    quiet(host, home, str(RECIPES / "follow-ready"), up, down)


def bird(host: Host, home: Path, number: int) -> None:
    control = home / f"{number}-bird.ctl"
    config = recipe("bird.conf", number, home)
    quiet(
        host,
        home,
        "bird",
        "-f",
        "-c",
        str(config),
        "-s",
        str(control),
        "-P",
        str(home / f"{number}-bird.pid"),
    )
    wait_until(control.exists, "bird to run")
    follow_ready(host, home, f"birdc -s {control} enable anycast", f"birdc -s {control} disable anycast")


def exabgp(host: Host, home: Path, number: int) -> None:
    environment = {
        "exabgp.daemon.drop": "false",
        "exabgp.api.cli": "false",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    quiet(host, home, "exabgp", str(recipe("exabgp.conf", number, home)), env=environment)


def frr(host: Host, home: Path, number: int) -> None:
    sockets = home / f"{number}-frr"
    sockets.mkdir()
    config = recipe("frr.conf", number, home)
    quiet(host, home, "/usr/lib/frr/bgpd", "-Z", "-S", "-f", str(config), "-i", str(sockets / "pid"),
          "--vty_socket", str(sockets), "-P", "0")  # fmt: skip
    wait_until((sockets / "bgpd.vty").exists, "bgpd to run")
    vtysh = f"vtysh --vty_socket {sockets} -c 'configure terminal' -c 'router bgp 65001' -c"
    follow_ready(host, home, f"{vtysh} 'network {SHARED}/32'", f"{vtysh} 'no network {SHARED}/32'")


ANNOUNCERS: dict[str, Callable[[Host, Path, int], None]] = {"bird": bird, "exabgp": exabgp, "frr": frr}
PROGRAMS = {"bird": "bird", "exabgp": "exabgp", "frr": "vtysh"}


def route(router: Host, home: Path) -> None:
    """The router of the site: BIRD, which takes the nodes' routes and spreads clients over all of them."""
    neighbours = "".join(
        f"protocol bgp n{number} {{ local 10.53.48.254 as 65000; neighbor 10.53.48.{number} as 65001;"
        " ipv4 { import all; export none; }; }\n"
        for number in range(1, NODES + 1)
    )
    config = home / "router.conf"
    config.write_text(
        "router id 10.53.48.254;\nprotocol device {}\n"
        f"protocol kernel {{ merge paths on; ipv4 {{ export all; }}; }}\n{neighbours}"
    )
    router.sysctl("net/ipv4/ip_forward", 1)
    router.sysctl("net/ipv4/fib_multipath_hash_policy", 1)
    quiet(
        router,
        home,
        "bird",
        "-f",
        "-c",
        str(config),
        "-s",
        str(home / "router.ctl"),
        "-P",
        str(home / "router.pid"),
    )


def site(lab: Lab) -> tuple[list[Place], Host, Host]:
    places = places_in(lab, NODES)
    router, client = lab.host("router", ipv4="10.53.48.254/24"), lab.host("client")
    lab.link(client, router, "eth1", addresses={"client": ["10.60.0.2/24"], "router": ["10.60.0.1/24"]})
    client.run(["ip", "route", "add", "default", "via", "10.60.0.1"])
    for place in places:
        assert place.host is not None
        place.host.run(["ip", "route", "add", "default", "via", "10.53.48.254"])
    return places, router, client


class User:
    """Writes and reads through one address, as fast as it gets answers."""

    def __init__(self, client: Host, address: str, keys: list[str]) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._client, self._address, self._keys = client, address, keys
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "User":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with self._client.enter(), Client(self._address, learn=False, timeout=15) as asks:
            number = 0
            while not self._ended.is_set():
                number += 1
                key = self._keys[number % len(self._keys)]
                try:
                    asks.put(key, b"%d" % number)
                    if asks.get(key, quorum=True) != b"%d" % number:
                        self.failures.append(f"{key}: not {number}")
                except Exception as error:
                    self.failures.append(repr(error))
                self.done += 1
                self._ended.wait(0.005)  # the nodes shall serve, not be busy all the time


@contextmanager
def users(client: Host, address: str) -> Iterator[list[User]]:
    some = [User(client, address, KEYS[first::3]) for first in range(3)]
    with some[0], some[1], some[2]:
        wait_until(lambda: all(user.done > 5 for user in some), "requests to be answered", 30)
        yield some
        aims = [user.done + 5 for user in some]
        wait_until(lambda: all(u.done > aim for u, aim in zip(some, aims, strict=True)), "more answers", 30)
    assert [failure for user in some for failure in user.failures] == []


def paths_to(router: Host) -> set[str]:
    """The nodes to which the router sends what is for the shared address."""
    found = router.run(["ip", "route", "show", f"{SHARED}/32"]).stdout
    return set(re.findall(r"via 10\.53\.48\.(\d+)", found))


def restart(node: LabNode, is_away: Callable[[], bool], is_back: Callable[[], bool]) -> None:
    node.terminate()
    wait_until(is_away, "clients to be sent elsewhere", 10)
    assert node.alive(), "the route went before the node"
    assert node.wait_end() == 0
    node.start()
    wait_until(lambda: node.ready(1), f"{node.name} to be ready", 60)
    wait_until(is_back, "clients to be sent there again", 20)


@pytest.mark.parametrize("announcer", ANNOUNCERS)
def test_a_rolling_restart_behind_an_announced_address_fails_no_request(
    lab: Lab, tmp_path: Path, announcer: str
) -> None:
    if not which(PROGRAMS[announcer]) or not which("bird"):
        lacks(f"needs bird2 and {announcer}")
    places, router, client = site(lab)
    for place in places:
        assert place.host is not None
        place.host.run(["ip", "address", "add", f"{SHARED}/32", "dev", "lo"])
    settings = {"node": {"anycast": [SHARED], "lame_duck": 5}, "metrics": READY_AT}
    with Cluster(places, tmp_path, datapath="nfqueue", settings=settings) as cluster:
        route(router, tmp_path)
        for number, node in enumerate(cluster.nodes, start=1):
            ANNOUNCERS[announcer](node.host, tmp_path, number)
        everywhere = {str(number) for number in range(1, NODES + 1)}
        wait_until(lambda: paths_to(router) == everywhere, "the routes of all nodes", 40)
        with users(client, SHARED):
            for number, node in enumerate(cluster.nodes, start=1):
                restart(
                    node,
                    lambda number=number: str(number) not in paths_to(router),
                    lambda: paths_to(router) == everywhere,
                )


def keepalived(host: Host, home: Path, number: int) -> None:
    path = recipe("keepalived.conf", number, home)
    path.write_text(path.read_text().replace("priority 100", f"priority {100 - number}"))
    path.chmod(0o644)
    quiet(host, home, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", str(path),
          "--pid", str(home / f"{number}-k.pid"), "--vrrp_pid", str(home / f"{number}-v.pid"))  # fmt: skip


def has_virtual(node: LabNode) -> bool:
    return f"{VIRTUAL}/24" in node.host.addresses()


@pytest.mark.parametrize("datapath", ["socket", "nfqueue"])
def test_a_virtual_address_moves_to_a_ready_node(lab: Lab, tmp_path: Path, datapath: str) -> None:
    if not which("keepalived"):
        lacks("needs keepalived")
    places, router, client = site(lab)
    router.sysctl("net/ipv4/ip_forward", 1)
    cluster = Cluster(
        places,
        tmp_path,
        datapath=datapath,
        settings={"node": {"lame_duck": 3, "cookies": False}, "metrics": READY_AT},
    )
    for node in cluster.nodes:
        text = re.sub("listen = .*", 'listen = ["0.0.0.0"]', node.config.read_text(), count=1)
        node.config.write_text(text.replace("[node]", f'[node]\nadvertise = ["{node.address.host}"]', 1))
    with cluster:
        for number, node in enumerate(cluster.nodes, start=1):
            keepalived(node.host, tmp_path, number)
        first, second, _ = cluster.nodes
        wait_until(lambda: has_virtual(first), "the first node to have the address", 20)
        with users(client, VIRTUAL):
            for node in cluster.nodes:
                restart(node, lambda node=node: not has_virtual(node), lambda: has_virtual(first))
            # The host of the first node dies, with all that runs there.
            with loaded(client, "10.60.0.2", (VIRTUAL, PORT), KEYS) as load:
                time.sleep(1)
                begun = time.monotonic()
                first.host.set_link("eth0", up=False)
                wait_until(lambda: has_virtual(second), "the second node to have the address", 10)
                time.sleep(2 * FAILOVER_S)
                lost = [at for at in load.lost(time.monotonic() - 1) if at > begun]
            print(f"requests were lost for {max(lost) - begun:.1f} s")
            assert max(lost) - begun < FAILOVER_S
        first.host.set_link("eth0", up=True)
