"""A client's work on a cluster: so many requests at once, and how long each took."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from kdht import AsyncClient
from kdht.errors import RequestError

VALUE_BYTES = 100
WINDOW = 64


class Outcome(NamedTuple):
    """The outcomes of some requests."""

    seconds: list[float]
    """Each successful one's time."""
    failed: dict[str, str]
    """The others' keys, and why."""
    wrong: list[str]
    """Keys with a wrong value."""


def value_of(key: str) -> bytes:
    return (hashlib.blake2b(key.encode()).digest() * 2)[:VALUE_BYTES]


def names(count: int, prefix: str = "key") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


async def fill(client: AsyncClient, keys: Iterable[str], window: int = WINDOW) -> None:
    """Store every key's value; raises the first failure."""
    await client.put_many({key: value_of(key) for key in keys}, window=window)


async def gets(client: AsyncClient, keys: Sequence[str], outstanding: int) -> Outcome:
    """Get every key once."""
    return await _each(lambda key: _get(client, key), keys, outstanding)


async def puts(client: AsyncClient, keys: Sequence[str], outstanding: int) -> Outcome:
    """Put every key once."""
    return await _each(lambda key: _put(client, key), keys, outstanding)


async def _get(client: AsyncClient, key: str) -> bool:
    return await client.get(key) == value_of(key)


async def _put(client: AsyncClient, key: str) -> bool:
    await client.put(key, value_of(key))
    return True


async def _each(request: Callable[[str], Awaitable[bool]], keys: Sequence[str], outstanding: int) -> Outcome:
    outcome = Outcome([], {}, [])
    waiting = iter(keys)

    async def worker() -> None:
        for key in waiting:
            began = time.perf_counter()
            try:
                right = await request(key)
            except RequestError as error:
                outcome.failed[key] = repr(error)
                continue
            outcome.seconds.append(time.perf_counter() - began)
            if not right:
                outcome.wrong.append(key)

    await asyncio.gather(*(worker() for _ in range(outstanding)))
    return outcome
