"""The options of a client, checked: both clients take the same. No I/O and no clock."""

import os
import random

from kdht.client import _arguments as arguments
from kdht.client import _sockets as sockets
from kdht.client._arguments import Key
from kdht.client._calls import Call
from kdht.client._keyfiles import SealKey
from kdht.client._manifest import CHUNK_SIZE
from kdht.client._rights import rights_of
from kdht.client._seal import seal_of
from kdht.client._session import Session
from kdht.wire import _shared as shared
from kdht.wire.rights import Token


class ClientOptions:
    """As `Client` documents them. Raises ConfigError for an impossible limit or a bad token."""

    def __init__(
        self,
        timeout: float,
        attempts: int,
        *,
        direct: bool,
        spread_reads: bool,
        learn: bool,
        token: str | Token | None,
        scope: str | None,
        seal: SealKey | str | os.PathLike[str] | None,
    ) -> None:
        self._timeout, self._attempts = arguments.limits(timeout, attempts)
        self.direct = direct
        self._spread = spread_reads
        self._learn = learn
        self._rights = rights_of(token, scope)
        self._seal = seal_of(seal)

    @property
    def overhead(self) -> int:
        """Bytes that each value takes more than it has: for a token's proof and for a seal."""
        return self._rights.proof_size + self._seal.overhead

    @property
    def max_value(self) -> int:
        """Bytes that one `put` takes."""
        return shared.MAX_VALUE - self.overhead

    @property
    def chunk_size(self) -> int:
        """Bytes of a large value in one record."""
        return CHUNK_SIZE - self.overhead

    def key_of(self, name: Key) -> bytes:
        """The hash of a name, in the client's scope."""
        return self._rights.key_of(arguments.hash_of(arguments.name_of(name)))

    def fitted(self, call: Call) -> Call:
        """The call as it is sent. Raises ValueTooLarge or RequestError for one that cannot be."""
        return self._seal.fitted(call)

    def session(self, opened: sockets.Sockets) -> Session:
        """A session on these sockets."""
        return Session(
            len(opened),
            timeout=self._timeout,
            attempts=self._attempts,
            # Nobody must be able to guess request IDs.
            rng=random.SystemRandom(),
            unix_us=sockets.unix_us,
            rights=self._rights,
            node_name=opened.node_name,
            direct=self.direct,
            spread=self._spread,
            seal=self._seal,
            on_learnt=opened.place if self._learn else None,
        )
