"""What the fixtures in tests/fixtures/replay are made of; `python tests/helpers/replay_fixtures.py` writes them.

Every packet stands here with the reason that it must get, so that neither the fixtures nor
the core can drift alone. One node, 10.0.0.1 and fd00::1, that knows one next hop of each
family and owns the keys that begin with zeros.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from paths import FIXTURES
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

from kdht.replay import mutations, tables
from kdht.replay._capture import Batch
from kdht.replay.capture import Capture, CaptureWriter
from kdht.replay.fixtures import line, rendered
from kdht.replay.generate import Generator
from kdht.replay.implementations import made
from kdht.replay.packets import packet
from kdht.replay.tables import FIXTURE_SECRET, ContactEntry, KeyEntry, ReplayTable, TableFile
from kdht.wire import Address, Message, Record, seal
from kdht.wire import _shared as shared
from kdht.wire._shared import PORT, Flag, Op, Reason

DIRECTORY = FIXTURES / "replay"
NOW = 1_800_000_000
FAR, NEAR = b"\xff" * 20, bytes(19) + b"\x01"
"""A key that another node owns, and one that this one does."""
OWN = {4: Address.of("10.0.0.1", PORT), 6: Address.of("fd00::1", PORT)}
CLIENT = {4: Address.of("198.51.100.7", 40000), 6: Address.of("2001:db8::7", 40000)}
NEXT = {4: Address.of("10.0.0.2", PORT), 6: Address.of("fd00::2", PORT)}
FAMILY = TableFile(
    id="00" * 20,
    own=["10.0.0.1", "fd00::1"],
    key=[KeyEntry(epoch=1, secret=FIXTURE_SECRET)],
    now=NOW,
    contacts=[ContactEntry("80" + "00" * 19, "10.0.0.2:5348")],
)
FILES = {4: FAMILY, 6: TableFile(**{**{name: getattr(FAMILY, name) for name in FAMILY.__struct_fields__},
                                    "contacts": [ContactEntry("80" + "00" * 19, "[fd00::2]:5348")]})}  # fmt: skip


class Case(NamedTuple):
    remark: str
    packet: bytes
    reason: Reason


def table(family: int) -> ReplayTable:
    return tables.from_file(FILES[family], Path())


def client(family: int, **fields: object) -> bytearray:
    """A client's request for the key of another node."""
    message = Message(**{"op": Op.GET, "key": FAR, "request_id": 1, "body": bytes(16), **fields})  # type: ignore[arg-type]
    return packet(bytes(message.pack()), CLIENT[family], OWN[family])


def member(family: int, source: Address | None = None, **fields: object) -> bytearray:
    """A member's message, sealed."""
    usual = {"op": Op.GET, "key": FAR, "request_id": 2, "hops": 9, "client": CLIENT[family], "entry": OWN[family],
             "max_reply": 1120, "body": bytes(16)}  # fmt: skip
    message = Message(**{**usual, **fields}).pack()  # type: ignore[arg-type]
    seal(message, table(family).keys[0], NOW)
    return packet(bytes(message), source or NEXT[family], OWN[family])


def reply(family: int, **fields: object) -> bytearray:
    body = Record(1, 60, 0, b"value").pack()
    return member(family, **{"flags": Flag.REPLY, "body": body, **fields})


# --- Truncated at every length --------------------------------------------------------------


def truncated(family: int) -> Iterator[Case]:
    """Whole packets of every length, and packets whose end is missing."""
    head = 28 if family == 4 else 48
    for name, whole in (("a client's request", client(family)), ("a member's", member(family))):
        for length in range(len(whole)):
            cut = whole[:length]
            yield Case(f"{name}, its first {length} bytes", bytes(cut), _cut_short(length, family))
            if length >= head:
                mutations.set_lengths(cut)
                mutations.set_checksum(cut)
                yield Case(f"{name}, {length} bytes long", bytes(cut), _short(length - head))


def _cut_short(length: int, family: int) -> Reason:
    """Lengths that are not true; of nothing at all nobody knows that it is IP."""
    return Reason.NOT_OURS if length == 0 else Reason.BAD_IP


def _short(payload: int) -> Reason:
    if payload < 4:
        return Reason.NOT_OURS
    return Reason.TRUNCATED if payload < shared.HEADER_LEN else Reason.BAD_LENGTH


# --- One thing wrong ---------------------------------------------------------------------------

Change = Callable[[bytearray], object]


def changed(made: bytearray, family: int, *changes: tuple[str, int], tagged: bool = False) -> bytes:
    for name, value in changes:
        mutations.put_field(made, name, value)
    if tagged:
        mutations.tag(_generator(family), made)
    mutations.set_checksum(made)
    return bytes(made)


def _generator(family: int) -> Generator:
    return Generator(table(family), 1)


def mutated(made: bytearray, family: int, name: str) -> bytes:
    mutations.MUTATIONS[name](_generator(family), made)
    mutations.set_checksum(made)
    return bytes(made)


def wrong_fields(family: int) -> Iterator[Case]:
    def one(
        remark: str, reason: Reason, name: str, value: int, of: Callable[..., bytearray] = member
    ) -> Case:
        return Case(remark, changed(of(family), family, (name, value), tagged=of is not client), reason)

    yield one("wrong magic", Reason.NOT_OURS, "magic", shared.MAGIC ^ 1, client)
    yield one("version 2 from a client", Reason.BAD_VERSION, "version", 2, client)
    yield one("version 0 from a member", Reason.BAD_VERSION, "version", 0)
    yield one("body length too small", Reason.BAD_LENGTH, "body_len", 15, client)
    yield one("body length too large", Reason.BAD_LENGTH, "body_len", 17, client)
    yield one("body length 65535", Reason.TOO_LONG, "body_len", 0xFFFF, client)
    yield one("unknown flag", Reason.BAD_FLAGS, "flags", 0x82)
    yield one("reply flag from a client", Reason.BAD_FLAGS, "flags", Flag.REPLY, client)
    yield one("direct answer, from a client", Reason.ENTERED, "flags", Flag.DIRECT, client)
    yield one("direct answer, from a member", Reason.NEXT_HOP, "flags", Flag.FORWARDED | Flag.DIRECT)
    yield one(
        "direct answer to a reply", Reason.BAD_FLAGS, "flags", Flag.REPLY | Flag.FORWARDED | Flag.DIRECT
    )
    yield one("reserved byte", Reason.BAD_FLAGS, "reserved1", 1)
    yield one("reserved word", Reason.BAD_FLAGS, "reserved2", 1)
    yield one("op 0", Reason.BAD_OP, "op", 0, client)
    yield one("an op beyond the last", Reason.BAD_OP, "op", shared.LAST_ROUTED_OP + 1)
    yield one("a control message from a client", Reason.BAD_FLAGS, "op", Op.PING, client)
    yield one("unknown epoch", Reason.BAD_EPOCH, "epoch", 9)
    yield one("sealed 61 s ago", Reason.STALE, "time", NOW - 61)
    yield one("sealed 60 s ago", Reason.NEXT_HOP, "time", NOW - 60)
    yield one("sealed 61 s ahead", Reason.STALE, "time", NOW + 61)
    yield one("time 0", Reason.STALE, "time", 0)
    yield one("hop limit 0", Reason.HOP_LIMIT, "hops", 0)
    yield one("hop limit 1, not the owner", Reason.HOP_LIMIT, "hops", 1)
    for name in (
        "status",
        "time",
        "epoch",
        "client_port",
        "client_ip",
        "entry_ip",
        "entry_port",
        "body_tag",
        "header_tag",
    ):
        yield one(f"a client that fills in {name}", Reason.FORGED_ORIGIN, name, 1, client)


def forgeries(family: int) -> Iterator[Case]:
    yield Case(
        "FORWARDED flag from a client", mutated(client(family), family, "forged FORWARDED"), Reason.BAD_TAG
    )
    yield Case(
        "one bit of the header tag", mutated(member(family), family, "wrong header tag"), Reason.BAD_TAG
    )
    wrong = changed(member(family), family, ("key", 5))
    yield Case("another key under an old tag", wrong, Reason.BAD_TAG)
    yield Case(
        "a body that ends here, changed",
        mutated(member(family, op=Op.PUT, key=NEAR), family, "wrong body"),
        Reason.BAD_BODY_TAG,
    )
    yield Case(
        "a changed proof",
        mutated(member(family, key=NEAR, flags=Flag.PROVEN), family, "wrong body"),
        Reason.BAD_BODY_TAG,
    )
    yield Case(
        "changed padding: it means nothing",
        mutated(member(family, key=NEAR), family, "wrong body"),
        Reason.OWNER,
    )
    yield Case(
        "a reply whose body was changed", mutated(reply(family), family, "wrong body"), Reason.BAD_BODY_TAG
    )
    yield Case("a reply for another entry node", bytes(reply(family, entry=NEXT[family])), Reason.NOT_ENTRY)
    nobody = Address(CLIENT[family].ip, 0)
    yield Case("a reply for port 0", bytes(reply(family, client=nobody)), Reason.BAD_ADDRESS)
    everybody = Address.of("224.0.0.1" if family == 4 else "ff02::1", 40000)
    yield Case("a reply for a multicast group", bytes(reply(family, client=everybody)), Reason.BAD_ADDRESS)
    message = Message(op=Op.GET, key=FAR, request_id=1).pack()
    yield Case(
        "a request from port 0", bytes(packet(bytes(message), nobody, OWN[family])), Reason.BAD_ADDRESS
    )
    loopback = "127.0.0.1" if family == 4 else "::1"
    for host in (OWN[family].host, loopback, everybody.host):
        source = Address.of(host, 40000)
        yield Case(
            f"a request from {host}", bytes(packet(bytes(message), source, OWN[family])), Reason.MARTIAN
        )
    yield Case("a member's request from this node", bytes(member(family, source=OWN[family])), Reason.MARTIAN)


def odd_packets(family: int) -> Iterator[Case]:
    yield Case("a fragment", mutated(client(family), family, "fragment"), Reason.FRAGMENT)
    options = Reason.IP_OPTIONS if family == 4 else Reason.EXT_HEADER
    yield Case("IP options, or an extension header", mutated(client(family), family, "options"), options)
    for size in (1121, 1536):
        big = client(family)
        mutations.put_field(big, "body_len", size)
        big[mutations.message_at(big) + shared.HEADER_LEN :] = bytes(size)
        mutations.set_lengths(big)
        mutations.set_checksum(big)
        yield Case(f"a body of {size} bytes", bytes(big), Reason.TOO_LONG)
    lying = client(family)
    at = mutations.udp_at(lying) + 4
    lying[at : at + 2] = b"\0\x09"
    yield Case("a UDP length that lies", bytes(lying), Reason.BAD_IP)
    yield Case(
        "more than the body length says", mutated(client(family), family, "too long"), Reason.BAD_LENGTH
    )
    if family == 4:
        spoilt = client(family)
        spoilt[10] ^= 1
        yield Case("a wrong checksum of the IP header", bytes(spoilt), Reason.BAD_CHECKSUM)
    none = Reason.ENTERED if family == 4 else Reason.NO_CHECKSUM
    yield Case("no UDP checksum", mutated(client(family), family, "no checksum"), none)


def right(family: int) -> Iterator[Case]:
    """What must go its way, beside all that must not."""
    yield Case("a client's request", bytes(client(family)), Reason.ENTERED)
    yield Case("a member's request", bytes(member(family)), Reason.NEXT_HOP)
    yield Case("a reply for a client", bytes(reply(family)), Reason.RELAYED)
    yield Case("a request for the own key", bytes(client(family, key=NEAR)), Reason.OWNER)
    yield Case(
        "a second attempt, without a second contact", bytes(client(family, attempt=1)), Reason.ATTEMPT_ENDS
    )
    yield Case("a TRACE that ends here", bytes(client(family, op=Op.TRACE, hops=1)), Reason.TRACE_ENDS)
    yield Case("a PING", bytes(member(family, op=Op.PING, key=bytes(20), body=FAR)), Reason.CONTROL)
    yield Case("the largest PUT", bytes(client(family, op=Op.PUT, body=bytes(1120))), Reason.ENTERED)


# --- Not ours ----------------------------------------------------------------------------------


def foreign_frames() -> Iterator[tuple[str, Ether]]:
    """Ethernet frames of other protocols, to the node's address and port where they have one."""
    ether = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    ip, ip6 = IP(src="198.51.100.7", dst="10.0.0.1"), IPv6(src="2001:db8::7", dst="fd00::1")
    to_port = UDP(sport=40000, dport=PORT)
    quic = bytes.fromhex("c300000001088394c8f03e5157080000449e") + bytes(1182)
    torrent = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"
    # scapy would fill what is left out here with this machine's own addresses.
    yield "ARP", ether / ARP(hwsrc="02:00:00:00:00:02", psrc="198.51.100.7", pdst="10.0.0.1")
    yield "ICMP", ether / ip / ICMP() / Raw(b"x" * 56)
    yield "ICMPv6", ether / ip6 / ICMPv6EchoRequest(data=b"x" * 56)
    yield "DNS", ether / ip / UDP(sport=40000, dport=53) / DNS(qd=DNSQR(qname="example.org"))
    yield "DNS to our port", ether / ip / to_port / DNS(qd=DNSQR(qname="example.org"))
    yield "a QUIC Initial", ether / ip / UDP(sport=40000, dport=443) / Raw(quic)
    yield "a QUIC Initial to our port", ether / ip6 / to_port / Raw(quic)
    yield "a BitTorrent ping", ether / ip / UDP(sport=6881, dport=6881) / Raw(torrent)
    yield "a BitTorrent ping to our port", ether / ip / to_port / Raw(torrent)
    yield "a TCP SYN to our port", ether / ip / TCP(sport=40000, dport=PORT, flags="S")
    yield "HTTP", ether / ip / TCP(sport=40000, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
    yield "another VLAN's DNS", ether / Dot1Q(vlan=7) / ip / UDP(dport=53) / DNS()
    yield "an empty datagram to our port", ether / ip / to_port
    for number, piece in enumerate(fragment(ip / UDP(dport=PORT) / Raw(b"y" * 3000), fragsize=1400)):
        yield f"fragment {number} of a large datagram", ether / piece
    yield "a frame of an unknown type", Ether(dst=ether.dst, src=ether.src, type=0x88B5) / Raw(bytes(46))
    yield "our message to another host", ether / _elsewhere()


def _elsewhere() -> IP:
    whole = IP(bytes(client(4)))
    whole.dst = "10.0.0.99"
    del whole.chksum
    return whole


# --- Files ---------------------------------------------------------------------------------------


def cases() -> dict[str, tuple[int, list[Case]]]:
    """The fixtures whose packets stand here, by name, with their family."""
    found = {}
    for family in (4, 6):
        for name, makers in (
            ("truncated", (truncated,)),
            ("hostile", (wrong_fields, forgeries, odd_packets)),
            ("right", (right,)),
        ):
            found[f"{name}-ipv{family}"] = (family, [case for make in makers for case in make(family)])
    return found


def write_cases(directory: Path, family: int, made_cases: list[Case]) -> None:
    with CaptureWriter(directory / "capture.pcap") as writer:
        for number, case in enumerate(made_cases):
            writer.write(case.packet, NOW * 10**9 + number * 1000)
    (directory / "table.json").write_bytes(tables.to_file(table(family), FILES[family].key))


def write_foreign(directory: Path) -> dict[int, str]:
    """The Ethernet capture; the remarks."""
    random.seed(1)  # scapy's own numbers
    remarks = {}
    with PcapWriter(str(directory / "capture.pcap"), linktype=1) as writer:
        for number, (remark, frame) in enumerate(foreign_frames(), start=1):
            raw = Ether(bytes(frame))
            raw.time = NOW + number / 1000
            writer.write(raw)
            remarks[number] = remark
    (directory / "table.json").write_bytes(tables.to_file(table(4), FILES[4].key))
    return remarks


def verdicts(directory: Path) -> dict[int, str]:
    found = {}
    with (
        made("core", tables.load(directory / "table.json")) as core,
        Capture(directory / "capture.pcap") as capture,
    ):
        for batch in capture:
            results = core.run(batch, NOW).results
            found.update({batch.first + index: line(results.get(index)) for index in range(len(batch))})
    return found


def reasons(family: int, packets: list[bytes]) -> list[Reason | None]:
    """What the core says of packets."""
    with made("core", table(family)) as core:
        results = core.run(Batch.of(packets, [NOW * 10**9] * len(packets)), NOW).results
        return [results.get(index).reason for index in range(len(packets))]


def write_all(root: Path) -> None:
    for name, (family, listed) in cases().items():
        directory = root / name
        directory.mkdir(parents=True, exist_ok=True)
        write_cases(directory, family, listed)
        remarks = {number: case.remark for number, case in enumerate(listed, start=1)}
        (directory / "verdicts.txt").write_text(rendered(verdicts(directory), remarks))
    directory = root / "not-ours"
    directory.mkdir(parents=True, exist_ok=True)
    remarks = write_foreign(directory)
    (directory / "verdicts.txt").write_text(rendered(verdicts(directory), remarks))


if __name__ == "__main__":
    write_all(DIRECTORY)
