"""The network's faults: loss, one-way cuts, delay with reordering, duplicates.

Each host's port on the bridge drops by rules of nftables there. That is outside of the host, so an XDP
program in it meets the same network. Delay and duplicates need a queue: the rules then drop all UDP of that
port, and `relay` takes it from the wire before them and sends it when its time has come.
"""

import subprocess
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from kdht.errors import LabError
from kdht.lab.netns import Host, Lab

TABLE = "histories"
STOP_TIMEOUT = 5.0


class Treatment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Faults of a host's sent datagrams."""

    loss_permille: int = 0
    duplicate_permille: int = 0
    late_ms: float = 0.0
    """A duplicate comes up to so much later than the first."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """A datagram waits up to so much longer: with it later ones overtake earlier ones."""

    @property
    def needs_relay(self) -> bool:
        return bool(self.duplicate_permille or self.delay_ms or self.jitter_ms)


UNTOUCHED = Treatment()


class Wire(msgspec.Struct, frozen=True):
    """The relay's instructions, as one line of JSON."""

    ports: dict[str, Treatment]
    """Those that it sends for."""
    cuts: dict[str, list[str]]
    """By the sender's port the ports that it does not reach."""
    owners: dict[str, str]
    """MAC to port."""
    seed: int


class Network:
    """The bridge of a lab; used by one thread."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._bridge = lab.bridge
        self._seed = seed
        self._hosts: dict[str, Host] = {}
        self._addresses: dict[str, list[str]] = {}
        self._owners: dict[str, str] = {}
        self._treatments: dict[str, Treatment] = {}
        self._cuts: dict[str, set[str]] = {}
        self._relay: subprocess.Popen[str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all hosts, the clients' too."""
        return tuple(self._hosts)

    def add(self, host: Host) -> None:
        """A host that is to be treated: it has its addresses."""
        self._hosts[host.name] = host
        self._addresses[host.name] = [text.split("/")[0] for text in host.addresses()]
        self._owners[_mac(host)] = host.name

    def treat(self, names: Iterable[str], treatment: Treatment) -> None:
        """From now on, until they are treated otherwise."""
        for name in names:
            self._treatments[name] = treatment
        self._apply()

    def cut(self, senders: Collection[str], receivers: Collection[str]) -> None:
        """Datagrams of the senders do not reach the receivers. The other way is open."""
        for sender in senders:
            self._cuts.setdefault(sender, set()).update(set(receivers) - {sender})
        self._apply()

    def join(self) -> None:
        """No cut is left."""
        self._cuts.clear()
        self._apply()

    def close(self) -> None:
        """The relay's end."""
        if self._relay is not None:
            assert self._relay.stdin is not None
            with suppress(OSError):
                self._relay.stdin.close()
            try:
                self._relay.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._relay.kill()
                self._relay.wait()
            self._relay = None

    def _apply(self) -> None:
        relayed = {name: each for name, each in self._treatments.items() if each.needs_relay}
        if relayed or self._relay is not None:
            self._tell_relay(relayed)
        rules = ruleset(self._treatments, self._cuts, self._addresses)
        self._bridge.nft(f"table netdev {TABLE}\ndelete table netdev {TABLE}\n{rules}")

    def _tell_relay(self, relayed: dict[str, Treatment]) -> None:
        if self._relay is None:
            self._relay = self._bridge.popen(
                [sys.executable, "-m", "histories.relay"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        relay = self._relay
        assert relay.stdin is not None
        assert relay.stdout is not None
        cuts = {name: sorted(others) for name, others in self._cuts.items()}
        wire = Wire(relayed, cuts, self._owners, self._seed)
        try:
            relay.stdin.write(msgspec.json.encode(wire).decode() + "\n")
            relay.stdin.flush()
            answer = relay.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise LabError("the relay of delayed datagrams ended")


def ruleset(
    treatments: dict[str, Treatment], cuts: dict[str, set[str]], addresses: dict[str, list[str]]
) -> str:
    """A chain for each port with losses."""
    chains = []
    for name in sorted(treatments.keys() | cuts.keys()):
        treatment = treatments.get(name, UNTOUCHED)
        rules = [
            f"ip{'6' if ':' in address else ''} daddr {address} drop"
            for other in sorted(cuts.get(name, ()))
            for address in addresses[other]
        ]
        if treatment.needs_relay:
            rules.append("meta l4proto udp drop")
        elif treatment.loss_permille:
            rules.append(f"meta l4proto udp numgen random mod 1000 < {treatment.loss_permille} drop")
        if rules:
            hook = f'type filter hook ingress device "{name}" priority 0;'
            chains.append(f"chain {name} {{ {hook}\n" + "\n".join(rules) + "\n}")
    return f"table netdev {TABLE} {{\n" + "\n".join(chains) + "\n}\n"


def _mac(host: Host) -> str:
    """Of its eth0."""
    return str(host.run(["ip", "-o", "link", "show", "eth0"]).stdout.split("link/ether ")[1].split()[0])
