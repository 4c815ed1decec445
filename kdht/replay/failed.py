"""The check that a packet failed, with the figures that failed it: "port 5349, not 5348".

For display only. The checks are those of oracle_packets.py and oracle.py, read leniently: whatever a packet lacks is
left out of the sentence.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kdht.replay.oracle import FILLED_BY_ENTRY
from kdht.replay.oracle_packets import EXTENSION_HEADERS, MAPPED, UDP, folded, words
from kdht.replay.tables import ReplayTable
from kdht.wire import HEADER, NO_IP, Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Reason

PROTOCOLS = {
    1: "ICMP",
    4: "IPv4",
    6: "TCP",
    17: "UDP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    58: "ICMPv6",
    132: "SCTP",
}


class View(NamedTuple):
    """A packet with an IP header, as far as it goes."""

    table: ReplayTable
    packet: bytes
    now: int
    version: int
    protocol: int
    source: bytes
    target: bytes
    end: int
    """Where IP's length says that the packet ends."""
    udp: int
    """Where UDP's header begins, if it is UDP."""

    def number(self, at: int, size: int = 2) -> int:
        return int.from_bytes(self.packet[at : at + size], "big")

    @property
    def message(self) -> bytes:
        return self.packet[self.udp + 8 : self.end]

    @property
    def header(self) -> dict[str, Any]:
        """Its fields by name; all zeros for what is too short."""
        raw = self.message[: shared.HEADER_LEN].ljust(shared.HEADER_LEN, b"\0")
        return dict(zip((name for name, _, _ in shared.LAYOUT), HEADER.unpack(raw), strict=True))


def failed_check(table: ReplayTable, packet: bytes, now: int, reason: Reason) -> str:
    """What about the packet led to the reason; empty where the reason itself says it all."""
    if not packet:
        return "there is no IP header in the frame" if reason is Reason.NOT_OURS else ""
    view = _view(table, packet, now)
    if view is None:
        return _too_short(packet)
    return "; ".join(_FAILED.get(reason, _nothing)(view))


def _view(table: ReplayTable, packet: bytes, now: int) -> View | None:
    version = packet[0] >> 4
    if len(packet) < {4: 20, 6: 40}.get(version, len(packet) + 1):
        return None
    if version == 4:
        end, udp, protocol = int.from_bytes(packet[2:4], "big"), 4 * (packet[0] & 15), packet[9]
        return View(table, packet, now, 4, protocol, MAPPED + packet[12:16], MAPPED + packet[16:20], end, udp)
    end = 40 + int.from_bytes(packet[4:6], "big")
    return View(table, packet, now, 6, packet[6], packet[8:24], packet[24:40], end, 40)


def _too_short(packet: bytes) -> str:
    return f"{len(packet)} bytes are too few for an IPv{packet[0] >> 4} header"


def _nothing(view: View) -> Iterator[str]:
    yield from ()


# --- Whole packets --------------------------------------------------------------------------


def _not_ours(view: View) -> Iterator[str]:
    """All that another packet would have to have otherwise."""
    table = view.table
    if view.target not in table.own:
        own = ", ".join(Address(ip, 0).host for ip in table.own)
        yield f"target {Address(view.target, 0).host} is not own ({own})"
    if view.version == 4 and view.number(6) & 0x1FFF:
        yield "a later fragment, without UDP's header"
        return
    if view.protocol != UDP:
        if view.version == 6 and view.protocol in EXTENSION_HEADERS:
            yield f"behind the extension header {EXTENSION_HEADERS[view.protocol]} there is no UDP of ours"
        else:
            yield f"protocol {_protocol(view.protocol)}, not UDP"
        return
    if (port := view.number(view.udp + 2)) != table.port:
        yield f"port {port}, not {table.port}"
    magic = view.message[:4]
    if magic != shared.MAGIC.to_bytes(4, "big"):
        yield f"the message begins with {magic.hex() or 'nothing'}, not {shared.MAGIC:08x}"


def _protocol(number: int) -> str:
    return f"{number} ({PROTOCOLS[number]})" if number in PROTOCOLS else str(number)


def _bad_ip(view: View) -> Iterator[str]:
    have = len(view.packet)
    if view.version == 4 and view.udp < 20:
        yield f"IP's header has {view.udp} bytes, at least 20 are needed"
    elif view.end > have:
        yield f"IP's length is {view.end} bytes, and only {have} were captured"
    elif view.udp + 8 > view.end:
        yield f"IP's length is {view.end} bytes: no UDP header fits in"
    elif (length := view.number(view.udp + 4)) != view.end - view.udp:
        yield f"UDP's length is {length} bytes, IP's leaves {view.end - view.udp}"


def _options(view: View) -> Iterator[str]:
    yield f"IP's header has {view.udp} bytes, not 20"


def _extension(view: View) -> Iterator[str]:
    yield f"the extension header {EXTENSION_HEADERS.get(view.protocol, str(view.protocol))}"


def _checksum(view: View) -> Iterator[str]:
    head = view.packet[:20]
    right = 0xFFFF - folded(sum(words(head[:10] + b"\0\0" + head[12:])))
    yield f"it is {view.number(10):04x}, {right:04x} is right"


def _martian(view: View) -> Iterator[str]:
    source = Address(view.source, 0)
    yield f"source {source.host}"
    if source.is_loopback or view.source in view.table.own:
        yield "only the node's own host may send from there; a socket sees that it did, a capture does not tell"


# --- Messages -------------------------------------------------------------------------------


def _truncated(view: View) -> Iterator[str]:
    yield f"there are {len(view.message)} bytes"


def _field(name: str, form: str = "d") -> Callable[[View], Iterator[str]]:
    """Says the value of a field of the header."""

    def say(view: View) -> Iterator[str]:
        yield f"{name} {view.header[name]:{form}}"

    return say


def _length(view: View) -> Iterator[str]:
    yield f"body_len {view.header['body_len']}, and {len(view.message) - shared.HEADER_LEN} bytes follow the header"


def _flags(view: View) -> Iterator[str]:
    header = view.header
    unknown = header["flags"] & ~shared.KNOWN_FLAGS
    if unknown:
        yield f"unknown flags {unknown:#04x}"
    elif reserved := [name for name in ("reserved1", "reserved2") if header[name]]:
        yield f"{' and '.join(reserved)} not 0"
    else:
        names = str(Flag(header["flags"]).name or "none").replace("|", ", ")
        yield f"flags ({names}) that do not go together with op {header['op']:#04x}"


def _forged(view: View) -> Iterator[str]:
    header = view.header
    yield f"filled in: {', '.join(name for name in FILLED_BY_ENTRY if header[name] not in (0, NO_IP))}"


def _epoch(view: View) -> Iterator[str]:
    epochs = ", ".join(str(key.epoch) for key in view.table.keys)
    yield f"epoch {view.header['epoch']}, and the keys are of {epochs}"


def _stale(view: View) -> Iterator[str]:
    age = (view.now - view.header["time"] + 2**31) % 2**32 - 2**31
    yield f"it is {age} s old" if age >= 0 else f"it is {-age} s ahead"


def _entry(view: View) -> Iterator[str]:
    header = view.header
    yield f"the entry node is {Address(header['entry_ip'], header['entry_port'])}"


def _address(view: View) -> Iterator[str]:
    header = view.header
    if header["flags"] & Flag.FORWARDED:
        yield f"client {Address(header['client_ip'], header['client_port'])}"
    else:
        yield f"source {Address(view.source, view.number(view.udp))}"


_FAILED: dict[Reason, Callable[[View], Iterator[str]]] = {
    Reason.NOT_OURS: _not_ours,
    Reason.BAD_IP: _bad_ip,
    Reason.IP_OPTIONS: _options,
    Reason.EXT_HEADER: _extension,
    Reason.BAD_CHECKSUM: _checksum,
    Reason.MARTIAN: _martian,
    Reason.TRUNCATED: _truncated,
    Reason.BAD_VERSION: _field("version"),
    Reason.BAD_LENGTH: _length,
    Reason.TOO_LONG: _field("body_len"),
    Reason.BAD_FLAGS: _flags,
    Reason.BAD_OP: _field("op", "#04x"),
    Reason.FORGED_ORIGIN: _forged,
    Reason.BAD_EPOCH: _epoch,
    Reason.STALE: _stale,
    Reason.HOP_LIMIT: _field("hops"),
    Reason.NOT_ENTRY: _entry,
    Reason.BAD_ADDRESS: _address,
}
