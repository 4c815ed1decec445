"""What scripts/kernels runs as root in each of two machines: a node by ebpf, and clients, over four kinds of network.

machine 1, 10.9.N.1, fd09:N::1 --- machine 2, 10.9.N.2, fd09:N::2

eth0  virtio-net; also as VLAN 7, and for the two machines' meetings
eth1  virtio-net that refuses XDP's native mode
eth2  virtio-net below bond0

Each value has one owner, so half of the requests have to go on to the other machine. Each machine's client asks the other
machine's node: what a host sends to itself meets no XDP program.
"""

import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kdht import Client
from kdht.errors import KdhtError, NoDaemon
from kdht.program import control_client

SIDE = int(sys.argv[1])
OTHER = 3 - SIDE
CONTROL = Path("/run/kdht/kdhtd.sock")
MEETING_PORT = 7000
PATIENCE_S = 400.0
"""A machine without KVM takes a minute for what takes a second elsewhere."""
SETTLED_S = 60.0
VALUES = 20
CHECKED = ("state", "why", "modes", "queue_rule", "checks")


class Net(NamedTuple):
    name: str
    number: int
    interface: str
    datapath: str
    made_by: str


NETS = [
    Net("native", 0, "eth0", "ebpf", "true"),
    Net("nfqueue", 0, "eth0", "nfqueue", "true"),
    Net("VLAN", 7, "eth0.7", "ebpf", "ip link add link eth0 name eth0.7 type vlan id 7"),
    Net("generic", 1, "eth1", "ebpf", "ip link set eth1 up"),
    Net(
        "bond",
        2,
        "bond0",
        "ebpf",
        "ip link add bond0 type bond mode active-backup miimon 100; ip link set eth2 down; ip link set eth2 master bond0",
    ),
]


def shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=False)


def say(text: str) -> None:
    print(f"RESULT {platform.release()}: machine {SIDE}: {text}", flush=True)


def meet(number: int) -> None:
    """Return when the other machine is here too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((f"10.9.0.{SIDE}", MEETING_PORT + number))
        here.settimeout(0.5)
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            with suppress(OSError):
                here.sendto(b"here", (f"10.9.0.{OTHER}", MEETING_PORT + number))
                here.recv(16)
                # It may have missed the first.
                here.sendto(b"here", (f"10.9.0.{OTHER}", MEETING_PORT + number))
                return
    say("the other machine did not come")


def hosts(net: Net, side: int) -> list[str]:
    return [f"10.9.{net.number}.{side}", f"fd09:{net.number}::{side}"]


def configuration(net: Net) -> str:
    path = f"/run/{net.name}.toml"
    listen, bootstrap = ([f'"{host}"' for host in hosts(net, side)] for side in (SIDE, OTHER))
    Path(path).write_text(
        f"""[node]
listen = [{", ".join(listen)}]
bootstrap = [{", ".join(bootstrap)}]
data_dir = "/run/data-{net.name}"
[[key]]
file = "/run/secret"
[access]
writes = "open"
[replication]
replicas = 1
[datapath]
kind = "{net.datapath}"
interfaces = ["{net.interface}"]
"""
    )
    return path


def wait_ready(daemon: "subprocess.Popen[bytes]") -> bool:
    """Whether the node is ready, or has known the other one for a while.

    A node that got no processor for half a second is not ready for a moment: in a busy machine it hardly ever is.
    """
    ends, settled = time.monotonic() + PATIENCE_S, float("inf")
    while time.monotonic() < ends and daemon.poll() is None:
        with suppress(NoDaemon, KdhtError, OSError):
            status = control_client.call(CONTROL, "status")
            if status["contacts"]:
                settled = min(settled, time.monotonic() + SETTLED_S)
                if status["ready"] or time.monotonic() > settled:
                    return True
        time.sleep(2)
    return False


def wrong_checksums() -> int:
    """UDP datagrams that this machine dropped for their checksums, of both IP versions."""
    lines = [
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    ]
    fields = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(*lines, strict=True))["InCsumErrors"]) + int(fields["Udp6InCsumErrors"])


def values_right(host: str) -> int:
    with Client([host], timeout=30) as client:
        names = {f"{host} {number}": bytes([SIDE]) * 50 * number for number in range(VALUES)}
        for name, value in names.items():
            client.put(name, value)
        return sum(client.get(name) == value for name, value in names.items())


def asked(net: Net) -> str:
    found = []
    for host in hosts(net, OTHER):
        try:
            found.append(f"{values_right(host)} of {VALUES} right at {host}")
        except KdhtError as error:
            found.append(f"{host}: {error}")
    return ", ".join(found)


def seen(net: Net) -> str:
    (path,) = [
        each for each in control_client.call(CONTROL, "status")["datapaths"] if each["name"] == net.datapath
    ]
    counted = control_client.call(CONTROL, "stats")["packets"][net.datapath]
    packets = {reason: count for reason, count in counted.items() if count and reason != "NOT_OURS"}
    return f"{ {name: path[name] for name in CHECKED if name in path} } {packets}"


def tried(net: Net, number: int) -> None:
    shell(net.made_by)
    shell(f"ip link set {net.interface} up")
    for host, length in zip(hosts(net, SIDE), (24, 64), strict=True):
        shell(f"ip address replace {host}/{length} dev {net.interface} {'nodad' if ':' in host else ''}")
    before = wrong_checksums()
    meet(2 * number)
    log = Path(f"/run/{net.name}.log")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "kdht.daemon.main", "--config", configuration(net)]
        daemon = subprocess.Popen(command, stdout=output, stderr=output)
    if wait_ready(daemon):
        say(f"{net.name}: {asked(net)}; {wrong_checksums() - before} wrong checksums")
        meet(2 * number + 1)
        say(f"{net.name}: {seen(net)}")
    else:
        say(f"{net.name}: not ready: {' '.join(log.read_text()[-600:].split())}")
        meet(2 * number + 1)
    daemon.terminate()
    say(f"{net.name}: ended with {daemon.wait()}")
    print(log.read_text()[-3000:], flush=True)


def main() -> None:
    os.makedirs(CONTROL.parent, exist_ok=True)
    Path("/run/secret").write_text("a secret for these two machines only, never anywhere else\n")
    os.chmod("/run/secret", 0o600)
    shell(f"ip link set lo up; ip link set eth0 up; ip address add 10.9.0.{SIDE}/24 dev eth0")
    # eth0 has two networks' addresses: each answers for its own.
    shell("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
    for number, net in enumerate(NETS):
        if not sys.argv[2:] or net.name in sys.argv[2:]:
            tried(net, number)


if __name__ == "__main__":
    main()
