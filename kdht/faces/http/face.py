"""The HTTP face: its parts put together, and its start and end."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from kdht.client import AsyncClient
from kdht.config.faces_schema import HttpSection
from kdht.faces.face import FaceParts
from kdht.faces.http import members, values
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.clients import ClientPool
from kdht.faces.http.members import Members
from kdht.faces.http.server import HttpServer
from kdht.faces.http.service import Names, Origins, Route, Service
from kdht.faces.http.tls import Certificate
from kdht.faces.http.values import Values
from kdht.faces.rates import Rates


class HttpFace:
    """Serves /kv/NAME and /sets/NAME. Raises ConfigError for a certificate that cannot be used."""

    def __init__(self, section: HttpSection, parts: FaceParts) -> None:
        self._counts = Counter[str]()
        self._certificate = (
            Certificate(section.tls_certificate, section.tls_key)
            if section.tls_certificate and section.tls_key
            else None
        )
        # Callers bring their own tokens: "" keeps $KDHT_TOKEN of this process out.
        self._clients = ClientPool(lambda token, scope: AsyncClient(parts.nodes, token=token, scope=scope))
        service = Service(
            _routes(CallerMemory()),
            self._clients.client,
            rates=Rates(section.rate),
            may_write=parts.rights.may_write,
            steady=parts.steady,
            # Over TLS a foreign name has no certificate of this server.
            names=Names(("*",) if self._certificate else section.names),
            origins=Origins(section.cors),
            counts=self._counts,
        )
        self._server = HttpServer(
            section.listen,
            service.handle,
            parts.rights.may_read,
            self._counts,
            most=section.connections,
            most_of_one=section.connections_per_client,
            tls=self._certificate.context if self._certificate else None,
        )
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind, and serve from now on. Raises ConfigError."""
        await self._server.start()
        if self._certificate:
            self._following = asyncio.create_task(self._certificate.follow())

    async def stop(self) -> None:
        """End requests under way soon, then the clients."""
        if self._following:
            self._following.cancel()
            # That is the cancellation of the line before.
            with suppress(asyncio.CancelledError):
                await self._following
        await self._server.stop()
        await self._clients.close()

    def counters(self) -> Mapping[str, int]:
        """Requests by room and method, refusals by reason."""
        return self._counts


def make(section: HttpSection, parts: FaceParts) -> HttpFace:
    """As every face is made."""
    return HttpFace(section, parts)


def _routes(memory: CallerMemory) -> dict[str, Route]:
    kv, sets = Values(memory), Members(memory)
    return {
        "kv": Route({"GET": kv.get, "HEAD": kv.get, "PUT": kv.put, "DELETE": kv.delete}, values.PARAMETERS),
        "sets": Route(
            {"GET": sets.get, "HEAD": sets.get, "PUT": sets.put, "DELETE": sets.delete}, members.PARAMETERS
        ),
    }
