"""The bytes of a large value's parts: its manifest, its chunks, and the journal that names all uploads.

Integers are big-endian. The manifest and the journal end in a check, the BLAKE2b-64 of all bytes before it, so that
no plain value is taken for one. docs/protocol.md, "Large values", has the meaning.

manifest, under the user's key    journal                          chunk number n
  0 | "KDHTLV01"          |         0 | "KDHTLJ01"         |         0 | "KDHTLC01"              |
  8 | size, 8             |         8 | upload, 44 bytes   |         8 | the user's key, hashed  |
 16 | chunk size, 4       |           | ID, 16             |        28 | upload's ID, 16         |
 20 | upload's ID, 16     |           | started, 8         |        44 | data                    |
 36 | BLAKE2b-256 of all  |           | expiry, 8          |
 68 | check, 8            |           | chunks, 4          |
                                      | version, 8         |
"""

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from kdht.wire import Buffer
from kdht.wire import _shared as shared
from kdht.wire.limits import SEAL_OVERHEAD

MANIFEST_MAGIC = b"KDHTLV01"
JOURNAL_MAGIC = b"KDHTLJ01"
CHUNK_MAGIC = b"KDHTLC01"
JOURNAL_PREFIX = b"kdht/large/journal/"
CHUNK_PREFIX = b"kdht/large/chunk/"
# Random: two uploads of one key, by any clients, must never share chunks.
UPLOAD_ID_LEN = 16
# The whole value is checked with it, so it must resist collisions.
DIGEST_LEN = 32

MAX_LARGE = 1024 * 1024 * 1024
"""Most bytes of a large value."""
# Anybody may write a manifest, so a reader must not take all memory because it says so.
MAX_IN_MEMORY = 64 * 1024 * 1024
"""Most bytes of a large value that is read as a whole."""

_MANIFEST = struct.Struct(f">8sQI{UPLOAD_ID_LEN}s{DIGEST_LEN}s")
_UPLOAD = struct.Struct(f">{UPLOAD_ID_LEN}sQQIQ")
_CHUNK = struct.Struct(f">8s{shared.ID_LEN}s{UPLOAD_ID_LEN}s")
_CHECK_LEN = 8

CHUNK_SIZE = shared.MAX_VALUE - _CHUNK.size
"""Bytes of the value that one chunk holds, if no proof has to go with it."""
MAX_CHUNKS = -(-MAX_LARGE // 256)
MAX_UPLOADS = (
    shared.MAX_CONDITIONAL_VALUE - shared.PROOF_LEN - SEAL_OVERHEAD - len(JOURNAL_MAGIC) - _CHECK_LEN
) // _UPLOAD.size
"""Most uploads that one journal names: clients with tokens and without write the same journals."""


class Manifest(NamedTuple):
    """The value of the user's key: `size` bytes in chunks of `chunk_size`, written by one upload."""

    size: int
    chunk_size: int
    upload: bytes
    digest: bytes

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk_size)

    def pack(self) -> bytes:
        return _with_check(_MANIFEST.pack(MANIFEST_MAGIC, *self))

    @classmethod
    def parse(cls, value: bytes) -> "Manifest | None":
        """Parse an untrusted value. None if it is no manifest, or an impossible one."""
        # The check keeps a plain value that begins like a manifest from being taken for one.
        if len(value) != _MANIFEST.size + _CHECK_LEN or not _has_check(value, MANIFEST_MAGIC):
            return None
        manifest = cls(*_MANIFEST.unpack_from(value)[1:])
        # Anybody may write this value: bounded, so a reader cannot be made to take all its memory.
        possible = manifest.size <= MAX_LARGE and 0 < manifest.chunk_size <= CHUNK_SIZE
        return manifest if possible and manifest.chunks <= MAX_CHUNKS else None


def is_manifest(value: bytes) -> bool:
    """Whether this value of a plain `get` is the manifest of a large value, for `get_large` to follow."""
    return Manifest.parse(value) is not None


def large_size(value: bytes) -> int | None:
    """The bytes of the large value whose manifest this is; None if it is no manifest."""
    manifest = Manifest.parse(value)
    return manifest.size if manifest else None


class Upload(NamedTuple):
    """One writer's chunks of one value. Times are Unix seconds; an expiry of 0 is none."""

    id: bytes
    started: int
    expiry: int
    chunks: int
    version: int = 0
    """That of its manifest; 0 before that is written."""


def pack_journal(uploads: list[Upload]) -> bytes:
    return _with_check(JOURNAL_MAGIC + b"".join(_UPLOAD.pack(*upload) for upload in uploads))


def parse_journal(value: bytes) -> list[Upload]:
    """Parse an untrusted value. It names no upload if it is no journal."""
    body = value[len(JOURNAL_MAGIC) : -_CHECK_LEN]
    if len(body) % _UPLOAD.size or not _has_check(value, JOURNAL_MAGIC):
        return []
    uploads = [Upload(*fields) for fields in _UPLOAD.iter_unpack(body)]
    return [upload for upload in uploads if upload.chunks <= MAX_CHUNKS]


def journal_name(key: bytes) -> bytes:
    """The name of a key's journal; `key` is the 20-byte hash."""
    return JOURNAL_PREFIX + key


def chunk_name(upload: bytes, number: int) -> bytes:
    return CHUNK_PREFIX + upload + number.to_bytes(4, "big")


def chunk_header(key: bytes, upload: bytes) -> bytes:
    """What all chunks of this upload of this key begin with; `key` is the 20-byte hash."""
    return _CHUNK.pack(CHUNK_MAGIC, key, upload)


def cut(data: Buffer, key: bytes, upload: bytes, chunk_size: int) -> Iterator[bytes]:
    """The chunks of a value, each as it is stored; `key` is the 20-byte hash."""
    header = chunk_header(key, upload)
    view = memoryview(data)
    for start in range(0, len(view), chunk_size):
        yield header + view[start : start + chunk_size]


def is_chunk_of(value: bytes, key: bytes, upload: bytes) -> bool:
    """Whether an untrusted value is a chunk of this upload of this key, the 20-byte hash."""
    return value.startswith(chunk_header(key, upload))


def _with_check(body: bytes) -> bytes:
    return body + blake2b(body, digest_size=_CHECK_LEN).digest()


def _has_check(value: bytes, magic: bytes) -> bool:
    return value.startswith(magic) and _with_check(value[:-_CHECK_LEN]) == value
