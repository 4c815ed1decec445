"""Watches as server-sent events (HTML standard, section 9.2).

The stream outlives nodes: when none answers, it says nothing but its heartbeat, and goes on later.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple, TypeVar

from kdht.errors import KdhtError, RequestTimeout
from kdht.faces.http.answers import EVENTS, NO_STORE, Answer, Refused, refused
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.connection import Request
from kdht.faces.http.target import Target

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""Proxies close connections on which nothing was said for a minute."""
# A watch whose node is gone begins again elsewhere. Without a pause a broken cluster would be asked in a
# tight loop.
RESTART_SECONDS = 1.0
HEARTBEAT = b":\n\n"

T = TypeVar("T")


class Event(NamedTuple):
    """`id` names the state: equal ones are told once. `data` has no line's end."""

    id: str
    data: bytes

    def pack(self) -> bytes:
        return f"id: {self.id}\ndata: ".encode() + self.data + b"\n\n"


async def watch(
    begin: Callable[[], AsyncGenerator[T, None]],
    event_of: Callable[[T], Event],
    request: Request,
    target: Target,
    memory: CallerMemory,
) -> Answer:
    """The answer to a GET that watches. Raises Refused for what no watch takes, and KdhtError if the first state is not to be had."""
    target.only("scope", "watch")
    if request.method == "HEAD":
        raise refused(400, "bad_target", "a watch is a GET")
    return await answer(stream(begin, event_of, request.headers.get("last-event-id", ""), memory))


async def stream(
    watch: Callable[[], AsyncGenerator[T, None]],
    event_of: Callable[[T], Event],
    known: str,
    memory: CallerMemory,
) -> AsyncGenerator[bytes, None]:
    """The events of a watch, without end; the first state only as a heartbeat if the caller knows it by its ID.

    Raises KdhtError and Refused before its first part only. Later it ends.
    """
    told, has_begun = known, False
    while True:
        try:
            async with aclosing(watch()) as states, aclosing(_events(states, event_of)) as events:
                async for event in events:
                    is_news = event is not None and event.id != told
                    # After a new beginning the watch tells a known state again.
                    if event is not None and not is_news and has_begun:
                        continue
                    said = event.pack() if event is not None and is_news else HEARTBEAT
                    with memory.taken(len(said)):
                        has_begun = True
                        yield said
                    told = event.id if event is not None else told
        except (KdhtError, Refused) as error:
            if not has_begun:
                raise
            if not isinstance(error, RequestTimeout):
                log.info("a watch ended", extra={"error": error})
                return
        await asyncio.sleep(RESTART_SECONDS)
        yield HEARTBEAT


async def _events(
    states: AsyncGenerator[T, None], event_of: Callable[[T], Event]
) -> AsyncGenerator[Event | None, None]:
    """The events, and None where there was none for a while."""
    while True:
        pending = asyncio.ensure_future(anext(states))
        try:
            while not (await asyncio.wait({pending}, timeout=HEARTBEAT_SECONDS))[0]:
                yield None
            event = event_of(pending.result())
        except StopAsyncIteration:
            # The watch has ended, and so does the stream of events.
            return
        finally:
            if not pending.done():
                pending.cancel()
                # Cancelled just now. Its errors interest nobody any more.
                with suppress(asyncio.CancelledError, KdhtError):
                    await pending
        yield event


async def answer(told: AsyncGenerator[bytes, None]) -> Answer:
    """The answer with these events. Raises what the first one raises, so that an error can still be told."""
    try:
        first = await anext(told)
    except BaseException:
        await told.aclose()
        raise
    return Answer(200, (("Content-Type", EVENTS), NO_STORE), first, told)
