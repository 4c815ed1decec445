"""A laboratory of hosts on one bridge, each a network namespace of its own.

    root namespace: untouched
    PREFIX.bridge      br0 --+-- n1 ~~~ eth0   PREFIX.n1
                             +-- n2 ~~~ eth0   PREFIX.n2
                             +-- ...    eth1 ~~~ eth1   (Lab.link: a second leg)

`with Lab("prefix") as lab` removes everything at its end, after exceptions, SIGINT and
SIGTERM too, and at its start what a killed run with the same prefix left. Addresses are
usable at once: IPv6 duplicate address detection is off, and links are waited for.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute

from kdht.datapath.ebpf import xdp_links
from kdht.errors import LabError
from kdht.lab import namespaces, signals
from kdht.lab.wait import wait_until

BRIDGE = "br0"
XDP_PASS = Path(__file__).with_name("xdp_pass.bpf.o")
STOP_TIMEOUT = 15.0
"""Seconds from SIGTERM to SIGKILL."""

_NO_DAD = 0x02  # IFA_F_NODAD
# Those of a new host that is no router. Without duplicate address detection an IPv6 address is usable at once.
_HOST_SYSCTLS = {
    "net/ipv4/ip_forward": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/dad_transmits": 0,
    "net/ipv6/conf/default/accept_ra": 0,
}
_SWITCH_SYSCTLS = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
"""Of a kernel with br_netfilter, which has a bridge's frames go by nftables: a switch knows of no IP."""


class Host:
    """One namespace with its processes. Made by Lab."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self._processes: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"Host({self.namespace})"

    def enter(self) -> AbstractContextManager[None]:
        """A context manager: the calling thread is in this host until it ends."""
        return namespaces.entered(self.namespace)

    # --- Processes -------------------------------------------------------------------

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here, in a session of its own; it is ended with the lab at the latest."""
        options.setdefault("start_new_session", True)
        # A signal between the start and the list would leave a process that nobody ends.
        with signals.deferred():
            with self.enter():
                process = subprocess.Popen(list(command), **options)
            self._processes.append(process)
        return process

    def run(
        self, command: Sequence[str], *, check: bool = True, timeout: float = 60.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end. If it fails and `check`, raises LabError with its output."""
        with self.enter():
            done = subprocess.run(
                list(command), capture_output=True, text=True, timeout=timeout, check=False, **options
            )
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done

    def stop_processes(self) -> None:
        """SIGTERM to all processes of `popen`; SIGKILL to those that do not end."""
        running = [process for process in self._processes if process.poll() is None]
        # All get the signal before one is waited for, so they end together.
        for process in running:
            process.terminate()
        for process in running:
            _end(process)
        self._processes.clear()

    # --- Links and addresses -----------------------------------------------------------

    def set_link(self, interface: str, *, up: bool) -> None:
        """Switch an interface on or off, and wait until the kernel shows it."""
        with self.enter(), IPRoute() as ip:
            index = _index(ip, interface)
            ip.link("set", index=index, state="up" if up else "down")
            wanted = "UP" if up else "DOWN"
            wait_until(lambda: _state(ip, index) == wanted, f"{interface} in {self.name} to be {wanted}")

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface an address, "10.0.0.1/24" or "fd00::1/64", usable at once."""
        given = ip_interface(address)
        flags = {"flags": _NO_DAD} if given.version == 6 else {}
        with self.enter(), IPRoute() as ip:
            ip.addr(
                "add",
                index=_index(ip, interface),
                address=str(given.ip),
                prefixlen=given.network.prefixlen,
                **flags,
            )

    def addresses(self, interface: str = "eth0") -> list[str]:
        """The interface's addresses with their prefix lengths, link-local ones excepted."""
        with self.enter(), IPRoute() as ip:
            found = [
                f"{entry.get('address')}/{entry['prefixlen']}"
                for entry in ip.get_addr(index=_index(ip, interface))
            ]
        return [text for text in found if not ip_interface(text).is_link_local]

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        """Read, or first set, a sysctl of this host: "net/ipv4/ip_forward"."""
        with self.enter():
            if value is not None:
                with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
                    file.write(str(value))
            with open(f"/proc/sys/{name}", encoding="ascii") as file:
                return file.read().strip()

    # --- nftables and its queues -------------------------------------------------------

    def nft(self, ruleset: str) -> None:
        """Load a ruleset here. Raises LabError with nft's message."""
        self.run(["nft", "-f", "-"], input=ruleset)

    def counters(self) -> dict[str, int]:
        """Packets by the name of each named nft counter here."""
        listed = json.loads(self.run(["nft", "-j", "list", "counters"]).stdout)["nftables"]
        return {
            entry["counter"]["name"]: entry["counter"]["packets"] for entry in listed if "counter" in entry
        }

    def queues(self) -> list[dict[str, int]]:
        """The bound NFQUEUEs: number, waiting, and packets dropped by the kernel (full) or on the way up."""
        names = ("number", "portid", "waiting", "mode", "range", "full", "failed", "last_id")
        with self.enter():
            lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
        return [dict(zip(names, map(int, line.split()), strict=False)) for line in lines]

    def lose(self, permille: int, port: int | None = None) -> None:
        """Drop a share of the arriving packets, at random; 0 ends it. Counted as `lost`."""
        self.run(["nft", "delete", "table", "inet", "lab_loss"], check=False)
        # Not on loopback: no network is in between.
        if permille:
            udp = f"udp dport {port} " if port else ""
            self.nft(
                _LOSS % f'iifname != "lo" {udp}numgen random mod 1000 < {permille} counter name lost drop'
            )


_LOSS = """
table inet lab_loss {
    counter lost { }
    chain arriving {
        type filter hook prerouting priority -500;
        %s
    }
}
"""


class Lab:
    """Hosts on one bridge; see the module's picture. One Lab of a prefix at a time."""

    def __init__(self, prefix: str) -> None:
        if not prefix.replace("-", "").isalnum():
            raise ValueError(f"a lab's prefix is made of letters, digits and '-', not {prefix!r}")
        self.prefix = prefix
        self.hosts: dict[str, Host] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Lab":
        namespaces.require_root()
        with ExitStack() as stack:
            stack.enter_context(signals.ended_by_sigterm())
            stack.enter_context(_alone(self.prefix))
            # A killed run of the same prefix left its namespaces.
            self._remove_all()
            stack.callback(self._remove_all)
            self.bridge = self._new_host("bridge")
            for sysctl in _SWITCH_SYSCTLS:
                if Path(f"/proc/sys/{sysctl}").exists():
                    self.bridge.sysctl(sysctl, 0)
            with self.bridge.enter(), IPRoute() as ip:
                ip.link("add", ifname=BRIDGE, kind="bridge")
                ip.link("set", index=_index(ip, BRIDGE), state="up")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def host(self, name: str, *, ipv4: str | None = None, ipv6: str | None = None) -> Host:
        """A new host whose eth0 is on the bridge, with the addresses given ("10.0.0.1/24")."""
        host = self._new_host(name)
        self._connect(self.bridge, name, host, "eth0")
        with self.bridge.enter(), IPRoute() as ip:
            ip.link("set", index=_index(ip, name), master=_index(ip, BRIDGE))
        self._ready(host, "eth0", [address for address in (ipv4, ipv6) if address])
        return host

    def link(
        self,
        one: Host,
        other: Host,
        interface: str = "eth1",
        *,
        addresses: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """A second leg between two hosts, `interface` at both; addresses by the host's name."""
        self._connect(one, interface, other, interface)
        for host in (one, other):
            self._ready(host, interface, (addresses or {}).get(host.name, ()))

    def cut_bundles(self, host: Host) -> None:
        """Let datagrams that leave as one packet (UDP_SEGMENT) come to this host one by one: its counters count packets."""
        with self.bridge.enter(), IPRoute() as ip:
            ip.link("set", index=_index(ip, host.name), gso_max_segs=1)

    def let_xdp_send(self) -> None:
        """Let the hosts' XDP programs send frames: a veth takes them only while its peer has a program, too.

        Raises DatapathError where kdht was built without eBPF.
        """
        bpf = xdp_links.libbpf()
        program = bpf.Object(str(XDP_PASS), "xdp_pass")
        with self.bridge.enter(), IPRoute() as ip:
            for name in self.hosts.keys() - {self.bridge.name}:
                link = bpf.attach(program.program_fd, _index(ip, name), True)
                self._stack.callback(os.close, link)

    def _new_host(self, name: str) -> Host:
        if name in self.hosts:
            raise ValueError(f"there is a host {name} already")
        host = Host(name, f"{self.prefix}.{name}")
        namespaces.create(host.namespace)
        self.hosts[name] = host
        for sysctl, value in _HOST_SYSCTLS.items():
            host.sysctl(sysctl, value)
        with host.enter(), IPRoute() as ip:
            ip.link("set", index=_index(ip, "lo"), state="up")
        return host

    def _connect(self, one: Host, interface: str, other: Host, peer: str) -> None:
        with one.enter(), IPRoute() as ip:
            ip.link("add", ifname=interface, kind="veth", peer={"ifname": peer, "net_ns_fd": other.namespace})
            ip.link("set", index=_index(ip, interface), state="up")
        with other.enter(), IPRoute() as ip:
            ip.link("set", index=_index(ip, peer), state="up")

    def _ready(self, host: Host, interface: str, addresses: Sequence[str]) -> None:
        for address in addresses:
            host.add_address(interface, address)
        host.set_link(interface, up=True)

    @signals.deferred()
    def _remove_all(self) -> None:
        for host in self.hosts.values():
            host.stop_processes()
        self.hosts.clear()
        for name in namespaces.existing(f"{self.prefix}."):
            namespaces.remove(name)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _index(ip: IPRoute, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if not found:
        raise LabError(f"there is no interface {interface}")
    return int(found[0])


def _state(ip: IPRoute, index: int) -> str:
    return str(ip.get_links(index)[0].get("operstate"))


@contextmanager
def _alone(prefix: str) -> Iterator[None]:
    """Hold the prefix. The lock is an abstract socket's name: it goes with its process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0kdht-lab-{prefix}")
        except OSError:
            raise LabError(f"another laboratory {prefix} runs: wait for its end") from None
        yield
