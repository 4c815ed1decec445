"""From the operator's shared secret to the keys for tags and for cookies.

Layer 0. A cluster secret is 16 or more bytes that all nodes share. Each epoch has its own. The two keys are
derived with BLAKE2b (RFC 7693) and its personalisation, so that neither tells anything of the other.
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


def derive(epoch: int, secret: bytes) -> ClusterSecret:
    """Derive the keys of `epoch` (0 to 255) from the shared secret.

    Raises ConfigError if the secret is shorter than 16 bytes or the epoch is out of range.
    """
    if len(secret) < MIN_SECRET:
        raise ConfigError(f"a cluster secret has at least {MIN_SECRET} bytes, this one has {len(secret)}")
    if not 0 <= epoch <= 255:
        raise ConfigError(f"a key epoch is a number from 0 to 255, not {epoch}")
    return ClusterSecret(epoch, _derived(secret, b"kdht-tag"), _derived(secret, b"kdht-cookie"))


def _derived(secret: bytes, use: bytes) -> bytes:
    return hashlib.blake2b(hashlib.sha256(secret).digest(), digest_size=16, person=use).digest()
