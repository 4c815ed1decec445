"""Who may read and write: the configured policy."""

from typing import Literal, NamedTuple

from kdht.wire.keys import AccessKey

Mode = Literal["open", "count", "token"]


class AccessPolicy(NamedTuple):
    """Both modes, and what tokens are checked with."""

    writes: Mode
    reads: Mode
    keys: tuple[AccessKey, ...]
    """All are accepted."""
    open_scopes: frozenset[int]
    revoked: frozenset[int]
    """Holders."""


OPEN = AccessPolicy("open", "open", (), frozenset(), frozenset())
