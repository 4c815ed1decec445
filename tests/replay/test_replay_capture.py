"""Capture files: every format and link layer, damage at every place, and constant memory."""

import gzip
import os
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import replay_fixtures
from scapy.contrib.mpls import MPLS
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1Q, Ether, Loopback
from scapy.layers.ppi import PPI
from scapy.layers.ppp import HDLC, PPP, PPPoE, PPPoED
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter

from kdht.errors import CaptureError, ConfigError
from kdht.replay.capture import Capture, CaptureWriter

PACKETS = {4: bytes(replay_fixtures.client(4)), 6: bytes(replay_fixtures.client(6))}
SECOND = 1_800_000_000


def read(path: Path) -> list[tuple[bytes, int]]:
    """Every packet with its nanoseconds."""
    with Capture(path) as capture:
        return [(batch.packet(i), batch.frame(i).nanos) for batch in capture for i in range(len(batch))]


def read_until_damage(path: Path) -> tuple[list[bytes], str]:
    """The packets up to the damage, and what is said of it; nothing if there is none."""
    found: list[bytes] = []
    with Capture(path) as capture:
        try:
            for batch in capture:
                found += [batch.packet(i) for i in range(len(batch))]
        except CaptureError as error:
            return found, str(error)
    return found, ""


def written(path: Path, count: int = 3) -> Path:
    with CaptureWriter(path) as writer:
        for number in range(count):
            writer.write(PACKETS[4 if number % 2 else 6], SECOND * 10**9 + number)
    return path


# --- Formats and link layers --------------------------------------------------------------------

LINKS = {
    "Ethernet": (1, lambda ip: Ether() / ip),
    "VLAN": (1, lambda ip: Ether() / Dot1Q(vlan=3) / ip),
    "two VLANs": (1, lambda ip: Ether() / Dot1Q(vlan=3) / Dot1Q(vlan=4) / ip),
    "raw": (101, lambda ip: ip),
    "cooked": (113, lambda ip: CookedLinux(proto=0x0800 if ip.version == 4 else 0x86DD) / ip),
    "cooked v2": (276, lambda ip: CookedLinuxV2(proto=0x0800 if ip.version == 4 else 0x86DD) / ip),
    "loopback": (0, lambda ip: Loopback(type=2 if ip.version == 4 else 10) / ip),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("link", list(LINKS))
@pytest.mark.parametrize("writer", [PcapWriter, PcapNgWriter])
def test_ip_is_found_behind_every_link_layer(tmp_path, family, link, writer):
    number, make = LINKS[link]
    ip = (IP if family == 4 else IPv6)(PACKETS[family])
    frame = make(ip)
    frame.time = SECOND + 0.25
    path = tmp_path / "capture"
    options = {"linktype": number} if writer is PcapWriter else {}
    with writer(str(path), **options) as file:
        if writer is PcapNgWriter:
            file.linktype = number
        file.write(frame)
        file.write(frame)
    assert read(path) == [(PACKETS[family], SECOND * 10**9 + 250_000_000)] * 2


FOREIGN = {
    "PPP": (9, PPP(proto=0x21) / IP(PACKETS[4])),
    "radiotap": (127, RadioTap() / Dot11(type=2) / LLC() / SNAP(code=0x0800) / IP(PACKETS[4])),
    "802.11": (105, Dot11(type=2) / LLC() / SNAP(code=0x0800) / IP(PACKETS[4])),
    "HDLC": (50, HDLC() / PPP(proto=0x21) / IP(PACKETS[4])),
    "PPI": (192, PPI(dlt=101) / IP(PACKETS[4])),
}

SEE = """
import sys
import threading
from pathlib import Path
from kdht.replay.capture import Capture
for name in sys.argv[1:]:
    with Capture(Path(name)) as capture:
        print(*[batch.packet(i).hex() for batch in capture for i in range(len(batch))])
"""


def test_scapy_finds_ip_behind_what_we_do_not_know(tmp_path):
    """In a process of its own: the imports of this file make link types known that nobody else would."""
    for name, (link, frame) in FOREIGN.items():
        with PcapWriter(str(tmp_path / name), linktype=link) as file:
            file.write(frame)
    done = subprocess.run(
        [sys.executable, "-c", SEE, *FOREIGN], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert dict(zip(FOREIGN, done.stdout.splitlines(), strict=True)) == dict.fromkeys(
        FOREIGN, PACKETS[4].hex()
    )


# --- Packets inside others ------------------------------------------------------------------------

INSIDE = {
    "MPLS": lambda ip: Ether() / MPLS(label=17, s=0) / MPLS(label=18, s=1) / ip,
    "MPLS behind a VLAN": lambda ip: Ether() / Dot1Q(vlan=3) / MPLS(label=17, s=1) / ip,
    "PPPoE": lambda ip: Ether() / PPPoE(sessionid=5) / PPP(proto=0x21 if ip.version == 4 else 0x57) / ip,
}
SKIPPED = {
    "MPLS": Ether(type=0x8847) / MPLS(label=16, s=1) / Raw(bytes(20)),
    "PPPoE": Ether() / PPPoED() / Raw(bytes(8)),
    "GRE": Ether() / IP() / GRE() / IP(PACKETS[4]),
    "VXLAN": Ether() / IP() / UDP(dport=8472) / VXLAN(vni=1) / Ether() / IP(PACKETS[4]),
    "Geneve": Ether() / IPv6() / UDP(dport=6081) / Raw(bytes(8)) / IP(PACKETS[4]),
    "IP in IP": Ether() / IP(proto=4) / IP(PACKETS[4]),
    "not IP": Ether() / ARP(),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", list(INSIDE))
def test_ip_is_found_behind_labels_and_sessions(tmp_path, family, name):
    frame = INSIDE[name]((IP if family == 4 else IPv6)(PACKETS[family]))
    path = captured(tmp_path, frame)
    assert [packet for packet, _ in read(path)] == [PACKETS[family]]
    assert skipped(path) == {}
    for length in range(len(bytes(frame)) - len(PACKETS[family])):
        assert [packet for packet, _ in read(captured(tmp_path, Raw(bytes(frame)[:length])))] == [b""]


def test_what_is_not_looked_into_is_counted_by_kind(tmp_path):
    for name, frame in SKIPPED.items():
        assert skipped(captured(tmp_path, frame)) == {name: 1}, name
    assert skipped(captured(tmp_path, *SKIPPED.values(), SKIPPED["GRE"])) == {
        **dict.fromkeys(SKIPPED, 1),
        "GRE": 2,
    }


def captured(directory, *frames):
    path = directory / "capture"
    with PcapWriter(str(path), linktype=1) as file:
        for frame in frames:
            file.write(frame)
    return path


def skipped(path):
    with Capture(path) as capture:
        (batch,) = list(capture)
        return batch.skipped()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "factor"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_every_kind_of_pcap(tmp_path, order, magic, factor):
    path = tmp_path / "capture"
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 101)
    record = struct.pack(f"{order}IIII", SECOND, 7, len(PACKETS[4]), 2000) + PACKETS[4]
    path.write_bytes(head + record)
    assert read(path) == [(PACKETS[4], SECOND * 10**9 + 7 * factor)]
    with Capture(path) as capture:
        assert sum(batch.cut_short() for batch in capture) == 1


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + options)


def enhanced(order: str, number: int, stamp: int, packet: bytes) -> bytes:
    head = struct.pack(f"{order}IIIII", number, stamp >> 32, stamp & 0xFFFFFFFF, len(packet), len(packet))
    return block(order, 6, head + packet)


def test_pcapng_with_sections_of_both_byte_orders_clocks_and_unknown_blocks(tmp_path):
    nano = struct.pack("<HHB3xHHqHH", 9, 1, 9, 14, 8, 100, 0, 0)
    binary = struct.pack(">HHB3xHH", 9, 1, 0x80 | 10, 0, 0)
    path = tmp_path / "capture"
    path.write_bytes(
        section("<") + interface("<", 101, nano) + block("<", 0x0BAD, b"what is this")
        + enhanced("<", 0, (SECOND - 100) * 10**9 + 5, PACKETS[4])
        + section(">") + interface(">", 1) + interface(">", 101, binary)
        + enhanced(">", 1, (SECOND << 10) + 512, PACKETS[6])
        + block(">", 3, struct.pack(">I", 14 + len(PACKETS[4])) + bytes(12) + b"\x08\x00" + PACKETS[4])
    )  # fmt: skip
    assert read(path) == [
        (PACKETS[4], SECOND * 10**9 + 5),
        (PACKETS[6], SECOND * 10**9 + 500_000_000),
        (PACKETS[4], 0),
    ]


def test_a_gzipped_capture(tmp_path):
    plain = written(tmp_path / "plain")
    zipped = tmp_path / "capture.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(zipped) == read(plain)
    zipped.write_bytes(zipped.read_bytes()[:-20])
    with pytest.raises(CaptureError, match="cannot be read on"):
        read(zipped)


# --- Damage ----------------------------------------------------------------------------------------


def test_a_cut_capture_gives_its_whole_packets_and_the_offset(tmp_path):
    whole = written(tmp_path / "whole").read_bytes()
    size = 16 + len(PACKETS[6])
    cut = tmp_path / "cut"
    for length in range(24, len(whole)):
        cut.write_bytes(whole[:length])
        found, said = read_until_damage(cut)
        if length in (24, 24 + size, 24 + size + 16 + len(PACKETS[4])):
            assert said == ""
        else:
            assert f"offset {24 + sum(16 + len(each) for each in found):,}: cut off" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "offset 0: no capture: 0 bytes"),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "offset 0: no capture: 47455420"),
        (b"\xd4\xc3\xb2\xa1" + b"\x01\0" + bytes(18), "pcap version 1"),
        (b"\x7fELF" + bytes(100), "offset 0: no capture"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, why):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=why):
        read(path)


def test_a_pipe_is_read_as_it_comes(tmp_path):
    """Packets are given before the writer has ended; the first bytes may come one by one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    whole = written(tmp_path / "whole").read_bytes()
    held = threading.Event()

    def write():
        with path.open("wb", buffering=0) as file:
            for at in range(30):
                file.write(whole[at : at + 1])
            file.write(whole[30:-5])
            held.wait(60)
            file.write(whole[-5:])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = []
        with Capture(path) as capture:
            for batch in capture:
                found += [batch.packet(i) for i in range(len(batch))]
                if len(found) == 2:
                    held.set()
        assert found == [packet for packet, _ in read(tmp_path / "whole")]
    finally:
        held.set()
        writer.join()


def test_files_that_cannot_be_opened(tmp_path):
    for path, remedy in ((tmp_path / "none", "name a pcap"), (tmp_path, "name a file in it")):
        with pytest.raises(CaptureError, match=remedy):
            read(path)
    with pytest.raises(ConfigError, match="make the directory"):
        CaptureWriter(tmp_path / "no" / "where")


def test_a_damaged_record_ends_the_file_after_what_was_before(tmp_path):
    path = written(tmp_path / "capture")
    raw = bytearray(path.read_bytes())
    second = 24 + 16 + len(PACKETS[6])
    struct.pack_into("<I", raw, second + 8, 0x7FFFFFFF)
    path.write_bytes(raw)
    found, said = read_until_damage(path)
    assert found == [PACKETS[6]]
    assert f"offset {second:,}: a packet of" in said


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (enhanced("<", 3, 0, PACKETS[4]), "interface 3"),
        (struct.pack("<II", 6, 8) + bytes(8), "a block of 8 bytes"),
        (struct.pack("<II", 6, 1 << 30) + bytes(8), "a block of 1,073,741,824 bytes"),
        (enhanced("<", 0, 0, PACKETS[4])[:-4] + b"\1\0\0\0", "two lengths differ"),
        (block("<", 6, struct.pack("<IIIII", 0, 0, 0, 4000, 4000)), "longer than its block"),
        (block("<", 6, b"abcd"), "too short"),
        (block("<", 3, b""), "too short"),
        (block("<", 1, b"abcd"), "too short"),
        (block("<", 1, struct.pack("<HHIHHB3x", 1, 0, 0, 9, 1, 0x7F)), "finer"),
        (block("<", 0x0A0D0D0A, bytes(16)), "without a byte order"),
    ],
)
def test_damaged_pcapng(tmp_path, damage, why):
    path = tmp_path / "capture"
    start = section("<") + interface("<", 101)
    path.write_bytes(start + enhanced("<", 0, 1, PACKETS[4]) + damage + bytes(64))
    offset = len(start) + len(enhanced("<", 0, 1, PACKETS[4]))
    found, said = read_until_damage(path)
    assert found == [PACKETS[4]]
    assert f"offset {offset:,}: " in said
    assert why in said


def test_every_file_gives_packets_or_a_capture_error(tmp_path):
    rng = random.Random(5)
    pcap = written(tmp_path / "pcap", 6).read_bytes()
    pcapng = section("<") + interface("<", 1) + enhanced("<", 0, 9, bytes(12) + b"\x08\x00" + PACKETS[4]) * 4
    path = tmp_path / "mutated"
    refused = 0
    for _ in range(3000):
        raw = bytearray(rng.choice((pcap, pcapng)))
        for _ in range(rng.choice((1, 1, 2, 8))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(raw)
        said = read_until_damage(path)[1]
        refused += bool(said)
        assert "offset" in said or not said
    assert 100 < refused < 3000


# --- Length -------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from pathlib import Path
from kdht.replay import tables
from kdht.replay.capture import Capture
from kdht.replay.implementations import made
table = tables.load(Path(sys.argv[2]))
count = 0
with made("core", table) as core, Capture(Path(sys.argv[1])) as capture:
    for batch in capture:
        core.run(batch, table.now)
        count += len(batch)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_long_capture_needs_no_more_memory_than_a_short_one(tmp_path):
    table = replay_fixtures.DIRECTORY / "right-ipv4/table.json"

    def measured(count: int) -> tuple[int, int]:
        path = tmp_path / str(count)
        record = struct.pack("<IIII", SECOND, 0, len(PACKETS[4]), len(PACKETS[4])) + PACKETS[4]
        head = written(path, 0).read_bytes()
        with path.open("wb") as file:
            file.write(head)
            for _ in range(count // 1000):
                file.write(record * 1000)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, path, table], capture_output=True, text=True, check=True
        )
        packets, kibibytes = map(int, done.stdout.split())
        return packets, kibibytes

    short, long = measured(20_000), measured(400_000)
    assert (short[0], long[0]) == (20_000, 400_000)
    assert (tmp_path / "400000").stat().st_size > 60_000_000
    assert long[1] < short[1] + 4096, "KiB at most"


def test_a_record_larger_than_a_chunk(tmp_path):
    path = tmp_path / "capture"
    big = b"\x45" + bytes(3_000_000)
    with CaptureWriter(path) as writer:
        writer.write(PACKETS[4], 1)
        writer.write(big, 2)
        writer.write(PACKETS[4], 3)
    assert read(path) == [(PACKETS[4], 1), (big, 2), (PACKETS[4], 3)]


def test_udp_over_an_odd_link_is_passed(tmp_path):
    """What scapy cannot make sense of is passed over, not an error."""
    path = tmp_path / "capture"
    with PcapWriter(str(path), linktype=147) as file:
        file.write(Raw(bytes(UDP())))
    assert read(path) == [(b"", read(path)[0][1])]
