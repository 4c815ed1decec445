"""One call of a method, by the blocking client and by the asyncio one, which have to behave alike."""

import asyncio
from collections.abc import Mapping
from typing import Any

from kdht import AsyncClient, Client


def blocking(
    name: str, method: str, *args: Any, client_options: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    with Client(name, **{"timeout": 1.0, **(client_options or {})}) as client:
        return getattr(client, method)(*args, **options)


def in_a_loop(
    name: str, method: str, *args: Any, client_options: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    async def run() -> Any:
        async with AsyncClient(name, **{"timeout": 1.0, **(client_options or {})}) as client:
            return await getattr(client, method)(*args, **options)

    return asyncio.run(run())


BOTH = {"Client": blocking, "AsyncClient": in_a_loop}
