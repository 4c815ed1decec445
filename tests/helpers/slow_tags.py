"""Keys, header tags and body tags as docs/protocol.md writes them down, with Python's integers and hashlib alone.

Slow, and without a line of kdht: the vectors come from here.
"""

import hashlib

PADDED_OPS = (0x01, 0x04, 0x05)
REPLY, PROVEN = 0x01, 0x08
WORD = 2**64 - 1


def derived(secret: bytes, label: bytes) -> bytes:
    """A key of 16 bytes for one use."""
    return hashlib.blake2b(hashlib.sha256(secret).digest(), digest_size=16, person=label).digest()


def words(secret: bytes, label: bytes, length: int) -> bytes:
    """Key material of any length, in blocks of 64 bytes."""
    root, made = hashlib.sha256(secret).digest(), b""
    while len(made) < length:
        number = (len(made) // 64).to_bytes(4, "big")
        made += hashlib.blake2b(root + number, digest_size=64, person=label).digest()
    return made[:length]


def header_tag(secret: bytes, message: bytes) -> int:
    hashed = nh(words(secret, b"kdht-header-nh", 112), message[8:104])
    return siphash(derived(secret, b"kdht-header-tag"), hashed + message[:7])


def body_tag(secret: bytes, message: bytes) -> int:
    op, flags, body = message[5], message[6], message[112:]
    if op in PADDED_OPS and not flags & (REPLY | PROVEN):
        return 0
    hashed = nh(words(secret, b"kdht-body-nh", 1144), body + bytes(8 - len(body) % 8))
    return siphash(derived(secret, b"kdht-body-tag"), hashed + message[12:16] + message[38:40])


def cookie(secret: bytes, client_ip: bytes, now: int) -> int:
    return siphash(derived(secret, b"kdht-cookie"), client_ip + (now >> 7).to_bytes(8, "big")) or 1


def nh(key: bytes, data: bytes) -> bytes:
    """Three lanes; the key of each begins 8 bytes behind that of the one before."""
    return b"".join(lane(key[8 * number :], data).to_bytes(8, "little") for number in range(3))


def lane(key: bytes, data: bytes) -> int:
    """The sum of the products of neighbours, after each 32-bit word got its key word added."""
    added = [
        (int.from_bytes(data[at : at + 4], "little") + int.from_bytes(key[at : at + 4], "little")) % 2**32
        for at in range(0, len(data), 4)
    ]
    return sum(even * odd for even, odd in zip(added[::2], added[1::2], strict=True)) % 2**64


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 as the paper's section 2 writes it down."""
    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    initial = int.from_bytes(b"somepseudorandomlygeneratedbytes", "big").to_bytes(32, "big")
    v = [
        int.from_bytes(initial[i : i + 8], "big") ^ k
        for i, k in zip((0, 8, 16, 24), (k0, k1) * 2, strict=True)
    ]
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    sip_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sip_rounds(v: list[int], count: int) -> None:
    """`count` SipRounds: half-rounds that add one word to another and rotate it against the sum."""
    for _ in range(count):
        half_round(v, 0, 1, 13)
        half_round(v, 2, 3, 16)
        v[0] = rotated(v[0], 32)
        half_round(v, 0, 3, 21)
        half_round(v, 2, 1, 17)
        v[2] = rotated(v[2], 32)


def half_round(v: list[int], a: int, b: int, bits: int) -> None:
    v[a] = (v[a] + v[b]) & WORD
    v[b] = rotated(v[b], bits) ^ v[a]


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & WORD
