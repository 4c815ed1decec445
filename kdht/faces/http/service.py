"""What requests mean: finds the handler of a path and a method, the caller's client, and turns errors into answers."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from importlib.resources import files
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from kdht.client import AsyncClient
from kdht.errors import BadArgument, KdhtError
from kdht.faces.http import target as targets
from kdht.faces.http.answers import (
    CHALLENGE,
    JSON,
    NO_STORE,
    SOON,
    Answer,
    Refused,
    of_error,
    problem,
    refused,
)
from kdht.faces.http.connection import Request
from kdht.faces.http.target import Target
from kdht.faces.rates import Rates
from kdht.times import SteadyTime

EXPOSED = "ETag, TTL, Content-Range, Retry-After"
ASKED_FOR = "Authorization, If-Match, If-None-Match, If-Range, Range, TTL, Last-Event-ID, Content-Type"
PREFLIGHT_SECONDS = "600"
MAX_SCOPE = 64
MAX_HOSTS = 32
"""Host headers that are remembered. Clients send the same few."""
"""Bytes of a scope's name."""

Handler = Callable[[AsyncClient, Request, Target], Awaitable[Answer]]
ClientOf = Callable[[str, str | None], AbstractAsyncContextManager[AsyncClient]]


class Names:
    """Which Host headers are answered: addresses, localhost, this host's name, and those given.

    A web page elsewhere can point a name of its own at this server (DNS rebinding). The browser would then take answers for the page's own.
    """

    def __init__(self, given: Collection[str]) -> None:
        self._any = "*" in given
        self._names = {name.lower().rstrip(".") for name in (*given, "localhost", socket.gethostname())}
        self.allow = lru_cache(MAX_HOSTS)(self._allow)
        """Whether a Host header is one of these."""

    def _allow(self, host: str) -> bool:
        if self._any:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            return name in self._names or ip_address(name) is not None
        except ValueError:
            # Not a host name at all.
            return False


class Origins:
    """The web pages that may read answers (CORS); none by default."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    def headers(self, request: Request) -> tuple[tuple[str, str], ...]:
        """What an answer has to say to this request's origin."""
        if not self._allowed:
            return ()
        # Else a cache could give the answer for one page to another page.
        vary = (("Vary", "Origin"),)
        origin = request.headers.get("origin")
        if origin is None or not (self._any or origin in self._allowed):
            return vary
        return (("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", EXPOSED), *vary)

    def preflight(self, request: Request, methods: str) -> Answer | None:
        """The answer to a browser's question; None if this is none, or not for this origin."""
        # One header is Vary alone: this origin may read nothing.
        if "access-control-request-method" not in request.headers or len(self.headers(request)) < 2:
            return None
        asked = (("Access-Control-Allow-Methods", methods), ("Access-Control-Allow-Headers", ASKED_FOR))
        return Answer(204, (*asked, ("Access-Control-Max-Age", PREFLIGHT_SECONDS)))


class Route(NamedTuple):
    """The handlers of a room by method, and the parameters that they know beside `scope`."""

    handlers: Mapping[str, Handler]
    parameters: tuple[str, ...]


class Service:
    """Answers requests. `rates` are those of clients; `routes` by the first segment of the path.

    `may_write` says whether the client at 16 bytes of address may change anything.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        client_of: ClientOf,
        *,
        rates: Rates,
        may_write: Callable[[bytes], bool],
        steady: Callable[[], SteadyTime],
        names: Names,
        origins: Origins,
        counts: Counter[str],
    ) -> None:
        self._routes = routes
        self._client_of = client_of
        self._rates, self._steady = rates, steady
        self._may_write = may_write
        self._names, self._origins = names, origins
        self._counts = counts

    async def handle(self, request: Request) -> Answer:
        """The answer to any request. Raises what `request.body` raises."""
        try:
            answer = await self._answer(request)
        except Refused as refusal:
            self._counts[refusal.reason] += 1
            answer = refusal.answer
        more = self._origins.headers(request)
        return answer._replace(headers=(*answer.headers, *more)) if more else answer

    async def _answer(self, request: Request) -> Answer:
        # First of all: what is too much must cost little.
        if not self._rates.allows(request.ip, self._steady()):
            raise refused(429, "too_fast", "too many requests from your address", (SOON,))
        host = request.headers.get("host", "")
        if not self._names.allow(host):
            raise refused(421, "unknown_host", f"{host!r} is not a name of this server: see http.names")
        target = targets.parse(request.target)
        if (target.room, target.name) == ("openapi.json", ""):
            return self._description(request)
        route = self._routes.get(target.room)
        if route is None:
            there_are = " and ".join(f"/{room}/NAME" for room in self._routes)
            raise refused(404, "no_such_path", f"there are {there_are}, and /openapi.json")
        return await self._routed(route, request, target)

    async def _routed(self, route: Route, request: Request, target: Target) -> Answer:
        methods = ", ".join(route.handlers)
        handler = route.handlers.get(request.method)
        if handler is None:
            found = self._origins.preflight(request, methods) if request.method == "OPTIONS" else None
            return found or _wrong_method(methods)
        target.only("scope", *route.parameters)
        token = _token(request.headers)
        scope = target.text("scope", MAX_SCOPE) or None
        is_write = request.method in ("PUT", "DELETE")
        if is_write and not self._may_write(request.ip):
            raise refused(403, "reads_only", "your address may read only: see access.write_from", done="no")
        self._counts[f"{target.room}_{request.method.lower()}"] += 1
        try:
            async with self._client_of(token, scope) as client:
                return await handler(client, request, target)
        except BadArgument as error:
            raise refused(400, "bad_argument", str(error)) from None
        except KdhtError as error:
            answer = of_error(error, has_token=bool(token), is_write=is_write)
            self._counts[f"answered_{answer.status}"] += 1
            return answer

    def _description(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return _wrong_method("GET, HEAD")
        content = files("kdht.faces.http").joinpath("openapi.json").read_bytes()
        return Answer(200, (("Content-Type", JSON), NO_STORE), content)


def _wrong_method(methods: str) -> Answer:
    return problem(405, "wrong_method", f"there are {methods} here", (("Allow", methods),))


def _token(headers: Mapping[str, str]) -> str:
    """The token's text; empty for none."""
    given = headers.get("authorization")
    if given is None:
        return ""
    scheme, _, token = given.partition(" ")
    token = token.strip()
    # "@FILE" would name a file of this host to the client's class.
    if scheme.lower() != "bearer" or not token or token.startswith("@"):
        raise refused(401, "bad_token", "the header is Authorization: Bearer TOKEN", (CHALLENGE,))
    return token
