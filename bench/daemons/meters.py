"""What goes over a node's link: the datagrams of its host, as the kernel counts them.

Every node has a host of its own, so these are its own, a dead or starting daemon's too.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdht.lab.cluster import LabNode


class Datagrams(NamedTuple):
    """Since the host was made."""

    received: int
    sent: int

    @property
    def both(self) -> int:
        return self.received + self.sent


def datagrams(node: LabNode) -> Datagrams:
    """UDP over IPv4."""
    with node.host.enter():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, numbers = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    counted = dict(zip(names, map(int, numbers), strict=True))
    unheard = counted["NoPorts"] + counted["InErrors"]
    return Datagrams(counted["InDatagrams"] + unheard, counted["OutDatagrams"])


def rates(nodes: Sequence[LabNode], seconds: float) -> list[dict[str, float]]:
    """Datagrams a second of each node, over that time."""
    before = [datagrams(node) for node in nodes]
    began = time.monotonic()
    time.sleep(seconds)
    after = [datagrams(node) for node in nodes]
    spent = time.monotonic() - began
    return [
        {"received": (now.received - then.received) / spent, "sent": (now.sent - then.sent) / spent}
        for then, now in zip(before, after, strict=True)
    ]


class Curve:
    """Datagrams a second of each node, received and sent, in steps of `step` seconds."""

    def __init__(self, nodes: Sequence[LabNode], step: float) -> None:
        self._nodes = nodes
        self._step = step
        self.points: list[dict[str, float]] = []

    def take(self, seconds: float, meanwhile: Callable[[float], object]) -> None:
        """Measure for so long; `meanwhile` is called after every step with the seconds since the start."""
        began = then = time.monotonic()
        before = [datagrams(node).both for node in self._nodes]
        while then - began < seconds:
            time.sleep(max(0.0, then + self._step - time.monotonic()))
            now, after = time.monotonic(), [datagrams(node).both for node in self._nodes]
            each = [(late - early) / (now - then) for early, late in zip(before, after, strict=True)]
            self.points.append({"seconds": now - began, "mean": sum(each) / len(each), "most": max(each)})
            meanwhile(now - began)
            then, before = now, after
