"""The page for a browser, and the requests of its script: /api/status, /api/cluster, /api/reasons and /api/trace.

Contract: read-only. The policy in the headers keeps a browser from loading foreign resources. Unless
web.remote is set, only requests with a name of this machine are answered. So a foreign page with its
name pointed at 127.0.0.1 (DNS rebinding) reads nothing.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec
from msgspec.structs import asdict

from kdht.client import AsyncClient, Hop
from kdht.daemon.control.server import Method, answered
from kdht.daemon.pages.http import HttpRequest, Page, Response, is_local, refusal
from kdht.daemon.pages.metrics import ask, not_ready
from kdht.daemon.pages.recent import RecentEvents
from kdht.errors import KdhtError
from kdht.program.answers import Replicas, RoutingTable
from kdht.program.neighbours import Neighbours
from kdht.program.node_status import NodeStatus
from kdht.program.reasons import meaning
from kdht.wire import hash_key
from kdht.wire._shared import VERDICT_OF, Reason

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ring.js": ("ring.js", "text/javascript; charset=utf-8"),
    "/figures.js": ("figures.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
POLICY = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
JSON = "application/json"
SELF = ("node_id", "address", "version", "state", "uptime")
"""The page's fields of the status."""
MAX_KEY = 1024
"""Largest traced key, in bytes."""
# Each is a client of its own with a socket, and the page is for people.
MAX_TRACES = 4
"""At once."""
# Less than HttpServer's limit for the connection, so the caller gets this answer.
TRACE_SECONDS = 8.0
# Whoever clicked waits for it.
TRY_SECONDS = 2.0
SURVEY_SECONDS = 5.0
"""How old the neighbours' answers may be. So many pages ask no more of the cluster than one."""


def pages(
    methods: Mapping[str, Method], address: str, events: RecentEvents, *, any_name: bool
) -> dict[str, Page]:
    """Pages by path. `address`: the target of this node's UDP requests. `any_name`: accept any host name."""
    found: dict[str, Page] = {path: partial(_file, *what) for path, what in FILES.items()}
    found["/api/status"] = partial(_status, methods, events)
    found["/api/reasons"] = _reasons
    found["/api/cluster"] = Survey(methods).told
    found["/api/trace"] = Tracer(methods, address).trace
    return {path: partial(_guarded, page, any_name) for path, page in found.items()}


async def _guarded(page: Page, any_name: bool, request: HttpRequest) -> Response:
    if not (any_name or is_local(request.headers.get("host", ""))):
        return refusal(403, "ask for this machine by its numeric address, or as localhost")
    answer = await page(request)
    return answer._replace(headers=(*answer.headers, *POLICY))


async def _file(name: str, content_type: str, request: HttpRequest) -> Response:
    return Response((files("kdht.daemon.pages") / "page" / name).read_bytes(), content_type=content_type)


async def _reasons(request: HttpRequest) -> Response:
    return _json({reason.name: meaning(reason) for reason in Reason})


async def _status(methods: Mapping[str, Method], events: RecentEvents, request: HttpRequest) -> Response:
    status, running = await ask(methods)
    seen: dict[str, Any] = {
        "time": time.monotonic(),
        "self": {name: getattr(status, name) for name in SELF},
        "not_ready": not_ready(status),
        "warnings": [*status.warnings, *_no_writes(status)],
        "events": [event._asdict() for event in events.newest_first],
    }
    if running is not None:
        seen |= asdict(running.stats)
        seen["latency"] = asdict(running.latency)
        seen["verdicts"] = {reason.name: verdict.name for reason, verdict in VERDICT_OF.items()}
        seen["nodes"] = _nodes(status, running.table)
        repair = status.repair_state
        seen["behind"] = repair.behind if repair else 0
    return _json(seen)


def _no_writes(status: NodeStatus) -> list[str]:
    return [f"no writes: {status.not_writable}"] if status.ready and status.not_writable else []


def _nodes(status: NodeStatus, table: RoutingTable) -> list[dict[str, Any]]:
    """This node first, then its contacts, each with its share of the keys as far as this node can see."""
    found: list[dict[str, Any]] = [{"id": status.node_id, "address": status.address, "own": True}]
    for bucket in table.buckets:
        found += [{**asdict(contact), "own": False, "bucket": bucket.index} for contact in bucket.contacts]
    shares = key_shares([node["id"] for node in found])
    return [{**node, "share": shares[node["id"]]} for node in found]


def key_shares(ids: Sequence[str]) -> dict[str, float]:
    """Each ID's part of all keys: those closest to it by XOR distance. IDs are hex digits; no other nodes exist.

    The IDs are the leaves of a binary trie. At each branch, each side is closest to half of the branch's keys.
    """
    shares: dict[int, float] = {}
    _divide(sorted({int(each, 16) for each in ids}), 1.0, shares)
    return {each: shares[int(each, 16)] for each in ids}


def _divide(numbers: Sequence[int], share: float, shares: dict[int, float]) -> None:
    """Divide a share of the keys among rising numbers."""
    if len(numbers) == 1:
        shares[numbers[0]] = share
        return
    bit = (numbers[0] ^ numbers[-1]).bit_length() - 1
    # Above their first differing bit all are equal, so it is where the trie branches.
    middle = bisect_left(numbers, numbers[-1] >> bit << bit)
    _divide(numbers[:middle], share / 2, shares)
    _divide(numbers[middle:], share / 2, shares)


class Survey:
    """How each neighbour is, asked once for all who look at about the same time."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._turn = asyncio.Lock()
        self._asked_at = -SURVEY_SECONDS
        self._found = Neighbours([], 0)

    async def told(self, request: HttpRequest) -> Response:
        try:
            async with asyncio.timeout(TRACE_SECONDS), self._turn:
                if time.monotonic() - self._asked_at >= SURVEY_SECONDS:
                    self._found = await answered(self._methods, "neighbours", Neighbours)
                    self._asked_at = time.monotonic()
        except TimeoutError:
            return _json({"error": f"no answer within {TRACE_SECONDS:g} s"}, 504)
        except KdhtError as error:
            return _json({"error": str(error)}, 502)
        return Response(msgspec.json.encode(self._found), content_type=JSON)


class Tracer:
    """Traces keys through the node at `address`, like a client, and asks for their holders. A few at once."""

    def __init__(self, methods: Mapping[str, Method], address: str) -> None:
        self._methods = methods
        self._address = address
        self._under_way = 0

    async def trace(self, request: HttpRequest) -> Response:
        key = request.query.get("key", "")
        # In bytes, because the key is hashed as UTF-8.
        if not 0 < len(key.encode(errors="replace")) <= MAX_KEY:
            return _json({"error": f"a key has 1 to {MAX_KEY} bytes"}, 400)
        if self._under_way >= MAX_TRACES:
            return _json({"error": f"{MAX_TRACES} keys are traced already: try again"}, 503)
        self._under_way += 1
        try:
            async with asyncio.timeout(TRACE_SECONDS):
                return _json(await self._found(key))
        except TimeoutError:
            return _json({"error": f"no answer within {TRACE_SECONDS:g} s"}, 504)
        except KdhtError as error:
            return _json({"error": str(error)}, 502)
        finally:
            self._under_way -= 1

    async def _found(self, key: str) -> dict[str, Any]:
        # As a real client: the way through the datapath is what the page shows.
        async with AsyncClient(self._address, timeout=TRY_SECONDS) as client:
            path = await client.trace(key)
        id = hash_key(key).hex()
        held = await answered(self._methods, "replicas", Replicas, key=id)
        return {"key": key, "id": id, "hops": [_hop(hop) for hop in path], "replicas": held.replicas}


def _hop(hop: Hop) -> dict[str, Any]:
    contact = hop.contact
    return {
        "id": contact.id.hex() if contact else None,
        "address": str(contact.address) if contact else None,
        "rtt_ms": None if hop.rtt is None else hop.rtt * 1000,
        "owner": hop.owner,
    }


def _json(data: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(data, enc_hook=str), status, JSON)
