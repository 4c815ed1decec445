"""From the operator's shared secrets to the keys for tags, for cookies and for tokens.

Layer 0. A cluster secret is 16 or more bytes that all nodes share. Each epoch has its own. An access secret is another
one: tokens stay good while the cluster secret changes. The keys are
derived with BLAKE2b (RFC 7693) and its personalisation, so that none tells anything of another.
"""

import hashlib
from typing import NamedTuple

from kdht.errors import ConfigError

MIN_SECRET = 16


class ClusterSecret(NamedTuple):
    """One epoch's secret, as the two keys derived from it, 16 bytes each."""

    epoch: int
    tag: bytes
    cookie: bytes


class AccessKey(NamedTuple):
    """One epoch's access secret, as the key (16 bytes) that each token's key is derived with."""

    epoch: int
    key: bytes


def derive(epoch: int, secret: bytes) -> ClusterSecret:
    """Derive the keys of `epoch` (0 to 255) from the shared secret.

    Raises ConfigError if the secret is shorter than 16 bytes or the epoch is out of range.
    """
    _check("a cluster secret", epoch, secret)
    return ClusterSecret(epoch, _derived(secret, b"kdht-tag"), _derived(secret, b"kdht-cookie"))


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
    return hashlib.blake2b(hashlib.sha256(secret).digest(), digest_size=16, person=use).digest()
