"""/sets/NAME: the members of a set. GET, HEAD, PUT and DELETE of one member, and a watch with ?watch."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

from kdht.client import AsyncClient, Member
from kdht.faces.http import events
from kdht.faces.http.answers import JSON, NO_STORE, Answer, encoded, of_json, problem, refused
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.connection import Request
from kdht.faces.http.events import Event
from kdht.faces.http.fields import payload_members, small_body, ttl_of
from kdht.faces.http.target import MAX_NAME, Target
from kdht.wire.sets import MAX_MEMBER_TTL, MAX_PAYLOAD

PARAMETERS = ("member", "payload", "quorum", "sample", "watch")
# Seconds, as kdht.Client has it.
DEFAULT_TTL = 30
READS_AT_ONCE = 8
"""Sets whose members are being read. The size of a set is known at its end only. Until then this is the bound."""
AT_ONCE = 512
"""Members that are written as JSON at once."""
MEMBER_BYTES = 256
"""What a member takes in memory, beside its payload."""
ID_BYTES = 8


class Members:
    """The handlers. `memory` bounds the memory of answers that wait to be sent."""

    def __init__(self, memory: CallerMemory) -> None:
        self._memory = memory
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    async def get(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        if target.flag("watch"):
            return await self._watch(client, request, target)
        target.only("scope", "quorum", "sample", "watch")
        async with self._reads:
            members = await client.members(
                target.name, quorum=target.flag("quorum"), sample=target.flag("sample")
            )
        headers = (("Content-Type", JSON), NO_STORE)
        if len(members) <= AT_ONCE:
            return Answer(200, headers, b"".join(_pieces(members)))
        # Written twice: the bytes of a large set would take more memory than its members do.
        length = sum(map(len, _pieces(members)))
        if request.method == "HEAD":
            return Answer(200, headers, length=length)
        rest = self._sent(members)
        return Answer(200, headers, await anext(rest), rest, length)

    async def _sent(self, members: Sequence[Member]) -> AsyncGenerator[bytes, None]:
        with self._memory.taken(_size(members)):
            for piece in _pieces(members):
                yield piece

    async def put(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        target.only("scope", "member")
        member = target.text("member", MAX_NAME)
        ttl = ttl_of(request.headers, MAX_MEMBER_TTL) or DEFAULT_TTL
        payload = await small_body(request, MAX_PAYLOAD)
        version = await client.announce_once(target.name, payload, ttl, member=member)
        return of_json({"version": str(version), "ttl": ttl})

    async def delete(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        target.only("scope", "member", "payload")
        member, payload = target.text("member", MAX_NAME), target.text("payload", MAX_PAYLOAD)
        if (member is None) == (payload is None):
            raise refused(400, "which_member", "say who leaves: ?member=NAME or ?payload=TEXT", done="no")
        existed = await client.withdraw(target.name, (payload or "").encode(), member=member)
        return Answer(204) if existed else problem(404, "not_found", f"{target.name!r} has no such member")

    async def _watch(self, client: AsyncClient, request: Request, target: Target) -> Answer:
        return await events.watch(
            partial(client.watch_members, target.name), _event, request, target, self._memory
        )


def _size(members: Sequence[Member]) -> int:
    return sum(len(member.payload) + MEMBER_BYTES for member in members)


def _object(member: Member) -> dict[str, Any]:
    return {
        "id": f"{member.id:016x}",
        "ttl": member.ttl,
        **payload_members("payload", member.payload),
    }


def _pieces(members: Sequence[Member]) -> Iterator[bytes]:
    """The JSON of all members, cut: of a large set it is longer than the members are."""
    yield b'{"members":['
    for start in range(0, len(members), AT_ONCE):
        piece = encoded([_object(member) for member in members[start : start + AT_ONCE]])
        yield (b"," if start else b"") + piece.strip()[1:-1]
    yield b"]}\n"


def _event(members: list[Member]) -> Event:
    state = blake2b(digest_size=ID_BYTES)
    for member in members:
        # Not the TTL: it changes all the time.
        state.update(member.id.to_bytes(ID_BYTES, "big") + len(member.payload).to_bytes(2, "big"))
        state.update(member.payload)
    return Event(state.hexdigest(), b"".join(_pieces(members)).strip())
