"""bench: a short load of puts and gets, with rates and latencies as this client sees them.

Every value read is compared with the value put. The keys begin with `kdhtctl-bench/` and a
random number, and are deleted at the end. Their TTL removes the leavings of an interrupted run.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import quantiles

import click
import msgspec

from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import emit, wide
from kdht.client import AsyncClient
from kdht.errors import Interrupted, RequestError
from kdht.wire._shared import MAX_VALUE

# Seconds: more than a run takes, and short enough that an interrupted run leaves nothing for long.
TTL = 900
Work = Callable[[int], Awaitable[None]]


class Phase(msgspec.Struct):
    """Requests of one kind."""

    op: str
    requests: int
    failed: int
    wrong: int
    seconds: float
    per_second: float
    ms: dict[str, float] | None
    """Percentiles; None without a sample."""


class Bench(msgspec.Struct):
    """`bench`."""

    nodes: list[str]
    direct: bool
    outstanding: int
    size: int
    phases: list[Phase]


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True,
              help="Seconds of puts, then as many of gets.")  # fmt: skip
@click.option("--outstanding", "-c", type=click.IntRange(1, 4096), default=32, show_default=True,
              help="Requests in flight.")  # fmt: skip
@click.option(
    "--size", type=click.IntRange(0, MAX_VALUE), default=100, show_default=True, help="Bytes of a value."
)
@click.option(
    "--keys",
    type=click.IntRange(1, 10_000_000),
    default=1000,
    show_default=True,
    help="Most values to put; gets read them in turn.",
)
@click.option("--direct", is_flag=True,
              help="Let the node that has the value answer gets itself. Needs no NAT in between.")  # fmt: skip
@wide
@asks_nodes
def bench(
    seconds: float,
    outstanding: int,
    size: int,
    keys: int,
    direct: bool,
    wide: bool,
    target: Target,
    as_json: bool,
) -> None:
    """Put and get values, and show requests a second and latencies.

    The result includes this client: Python, one process. Exits with 6 if a request failed or a value was wrong.
    """
    load = _Load(target, direct, outstanding, size, keys)
    try:
        data = asyncio.run(load.run(seconds))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: what it stored expires within {TTL // 60} minutes") from None
    emit(data, as_json, "bench.bench", wide=wide)
    failed = sum(phase.failed + phase.wrong for phase in data.phases)
    if failed:
        raise RequestError(
            f"{failed} requests failed or returned a wrong value; the first: {load.first_error}"
        )


class _Load:
    def __init__(self, target: Target, direct: bool, outstanding: int, size: int, keys: int) -> None:
        self._target = target
        self._direct = direct
        self._outstanding = outstanding
        self._keys = [f"kdhtctl-bench/{secrets.token_hex(4)}/{number}" for number in range(keys)]
        self._size = size
        self._values: dict[str, bytes] = {}
        self._wrong = 0
        self.first_error = ""

    async def run(self, seconds: float) -> Bench:
        """Puts, gets of the same keys, and deletes."""
        target = self._target
        async with target.async_client(direct=self._direct) as client:

            async def put(number: int) -> None:
                key = self._keys[number % len(self._keys)]
                value = secrets.token_bytes(self._size)
                await client.put(key, value, TTL)
                self._values[key] = value

            async def get(number: int) -> None:
                key = known[number % len(known)]
                if await client.get(key) != self._values[key]:
                    self._wrong += 1
                    self.first_error = self.first_error or f"get {key!r}: not the value that was put"

            phases = [await self._phase("put", put, seconds, len(self._keys))]
            known = list(self._values)
            if known:
                phases.append(await self._phase("get", get, seconds, None))
            await _delete_all(client, self._keys[: phases[0].requests], self._outstanding)
        return Bench(target.nodes, self._direct, self._outstanding, self._size, phases)

    async def _phase(self, name: str, work: Work, seconds: float, most: int | None) -> Phase:
        """Call `work` with rising numbers until the time is over, `most` times at most."""
        taken: list[float] = []
        failed = number = 0
        started = time.perf_counter()
        end = started + seconds

        async def worker() -> None:
            nonlocal failed, number
            while time.perf_counter() < end and (most is None or number < most):
                mine, number = number, number + 1
                began = time.perf_counter()
                try:
                    await work(mine)
                except RequestError as error:
                    failed += 1
                    self.first_error = self.first_error or str(error)
                else:
                    taken.append(time.perf_counter() - began)

        wrong = self._wrong
        await asyncio.gather(*(worker() for _ in range(self._outstanding)))
        elapsed = time.perf_counter() - started
        return Phase(
            op=name,
            requests=number,
            failed=failed,
            wrong=self._wrong - wrong,
            seconds=elapsed,
            per_second=len(taken) / elapsed,
            ms=latencies(taken),
        )


def latencies(seconds: list[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds; None without a sample."""
    if not seconds:
        return None
    points = quantiles(seconds, n=1000, method="inclusive") if len(seconds) > 1 else seconds * 999
    named = {
        "p50": points[499],
        "p90": points[899],
        "p99": points[989],
        "p99.9": points[998],
        "max": max(seconds),
    }
    return {name: value * 1000 for name, value in named.items()}


async def _delete_all(client: AsyncClient, keys: list[str], window: int) -> None:
    left = iter(keys)

    async def worker() -> None:
        for key in left:
            with suppress(RequestError):  # its TTL will take it
                await client.delete(key)

    await asyncio.gather(*(worker() for _ in range(window)))
