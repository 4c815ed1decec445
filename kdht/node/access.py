"""Who may read and write: the policy, and the check of each request's proof.

Contract: no I/O, no clock. Any thread may call. `set_policy` may come while requests are checked: each is judged by one
policy or by the other.

The node at which a request ends judges it, before it reads, writes or leases anything. The checks run in the order of
REASONS. The MAC comes first, so a stranger with a forged token learns nothing about holders, rights or scopes.
"""

import threading
from collections import Counter
from hashlib import blake2b
from hmac import compare_digest
from typing import Literal, NamedTuple

from kdht.errors import BadPacket
from kdht.storage.versions import micros
from kdht.times import UnixTime
from kdht.wire import OFFSET
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op
from kdht.wire.keys import AccessKey
from kdht.wire.limits import MAX_CLOCK_ERROR
from kdht.wire.rights import (
    NEEDED,
    NOBODY,
    OPEN_KEY,
    PROOF,
    PROOF_PERSON,
    SEQ,
    Grant,
    scoped_key,
    token_key,
)

Mode = Literal["open", "count", "token"]

REASONS = ("none", "mac", "expired", "revoked", "right", "scope", "seq")
"""Why a request is refused: no proof; no token of this cluster made it; the token has expired, or its holder is
revoked; it has no right to this, or to this key; the time in it is too far from the node's."""
KINDS = WRITES, READS = "writes", "reads"

# Deriving a key is one hash. It is saved for the clients that come often, and not for all of them.
MAX_KNOWN = 1024
"""Grants whose key is remembered."""

_OP, _FLAGS = OFFSET["op"], OFFSET["flags"]
_KEY = slice(OFFSET["key"], OFFSET["key"] + shared.ID_LEN)
# As plain numbers: an enum's operators cost more than all else that is done with them.
_PROVEN = int(Flag.PROVEN)
_NEEDED = {int(op): int(right) for op, right in NEEDED.items()}
_WRITING = frozenset({int(Op.PUT), int(Op.DELETE), int(Op.ANNOUNCE), int(Op.WITHDRAW)})
_HEAD = shared.HEADER_LEN
_SEQ = slice(-shared.PROOF_MAC_LEN - SEQ.size, -shared.PROOF_MAC_LEN)
_GRANT = slice(-PROOF.size, -PROOF.size + shared.GRANT_LEN)
_HOLDER = slice(-PROOF.size + 8, -PROOF.size + 16)
_NOBODY = NOBODY.to_bytes(8, "big")
_INNER = slice(-PROOF.size + shared.GRANT_LEN, -PROOF.size + shared.GRANT_LEN + shared.ID_LEN)


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


class _Known(NamedTuple):
    """A grant whose proof was right, with what is asked of it at each request."""

    key: bytes
    rights: int
    expiry: int
    scope: int
    revoked: bool


class _Judge:
    """One policy, and the keys of the grants that it has seen proofs of."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._keys = {key.epoch: key.key for key in policy.keys}
        self._policy = policy
        self._known: dict[bytes, _Known] = {}

    def reason(self, data: bytes, now: UnixTime, *, window: bool = True) -> str:
        """Why this request would be refused; empty if it is proven. `window`: its time counts too."""
        if not data[_FLAGS] & _PROVEN:
            return "none"
        if len(data) < _HEAD + PROOF.size:
            return "mac"
        packed = data[_GRANT]
        # By the whole grant: a grant with one more right is another one, with another key.
        known = self._known.get(packed)
        if known is None:
            try:
                known = self._derived(packed)
            except BadPacket:
                return "mac"
        # Body, grant, inner key and seq lie behind each other, so one call hashes them all.
        mac = blake2b(
            data[_OP : _OP + 1] + data[_KEY] + data[_HEAD : -shared.PROOF_MAC_LEN],
            digest_size=shared.PROOF_MAC_LEN,
            key=known.key,
            person=PROOF_PERSON,
        )
        # In constant time, so that a forger learns nothing from how long the refusal takes.
        if not compare_digest(mac.digest(), data[-shared.PROOF_MAC_LEN :]):
            return "mac"
        # Only now: a grant without a right proof is anybody's.
        self._remember(packed, known)
        return self._refused(known, data, now) or (_off_time(data, now) if window else "")

    def expiry(self, data: bytes) -> int:
        """When a proven request's token ends, Unix seconds; 0: never."""
        return Grant.parse(data[_GRANT]).expiry

    def _derived(self, packed: bytes) -> _Known:
        """Raises BadPacket for a grant that no token of this cluster has."""
        grant = Grant.parse(packed)
        if grant.holder == NOBODY and grant.scope in self._policy.open_scopes:
            return self._known_of(grant, OPEN_KEY)
        key = self._keys.get(grant.epoch)
        if key is None or grant.holder == NOBODY:
            raise BadPacket("BAD_EPOCH", f"a token of epoch {grant.epoch}, holder {grant.holder:016x}")
        return self._known_of(grant, token_key(key, packed))

    def _known_of(self, grant: Grant, key: bytes) -> _Known:
        return _Known(key, int(grant.rights), grant.expiry, grant.scope, grant.holder in self._policy.revoked)

    def _remember(self, packed: bytes, known: _Known) -> None:
        """Only what was proven: strangers cannot fill it."""
        if packed not in self._known:
            # All at once: what is needed comes back with the next request of each client.
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[packed] = known

    @staticmethod
    def _refused(known: _Known, data: bytes, now: UnixTime) -> str:
        if known.expiry and known.expiry <= now:
            return "expired"
        if known.revoked:
            return "revoked"
        if not known.rights & _NEEDED[data[_OP]]:
            return "right"
        # The inner key is in the proof, so a client can show that its key lies in its scope without naming the
        # key's text.
        if known.scope and scoped_key(data[_INNER], known.scope) != data[_KEY]:
            return "scope"
        return ""


def _off_time(data: bytes, now: UnixTime) -> str:
    """A write's time is checked as its version, which may be ahead of the clock where the key's is."""
    seq = int.from_bytes(data[_SEQ], "big")
    if data[_OP] in _WRITING:
        # A version of 0 would be given by the coordinator, and then a copy of the datagram would be another
        # write.
        return "" if seq else "seq"
    return "seq" if abs(seq - micros(now)) > MAX_CLOCK_ERROR else ""


class Access:
    """One node's. `denied` and `would_deny` count by (WRITES or READS, reason): refused, and let through by `count`."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._lock = threading.Lock()
        self.denied: Counter[tuple[str, str]] = Counter()
        self.would_deny: Counter[tuple[str, str]] = Counter()
        self.set_policy(policy)

    def set_policy(self, policy: AccessPolicy) -> None:
        """From now on judge by this one."""
        # A new judge, not a changed one: a request that is being judged keeps its policy to the end.
        self._judge, self.policy = _Judge(policy), policy

    @property
    def asks_readers(self) -> bool:
        """Whether no read may be answered before `may_read` was asked."""
        return self.policy.reads != "open"

    @property
    def lets_all_write(self) -> bool:
        """Whether no write is asked for a proof."""
        return self.policy.writes == "open"

    def may_read(self, data: bytes, now: UnixTime) -> bool:
        """Whether this request is proven. One that is not goes to `refusal`, which counts it."""
        return not self._judge.reason(data, now)

    def refusal(self, kind: str, data: bytes, now: UnixTime) -> str:
        """Why this request is refused; empty if it is not. `kind`: WRITES or READS."""
        mode = self.policy.writes if kind == WRITES else self.policy.reads
        if mode == "open":
            return ""
        reason = self._judge.reason(data, now)
        if not reason:
            return ""
        with self._lock:
            (self.denied if mode == "token" else self.would_deny)[kind, reason] += 1
        return reason if mode == "token" else ""

    def reason(self, data: bytes, now: UnixTime) -> str:
        """Why this request has no proof that counts; empty if it has one. It is not counted, whatever the mode."""
        return self._judge.reason(data, now)

    def writer_of(self, data: bytes) -> bytes | None:
        """The holder of an accepted write's token, 8 bytes. None where anybody may write, or this one may without a token.

        Only a proof that was asked for counts: without a check anybody could write in another holder's name.
        """
        if self.policy.writes != "token" or not data[_FLAGS] & _PROVEN:
            return None
        holder = data[_HOLDER]
        return None if holder == _NOBODY else b"holder" + holder

    def may_watch_until(self, data: bytes) -> int:
        """When an accepted WATCH's lease has to end, Unix seconds; 0: when it likes."""
        return self._judge.expiry(data) if self.policy.reads == "token" else 0

    def may_go_on(self, data: bytes, now: UnixTime) -> bool:
        """Whether a lease that was taken with this WATCH may stand. Its time was checked then."""
        return self.policy.reads != "token" or not self._judge.reason(data, now, window=False)


def body_of(data: bytes) -> tuple[bytes, int | None]:
    """A request's body without its proof, and the proof's `seq`; None without one. Raises BadPacket."""
    if not data[_FLAGS] & _PROVEN:
        return data[_HEAD:], None
    if len(data) < _HEAD + PROOF.size:
        raise BadPacket("TRUNCATED", "a proof is longer than its body")
    return data[_HEAD : -PROOF.size], int.from_bytes(data[_SEQ], "big")
