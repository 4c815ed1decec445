"""GETs of a hot record answered by the XDP program, beside a bare program and the socket's loop.

    python -m bench.ebpf_hot [--runs N] [--packets N] [--json]

    source eth1 --- eth1 node                            two network namespaces; needs root

The stage is that of bench/ebpf.py: generator, program, loop and counter share one processor, so answers per second are
answers per second of its time. The requests are clients', padded to the length of the answer, each with an ID of its
own. Measured, in turns and the medians of N runs, for each size of the value: the bare program that swaps the MACs and sends
back, the program with the record in its table, and the program without it: the message passes up, and the
socket's loop answers from the cache. The loop gets 500 requests at a time, for its socket's buffer is bounded.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.ebpf import NODE, SELF, SOURCE, START_LEN, Stage, command, compiled, configure, fill, running
from kdht._routing import Core
from kdht.datapath.base import Handlers
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.ebpf.hot import HotMap
from kdht.datapath.publish import Publisher
from kdht.datapath.socket.transport import SocketTransport
from kdht.errors import KdhtError
from kdht.lab.netns import Lab
from kdht.storage._cache import RecordCache
from kdht.storage._hot import ASKS, HotTable
from kdht.wire import Address, pack_request
from kdht.wire._shared import ID_LEN, PORT, RECORD_LEN, Op

SIZES = (0, 100, 512, 1104)
ANSWERS = 16
AT_ONCE = 500
FOREVER = 10**15
CLIENT_PORT = 4000


class Node:
    """A transport with one cached record, and the XDP program in front of it."""

    def __init__(self, stage: Stage, state: Path, size: int, stack: ExitStack) -> None:
        self._publisher = Publisher(Core())
        configure(self._publisher, untagged=False)
        fill(self._publisher)
        self.table = HotTable()
        self.cache = RecordCache(4 << 20, self.table)
        (begun,) = self.cache.begin([SELF])
        self.cache.fill(SELF, begun, 1, 0, 0, bytes(size))
        for _ in range(ANSWERS):
            self.cache.get(SELF, time.time())
        hot = HotMap(self.table)
        self.path = EbpfDatapath(
            self._publisher,
            EbpfOptions(node_id=os.urandom(ID_LEN), addresses=(Address.of(NODE, PORT),), runtime_dir=state),
            hot,
        )
        transport = SocketTransport(self._publisher.core, [Address.of(NODE, PORT)], cache=self.cache)
        with stage.node.enter():
            transport.start(Handlers.without_records(lambda batch: None))
        stack.callback(transport.stop)
        stack.callback(hot.close)
        stack.enter_context(running(stage.node, self.path))
        self.table.serve_until(FOREVER * 1000)

    def use_table(self, is_so: bool) -> None:
        self.cache.heat([SELF])
        self.table.forbid(ASKS, not is_so)


def request_frame(stage: Stage, size: int) -> bytes:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    payload = bytes(pack_request(Op.GET, SELF, 1, bytes(RECORD_LEN + size)))
    ether = Ether(dst=stage.macs[0], src=stage.macs[1])
    return bytes(
        ether / IP(src=SOURCE, dst=NODE) / UDP(sport=CLIENT_PORT, dport=PORT, chksum=0) / Raw(payload)
    )


class Asker:
    """The generator of requests."""

    def __init__(self, stage: Stage, programs: str) -> None:
        self._stage = stage
        self._generate = _ebpf.Object(programs, "generate_requests")

    def rate(self, size: int, packets: int, at_once: int) -> float:
        """Answers per second of processor time. Raises KdhtError if one in a hundred is missing."""
        stage, frame = self._stage, request_frame(self._stage, size)
        self._generate.update("starts", bytes(4), frame[:START_LEN])
        before, begun = stage.arrived(), stage.spent()
        sent = 0
        with stage.source.enter():
            while sent < packets:
                self._generate.live_frames(frame, at_once, stage.ifindex)
                sent += at_once
                if at_once == AT_ONCE:
                    stage.settled(before, sent)
        count = stage.settled(before, sent)
        if count < sent * 0.99:
            raise KdhtError(f"{sent - count} of {sent} answers did not come")
        return count / (stage.spent() - begun)


@contextmanager
def bare(stage: Stage) -> Iterator[None]:
    with stage.attached(stage.reflect):
        yield


def measure_size(
    stage: Stage, asker: Asker, state: Path, size: int, runs: int, packets: int
) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {"bare": [], "hot": [], "socket": []}
    few = max(packets // 40 // AT_ONCE, 10) * AT_ONCE

    def beside_the_node(measured: Callable[[Node], float], is_hot: bool) -> float:
        with ExitStack() as stack:
            node = Node(stage, state, size, stack)
            node.use_table(is_hot)
            return measured(node)

    for _ in range(runs):
        with bare(stage):
            results["bare"].append(asker.rate(size, packets, packets))
        results["hot"].append(beside_the_node(lambda node: asker.rate(size, packets, packets), True))
        results["socket"].append(beside_the_node(lambda node: asker.rate(size, few, AT_ONCE), False))
    return results


def measure(runs: int, packets: int) -> dict[str, Any]:
    _ebpf.be_quiet()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("bench-hot"))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = compiled(directory)
        stage = Stage(lab, programs)
        asker = Asker(stage, programs)
        found = {size: measure_size(stage, asker, directory, size, runs, packets) for size in SIZES}
    medians = {
        size: {name: statistics.median(each) for name, each in of.items()} for size, of in found.items()
    }
    return {
        "packets": packets,
        "runs": runs,
        "load": os.getloadavg()[0],
        "per_second": {
            size: {name: round(each) for name, each in of.items()} for size, of in medians.items()
        },
        "of_bare": {size: round(of["hot"] / of["bare"], 3) for size, of in medians.items()},
        "of_socket": {size: round(of["hot"] / of["socket"], 1) for size, of in medians.items()},
        "all_runs": {
            size: {n: [round(e) for e in each] for n, each in of.items()} for size, of in found.items()
        },
    }


def draw(result: dict[str, Any]) -> None:
    table = Table(
        "bytes", "bare", "hot", "socket's loop", "hot of bare", "hot of the loop", title="GETs a second"
    )
    for size, of in result["per_second"].items():
        rates = [f"{of[name]:,}" for name in ("bare", "hot", "socket")]
        table.add_row(str(size), *rates, f"{result['of_bare'][size]:.2f}", f"{result['of_socket'][size]:.1f}")
    Console().print(table)


main = command(__doc__, measure, draw)

if __name__ == "__main__":
    main()
