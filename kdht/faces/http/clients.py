"""Clients of the node, one for each token and scope that callers use. Bounded: the one used longest ago is closed.

Use it in one event loop.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kdht.client import AsyncClient
from kdht.faces.http.answers import SOON, refused

MAX_CLIENTS = 64
"""Each has a socket and learns the cluster's nodes anew."""

MakeClient = Callable[[str, str | None], AsyncClient]


class ClientPool:
    """`make` makes a client of a token's text, empty for none, and a scope. It raises BadToken."""

    def __init__(self, make: MakeClient, most: int = MAX_CLIENTS) -> None:
        self._make = make
        self._most = most
        self._clients: OrderedDict[tuple[str, str | None], AsyncClient] = OrderedDict()
        """The one used longest ago first."""
        self._users: dict[tuple[str, str | None], int] = {}

    @asynccontextmanager
    async def client(self, token: str, scope: str | None) -> AsyncIterator[AsyncClient]:
        """One that stays open in the block. Raises BadToken, and Refused if all are in use."""
        name = (token, scope)
        found = self._clients.get(name)
        if found is None:
            await self._make_room()
            # Another caller may have made it meanwhile.
            found = self._clients.get(name) or self._make(token, scope)
        self._clients[name] = found
        self._clients.move_to_end(name)
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield found
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    async def close(self) -> None:
        """Close all. Their requests under way fail."""
        while self._clients:
            await self._clients.popitem()[1].close()

    async def _make_room(self) -> None:
        while len(self._clients) >= self._most:
            unused = next((name for name in self._clients if name not in self._users), None)
            if unused is None:
                raise refused(503, "too_many_tokens", "too many tokens are in use at once", (SOON,))
            await self._clients.pop(unused).close()
