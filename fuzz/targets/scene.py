"""The nodes that the targets send their inputs to, and the step that makes inputs well-formed.

An input begins with a byte of choices: which node, and which fields are to be made right
before the verdict. Without that no mutation would get past a tag or a checksum; with it a
fuzzer may still choose to leave any of them wrong.
"""

import random
import struct

from kdht._routing import Core, common_bits
from kdht.wire import OFFSET, Address, Contact, body_tag, header_tag
from kdht.wire import _shared as shared
from kdht.wire._shared import siphash
from kdht.wire.keys import derive

try:
    from _harness import guard
except ImportError:  # the ordinary build has no sanitizer to tell

    def guard(data: bytearray) -> bytearray:
        return data


NOW = 1_800_000_000
SELF_ID = bytes(shared.ID_LEN)
KEYS = (
    derive(2, b"the second epoch")._replace(cookie=b"a key of cookies"),
    derive(1, b"the first epoch.")._replace(cookie=b"a key of cookies"),
)
HOME4, HOME6 = Address.of("10.0.0.1", shared.PORT), Address.of("fd00::1", shared.PORT)


class Fix:
    """What is corrected in an input: each is a bit of its first byte. The low two bits choose a node."""

    FORM = 0x04
    """Magic, version, body length; of a packet also its lengths, its target and its port."""
    TIME = 0x08
    TAGS = 0x10
    CHECKSUMS = 0x20
    COOKIE = 0x40
    HOME = 0x80
    """The entry node of a reply becomes this node."""


NODES = 4
FIXES = 0xFC


def contacts() -> list[Contact]:
    """A hundred random contacts and a hundred near this node, of both IP versions."""
    rng = random.Random(5348)
    ids = [rng.randbytes(shared.ID_LEN) for _ in range(100)]
    ids += [(rng.getrandbits(160) >> rng.randrange(160) or 1).to_bytes(20, "big") for _ in range(100)]
    ids = list(dict.fromkeys(ids))
    hosts = [f"10.1.0.{n}" if rng.random() < 0.5 else f"fd00:1::{n:x}" for n in range(1, len(ids) + 1)]
    return [Contact(id, *Address.of(host, shared.PORT)) for id, host in zip(ids, hosts, strict=True)]


def settings(number: int, window: int = shared.REPLAY_WINDOW) -> dict[str, object]:
    """The configuration of node `number`. Node 3 wants cookies and sends by IPv4 only."""
    return {
        "self_id": SELF_ID,
        "port": shared.PORT,
        "own": [HOME4.ip, HOME6.ip],
        "source4": HOME4.ip,
        "source6": None if number == 3 else HOME6.ip,
        "keys": [(key.epoch, key.tag) for key in KEYS],
        "cookie_key": KEYS[0].cookie,
        "cookies": number in (2, 3),
        "window": window,
    }


def buckets(number: int) -> dict[int, list[Contact]]:
    """A node's table: node 0 knows nobody, nodes 1 and 3 many, node 2 one far contact."""
    known = contacts()
    known = {0: [], 2: [c for c in known if c.id[0] & 0x80][:1]}.get(number, known)
    held: dict[int, list[Contact]] = {}
    for contact in known:
        bucket = held.setdefault(common_bits(SELF_ID, contact.id), [])
        if len(bucket) < shared.K:
            bucket.append(contact)
    return held


def make_core(number: int, window: int = shared.REPLAY_WINDOW) -> Core:
    core = Core()
    core.configure(**settings(number, window))
    for index, bucket in buckets(number).items():
        core.set_bucket(index, bucket)
    return core


# --- Making messages right ------------------------------------------------------------------

_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_IDENTITY = _U32.pack(shared.MAGIC) + bytes([shared.VERSION])


def mend(message: bytearray, fixes: int, client_ip: bytes, now: int = NOW) -> None:
    """Correct what `fixes` says, in place. Inputs shorter than a header stay as they are."""
    if len(message) < shared.HEADER_LEN:
        return
    if fixes & Fix.FORM:
        message[: len(_IDENTITY)] = _IDENTITY
        _U16.pack_into(message, OFFSET["body_len"], (len(message) - shared.HEADER_LEN) & 0xFFFF)
    if fixes & Fix.TIME:
        _U32.pack_into(message, OFFSET["time"], now)
    if fixes & Fix.HOME:
        home = HOME4 if client_ip[:12] == HOME4.ip[:12] else HOME6
        message[OFFSET["entry_ip"] : OFFSET["entry_ip"] + 16] = home.ip
        _U16.pack_into(message, OFFSET["entry_port"], home.port)
    if fixes & Fix.COOKIE:
        slot = _U64.pack(now >> shared.COOKIE_SLOT_BITS)
        _U64.pack_into(message, OFFSET["cookie"], siphash(KEYS[0].cookie, client_ip + slot) or 1)
    if fixes & Fix.TAGS:
        tag(message)


def tag(message: bytearray) -> None:
    """Set both tags, with the secret of the message's epoch; for an unknown epoch with the first one."""
    key = KEYS[1] if message[OFFSET["epoch"]] == KEYS[1].epoch else KEYS[0]
    message[OFFSET["epoch"]] = key.epoch
    _U64.pack_into(message, OFFSET["body_tag"], body_tag(message, key))
    _U64.pack_into(message, OFFSET["header_tag"], header_tag(message, key))
