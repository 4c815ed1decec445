"""Generic XDP, and packets whose checksum the sender left to a device.

bridge --+-- client eth0 10.46.0.9, fd46::9
         +-- n1 eth0 10.46.0.1, fd46::1     the node; its interface has no native mode here
         +-- n2 eth0 10.46.0.2, fd46::2     the next hop; the bridge's end of its wire completes checksums

A client on a veth leaves its checksum to the device. A physical network completes it at some wire; a veth never
does, unless its offload is switched off: then the kernel completes it in front of that wire.
"""

import ctypes
import errno
import fcntl
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from chain import IDS, configure, request
from nfq import udp

from kdht._routing import Core
from kdht.datapath.base import Handlers
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.datapath import EbpfDatapath, EbpfOptions
from kdht.datapath.ebpf.hot import HotMap
from kdht.datapath.publish import Publisher
from kdht.datapath.socket.transport import SocketTransport
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.storage._cache import RecordCache
from kdht.storage._hot import HotTable
from kdht.times import UnixTime
from kdht.wire import Address, Contact, pack_request, parse
from kdht.wire._shared import PORT, Op

pytestmark = pytest.mark.root

HOST = {4: "10.46.0.%d", 6: "fd46::%d"}
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
REQUESTS = 20
SOL_UDP, UDP_SEGMENT = 17, 103
BUNDLE = 5
VALUE = b"a hot value"


class Records(NamedTuple):
    hot: HotTable
    cache: RecordCache


def complete_checksums(host: Host, interface: str) -> None:
    """ethtool -K INTERFACE tx off"""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
    with host.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(value)))


@pytest.fixture(params=["generic", "native"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    attach = _ebpf.attach

    def without_native(program_fd: int, ifindex: int, native: bool) -> int:
        if native:
            raise _ebpf.BpfError(errno.EOPNOTSUPP, "no native mode")
        return attach(program_fd, ifindex, native)

    if request.param == "generic":
        monkeypatch.setattr(_ebpf, "attach", without_native)
    return str(request.param)


@pytest.fixture
def records() -> Records:
    """One record, whose GETs end at the node, and which is hot."""
    table = HotTable()
    made = Records(table, RecordCache(1 << 20, table))
    (begun,) = made.cache.begin([IDS[0]])
    assert made.cache.fill(IDS[0], begun, 7, 0, 0, VALUE)
    while not table.wanted:
        made.cache.get(IDS[0], UnixTime(time.time()))
    return made


@pytest.fixture
def path(lab: Lab, tmp_path: Path, mode: str, records: Records) -> Iterator[EbpfDatapath]:
    for name, number in (("client", 9), ("n1", 1), ("n2", 2)):
        lab.host(name, ipv4=f"{HOST[4] % number}/24", ipv6=f"{HOST[6] % number}/64")
    if mode == "native":
        lab.let_xdp_send()
    complete_checksums(lab.bridge, "n2")
    own, publisher = [Address.of(HOST[version] % 1, PORT) for version in HOST], Publisher(Core())
    configure(publisher, IDS[0], *own)
    hot = HotMap(records.hot)
    transport = SocketTransport(publisher.core, own, cache=records.cache)
    options = EbpfOptions(node_id=IDS[0], addresses=tuple(own), runtime_dir=tmp_path)
    path = EbpfDatapath(publisher, options, hot)
    with ExitStack() as stack, lab.hosts["n1"].enter():
        transport.start(Handlers.without_records(print))
        stack.callback(transport.stop)
        stack.callback(hot.close)
        path.start()
        stack.callback(path.stop)
        yield path


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_requests_arrive_with_right_checksums(lab: Lab, path: EbpfDatapath, mode: str, version: int) -> None:
    path._publisher.set_bucket(0, [Contact(IDS[1], *Address.of(HOST[version] % 2, PORT))])
    assert path.status()["modes"] == {"eth0": mode}
    with (
        udp(lab.hosts["n2"], HOST[version] % 2, PORT) as hop,
        udp(lab.hosts["client"], HOST[version] % 9) as asking,
    ):

        def forwarded() -> bool:
            sent = request()
            asking.sendto(sent, (HOST[version] % 1, PORT))
            return parse(hop.recvfrom(2048)[0]).request_id == parse(sent).request_id

        counted = "PARTIAL" if mode == "generic" else "ENTERED"
        wait_until(lambda: forwarded() and path.counters()[counted] > 0, "the table and the neighbour")
        before = path.counters()
        for _ in range(REQUESTS):
            assert forwarded()
        assert path.counters()[counted] == before[counted] + REQUESTS


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_a_bundle_of_messages_is_cut_apart(lab: Lab, path: EbpfDatapath, version: int) -> None:
    """A node on this host sends messages as one packet that a device cuts (UDP_SEGMENT). A veth does not in generic mode."""
    path._publisher.set_bucket(0, [Contact(IDS[1], *Address.of(HOST[version] % 2, PORT))])
    with (
        udp(lab.hosts["n2"], HOST[version] % 2, PORT) as hop,
        udp(lab.hosts["client"], HOST[version] % 9) as asking,
    ):
        parts = [request() for _ in range(BUNDLE)]
        asking.setsockopt(SOL_UDP, UDP_SEGMENT, len(parts[0]))

        def arrive() -> set[int]:
            asking.sendto(b"".join(parts), (HOST[version] % 1, PORT))
            return {parse(hop.recvfrom(2048)[0]).request_id for _ in parts}

        assert arrive() == {parse(part).request_id for part in parts}


def test_a_whole_checksum_goes_on_in_the_kernel(lab: Lab, path: EbpfDatapath, mode: str) -> None:
    path._publisher.set_bucket(0, [Contact(IDS[1], *Address.of(HOST[4] % 2, PORT))])
    complete_checksums(lab.hosts["client"], "eth0")
    with udp(lab.hosts["n2"], HOST[4] % 2, PORT) as hop, udp(lab.hosts["client"], HOST[4] % 9) as asking:

        def entered() -> bool:
            asking.sendto(request(), (HOST[4] % 1, PORT))
            return bool(hop.recvfrom(2048)) and path.counters()["ENTERED"] > 0

        wait_until(entered, "a request that the program forwards")


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_a_get_of_a_hot_record_is_answered(
    lab: Lab, path: EbpfDatapath, mode: str, records: Records, version: int
) -> None:
    """By the program. In generic mode the socket's loop answers a GET whose checksum is left to a device."""

    def answer() -> bytes:
        asking.sendto(
            pack_request(Op.GET, IDS[0], time.monotonic_ns(), bytes(1120)), (HOST[version] % 1, PORT)
        )
        return bytes(parse(asking.recvfrom(2048)[0]).body)[16:]

    def in_xdp() -> int:
        return path.counters()["ANSWERED"]

    def is_hot() -> bool:
        records.hot.serve_until(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12)
        records.cache.heat([IDS[0]])
        return answer() == VALUE and in_xdp() > 0

    with udp(lab.hosts["client"], HOST[version] % 9) as asking:
        if mode == "generic":
            for _ in range(REQUESTS):
                assert answer() == VALUE
            assert in_xdp() == 0
        complete_checksums(lab.hosts["client"], "eth0")
        wait_until(is_hot, "the table of hot records")
        before = in_xdp()
        for _ in range(REQUESTS):
            assert answer() == VALUE
        assert in_xdp() == before + REQUESTS
