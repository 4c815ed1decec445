"""From the operator's shared secrets to the keys for tags, for cookies and for tokens.

Layer 0. A cluster secret is 16 or more bytes that all nodes share. Each epoch has its own. An access secret is another
one: tokens stay good while the cluster secret changes. Every key is derived with BLAKE2b (RFC 7693) under a label
of its own, so that none tells anything of the others.
"""

import hashlib
from typing import NamedTuple

from kdht.errors import ConfigError
from kdht.wire import _shared as shared

# As long as the keys that are derived from it. A shorter one could be guessed from a captured tag.
MIN_SECRET = 16


class ClusterSecret(NamedTuple):
    """One epoch's secret, as the keys derived from it.

    `tag`: all keys of both tags, TAG_KEY_LEN bytes, in the order of struct kdht_key. `cookie`, `discovery`: 16 bytes.
    """

    epoch: int
    tag: bytes
    cookie: bytes
    discovery: bytes


class AccessKey(NamedTuple):
    """One epoch's access secret, as the key (16 bytes) that each token's key is derived with."""

    epoch: int
    key: bytes


def derive(epoch: int, secret: bytes) -> ClusterSecret:
    """Derive the keys of `epoch` (0 to 255) from the shared secret.

    Raises ConfigError if the secret is shorter than 16 bytes or the epoch is out of range.
    """
    _check("a cluster secret", epoch, secret)
    tag_key = (
        _derived(secret, b"kdht-header-tag")
        + _derived(secret, b"kdht-body-tag")
        + _words(secret, b"kdht-header-nh", shared.HEADER_KEY_WORDS)
        + _words(secret, b"kdht-body-nh", shared.BODY_KEY_WORDS)
    )
    return ClusterSecret(
        epoch, tag_key, _derived(secret, b"kdht-cookie"), _derived(secret, b"kdht-discovery")
    )


def derive_access(epoch: int, secret: bytes) -> AccessKey:
    """Derive the key of `epoch` (0 to 255) that tokens are made with. Raises ConfigError as `derive`."""
    _check("an access secret", epoch, secret)
    return AccessKey(epoch, _derived(secret, b"kdht-access"))


def _check(what: str, epoch: int, secret: bytes) -> None:
    if len(secret) < MIN_SECRET:
        raise ConfigError(f"{what} has at least {MIN_SECRET} bytes, this one has {len(secret)}")
    if not 0 <= epoch <= 255:
        raise ConfigError(f"a key epoch is a number from 0 to 255, not {epoch}")


def _derived(secret: bytes, use: bytes) -> bytes:
    # SHA-256 first, because BLAKE2b takes keys of 64 bytes at most, and a secret may be longer.
    return hashlib.blake2b(hashlib.sha256(secret).digest(), digest_size=16, person=use).digest()


def _words(secret: bytes, use: bytes, count: int) -> bytes:
    """`count` words of 4 bytes: 64 bytes of BLAKE2b for each block number, from 0 on."""
    root, length = hashlib.sha256(secret).digest(), 4 * count
    numbers = range(-(-length // hashlib.blake2b.MAX_DIGEST_SIZE))
    blocks = (hashlib.blake2b(root + number.to_bytes(4, "big"), person=use).digest() for number in numbers)
    return b"".join(blocks)[:length]
