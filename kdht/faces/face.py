"""The seam between the process of the faces and each face.

A face `NAME` is the package kdht/faces/NAME with a function `make(section, parts) -> Face`; `section` is its table of the
configuration. It does nothing before `start`. All of it runs in one event loop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from kdht.client import AsyncClient
from kdht.errors import BadToken, ConfigError
from kdht.faces.senders import SenderRights
from kdht.times import SteadyTime, UnixTime
from kdht.wire.rights import Token

KEY_LEN = 16
MAX_TOKEN_FILE = 4096


class Face(Protocol):
    """One server."""

    async def start(self) -> None:
        """Bind, and serve from now on. Raises ConfigError with advice if it cannot."""
        ...

    async def stop(self) -> None:
        """Serve no more, and close all. Called once, also after a failed start."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Events since the start, by name: requests by kind, refusals by reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceParts:
    """What every face is made of."""

    nodes: tuple[str, ...]
    """The addresses of the node beside the faces, for clients with a token of their own."""
    client: Callable[[str | None, str | None], AsyncClient]
    """A client of that node with this token's text, None for none, and this scope. The process closes it at the end."""
    cookie_keys: tuple[bytes, ...]
    """16 bytes each, the same on all nodes: `purpose_keys` makes a face's own from them."""
    rights: SenderRights
    """What each client may do, by its address. The faces apply it, because the node sees their own address alone."""
    unix: Callable[[], UnixTime]
    steady: Callable[[], SteadyTime]

    def purpose_keys(self, purpose: bytes) -> tuple[bytes, ...]:
        """Keys for one use (1 to 16 bytes), 16 bytes each. The first makes cookies, all are accepted."""
        return tuple(
            blake2b(b"", digest_size=KEY_LEN, key=key, person=purpose).digest() for key in self.cookie_keys
        )


def token_of(path: str | None, field: str) -> str | None:
    """The text of the token in a file; `field` is the one of the configuration that names it. Raises ConfigError."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_TOKEN_FILE).strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{field} is {path}: {why}: put the token there (kdhtctl token new)") from error
    try:
        Token.parse(text)
    except BadToken as error:
        raise ConfigError(f"{field} is {path}: {error}") from None
    return text
