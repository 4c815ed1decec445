"""Many requests at once over a long list, in an order that can be taken up again.

Contract: `work` is done on each thing, `window` at a time. `on_prefix(n)` is called whenever the
first n things are all done, with growing n. The first failure ends all, and work under way is
given up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def for_each(
    things: Iterable[T],
    work: Callable[[int, T], Awaitable[None]],
    *,
    window: int,
    on_prefix: Callable[[int], None],
) -> None:
    """Do `work(index, thing)` for all. Raises the first error of `work`."""
    # One iterator for all workers: whoever is free takes the next thing.
    left = enumerate(things)
    # Those done out of turn: at most as many as are under way, so nothing grows with the list.
    beyond: set[int] = set()
    prefix = 0

    async def worker() -> None:
        nonlocal prefix
        for index, thing in left:
            await work(index, thing)
            beyond.add(index)
            if index == prefix:
                while prefix in beyond:
                    beyond.remove(prefix)
                    prefix += 1
                on_prefix(prefix)

    workers = [asyncio.create_task(worker()) for _ in range(window)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
